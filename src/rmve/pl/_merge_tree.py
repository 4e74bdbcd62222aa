"""How components merge into clusters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullLocator

from rmve._keys import DEFAULT_KEY, Written
from rmve.clusters.levels import MIN_CONFUSION
from rmve.pl._colors import GREY, cluster_colors
from rmve.pl._components import row_names
from rmve.pl._docs import documented
from rmve.pl._figure import CUT, despine, finish, new_axes, require
from rmve.pl._names import plain

#: Smallest confusion that the figure shows.
MIN_SHOWN = 0.01
#: Height of the panel of confusions, and its distance from the tree, in inches.
PANEL, GAP = 0.9, 0.12
#: Colour of branches above the clusters in use.
DARK = "0.25"


@documented
def merge_tree(
    adata: AnnData,
    key: str = DEFAULT_KEY,
    recommended: int | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes:
    """How the components in use merge, one pair at a time, down to one cluster.

    Parameters
    ----------
    %(annotated)s
    recommended
        Number of clusters to mark as recommended, for example :attr:`rmve.Stability.recommended`; ``None`` is that of
        the run itself, the default level.
    ax
        Axes to draw on; ``None`` makes a figure. The confusions are drawn on axes inset below it.
    %(show)s

    Returns
    -------
    The axes with the tree: a row for each component, named by its cluster, with its cells and a dot whose area is
    their number; to the right ever fewer clusters, so that a vertical line is a cut. Branches have the colours of the
    clusters in use where they lie within one. Below, the confusion of the merge that leads to each number of clusters:
    1 for one population, 0 for clusters that share no cell.

    Raises
    ------
    %(missing)s
    ValueError
        If ``recommended`` is not a number of clusters of the tree.

    Notes
    -----
    The numbers are those of the training data, also after ``annotate`` on other cells.
    """
    names = Written(key)
    results = require(adata.uns, "uns", names.uns, key)
    where = f"uns[{names.uns!r}]"
    table, cuts = (require(results, where, name, key) for name in ("components", "resolutions"))
    require(adata.obs, "obs", names.cluster, key)
    numbers = cuts["n_clusters"].to_numpy()
    if recommended is None:
        recommended = int(numbers[cuts["recommended"].to_numpy(dtype=bool)][0])
    elif recommended not in numbers:
        raise ValueError(f"`recommended={recommended}` is not a number of clusters from 1 to {numbers.max()}.")
    in_use = numbers[cuts["in_use"].to_numpy(dtype=bool)]
    colors = cluster_colors(adata, names.cluster)

    used = table[table["active"].astype(bool)]
    order = leaf_order(used.index.astype(int), cuts)
    used = used.loc[[str(k) for k in order]]
    clusters = used["cluster"].astype(str)
    n_used = len(used)
    axes = new_axes(ax, (6.4, 2.4 + 0.27 * n_used))
    for x, y, cluster in _brackets(order, clusters.tolist(), cuts):
        axes.plot(x, y, color=DARK if cluster is None else colors.get(cluster, GREY), linewidth=1.6, zorder=2)
    share = used["n_cells"].to_numpy(dtype=float) / used["n_cells"].max()
    dots = [colors.get(cluster, GREY) for cluster in clusters]
    axes.scatter(np.full(n_used, n_used), np.arange(n_used), s=8 + 90 * share, c=dots, zorder=3, clip_on=False)
    for number, label, style in _marks(in_use, recommended):
        axes.axvline(number - 0.5, label=label, **style)
    cells = [f"{n:,}" for n in used["n_cells"]]
    for row, text in enumerate(cells):
        place: dict[str, Any] = {"xy": (0, row), "xycoords": axes.get_yaxis_transform(), "textcoords": "offset points"}
        axes.annotate(text, xytext=(-4, 0), ha="right", va="center_baseline", fontsize=8, color="0.4", **place)
    axes.set(yticks=np.arange(n_used), yticklabels=row_names(clusters), ylim=(n_used - 0.4, -0.6))
    axes.set(
        ylabel=f"{plain(names.cluster)} (component), training cells", xlim=(n_used + 0.4, 0.3), xlabel="clusters left"
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10, min_n_ticks=1))
    axes.tick_params(axis="y", length=0, pad=14 + 5 * max(map(len, cells)), labelsize=8)
    axes.legend(frameon=False, fontsize=8, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    despine(axes, "top", "right", "left")
    if n_used > 1:
        _draw_confusion(axes, cuts, _marks(in_use, recommended))
    return finish(axes, ax, show, save)


def leaf_order(components: np.ndarray, cuts: pd.DataFrame) -> list[int]:
    """Order of the components in which no branches of the tree cross.

    Parameters
    ----------
    components
        Numbers of the components in use.
    cuts
        From :meth:`rmve.RMVE.get_resolutions`.
    """
    groups = {k: [k] for k in components}
    for kept, merged in zip(cuts["kept"].iloc[1:], cuts["merged"].iloc[1:], strict=True):
        groups[kept] += groups.pop(merged)
    return [k for group in groups.values() for k in group]


def _brackets(order: list[int], clusters: list[str], cuts: pd.DataFrame) -> list[tuple]:
    """Lines of the tree: for each merge its x and y values, and the cluster that it lies within, if any."""
    nodes: dict[int, tuple[int, float, set[str]]] = {
        k: (len(order), row, {clusters[row]}) for row, k in enumerate(order)
    }
    lines = []
    for _, cut in cuts.iloc[1:].iterrows():
        x = cut["n_clusters"]
        pair = [nodes[int(cut["kept"])], nodes.pop(int(cut["merged"]))]
        within = pair[0][2] | pair[1][2]
        for start, y, names in pair:
            lines.append(([start, x], [y, y], next(iter(names)) if len(names) == 1 else None))
        (_, low, _), (_, high, _) = pair
        lines.append(([x, x], [low, high], next(iter(within)) if len(within) == 1 else None))
        nodes[int(cut["kept"])] = (x, (low + high) / 2, within)
    for x, y, within in nodes.values():  # the stem
        lines.append(([x, 0.5], [y, y], next(iter(within)) if len(within) == 1 else None))
    return lines


def _marks(in_use: np.ndarray, recommended: int) -> list[tuple[int, str, dict]]:
    """Cuts to mark: their number of clusters, what they are, and how they are drawn."""
    solid = {"color": "black", "linestyle": "-", "linewidth": 1.2, "zorder": 1}
    dashed = {**CUT, "zorder": 1}
    if recommended in in_use:
        return [(recommended, f"in use and recommended: {recommended}", dashed)]
    marks = [(int(number), f"in use: {number}", solid) for number in in_use]
    return [*marks, (recommended, f"recommended: {recommended}", dashed)]


def _draw_confusion(axes: Axes, cuts: pd.DataFrame, marks: list[tuple[int, str, dict]]) -> None:
    """Confusion of the merge to each number of clusters, on axes of their own below the tree."""
    height = axes.get_window_extent().height / axes.figure.dpi
    share, gap = PANEL / height, GAP / height
    below = axes.inset_axes((0, -share - gap, 1, share), sharex=axes)
    numbers = cuts["n_clusters"].iloc[1:].to_numpy()
    confusion = np.maximum(cuts["confusion"].iloc[1:].to_numpy(dtype=float), MIN_SHOWN)
    shades = np.where(confusion >= MIN_CONFUSION, DARK, GREY)
    below.vlines(numbers, MIN_SHOWN, confusion, colors=shades.tolist(), linewidth=1.6)
    below.scatter(numbers, confusion, c=shades, s=18, zorder=3, clip_on=False)
    below.axhline(MIN_CONFUSION, color="0.6", linewidth=0.8, linestyle=":", zorder=0)
    for number, _, style in marks:
        below.axvline(number - 0.5, **style)
    below.set(yscale="log", ylim=(MIN_SHOWN, 1.6 * max(confusion.max(), 1)), ylabel="confusion", xlabel="clusters left")
    ticks = {MIN_SHOWN: f"≤ {MIN_SHOWN:g}", MIN_CONFUSION: f"{MIN_CONFUSION:g}", 1.0: "1"}
    below.set_yticks(list(ticks), list(ticks.values()))
    below.yaxis.set_minor_locator(NullLocator())
    below.tick_params(axis="y", labelsize=8)
    despine(below, "top", "right")
    axes.set_xlabel("")
    axes.tick_params(axis="x", length=0, labelbottom=False)
    despine(axes, "bottom")
