"""The mixture's components."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes

from rmve._keys import DEFAULT_KEY, Written
from rmve.pl._colors import cluster_colors
from rmve.pl._docs import documented
from rmve.pl._figure import despine, finish, new_axes, require, row_names


@documented
def components(
    adata: AnnData,
    key: str = DEFAULT_KEY,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Cells of each component in use, and its distance from the nearest other one.

    Parameters
    ----------
    %(annotated)s
    ax
        Axes to draw on; ``None`` makes a figure. The distances are drawn on axes inset to its right.
    %(show)s

    Returns
    -------
    The axes with the numbers of cells.

    Raises
    ------
    %(missing)s

    Notes
    -----
    The numbers are those of the training data, also after ``annotate`` on other cells. A cluster made of several
    components has a row for each. The distance is Bhattacharyya's, in nats: at a distance ``D``, two components of
    equal weight share at most ``exp(-D)`` of their mass.
    """
    names = Written(key)
    table = require(require(adata.uns, "uns", names.uns, key), f"uns[{names.uns!r}]", "components", key)
    require(adata.obs, "obs", names.cluster, key)
    colors = cluster_colors(adata, names.cluster)

    used = table[table["active"].astype(bool)].sort_values("n_cells", ascending=False, kind="stable")
    clusters = used["cluster"].astype(str)
    rows = np.arange(len(used))
    bar_colors = [colors.get(cluster, "0.6") for cluster in clusters]
    axes = new_axes(ax, (6.0, 1.2 + 0.3 * len(used)))
    axes.barh(rows, used["n_cells"], color=bar_colors, height=0.7)
    for row, n_cells in zip(rows, used["n_cells"], strict=True):
        axes.annotate(f"{n_cells:,}", (n_cells, row), (3, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set(yticks=rows, yticklabels=row_names(clusters), ylim=(len(used) - 0.4, -0.6), ylabel="cluster")
    axes.set(xlabel="training cells", title=f"{len(used)} of {len(table)} components in use")
    axes.margins(x=0.15)
    axes.tick_params(left=False)
    despine(axes, "top", "right")

    if np.isfinite(used["separation"]).any():  # a component alone has no distance
        _draw_separation(axes, used, bar_colors)
    return finish(axes, ax, show, save)


def _draw_separation(axes: Axes, used: pd.DataFrame, colors: list[str]) -> None:
    """Distances on axes of their own, right of the bars."""
    beside = axes.inset_axes((1.06, 0.0, 0.7, 1.0), sharey=axes)
    names = dict(zip(used.index, row_names(used["cluster"].astype(str)), strict=True))
    distance = used["separation"].to_numpy(dtype=float)
    near = np.flatnonzero(np.isfinite(distance))
    beside.hlines(near, 0, distance[near], color="0.8", linewidth=1.2)
    beside.scatter(distance[near], near, c=[colors[row] for row in near], s=36, zorder=3)
    for row in near:
        text = f"to {names[str(used['nearest'].iloc[row])]}"
        beside.annotate(text, (distance[row], row), (6, 0), textcoords="offset points", va="center", fontsize=8)
    beside.set(xlabel="distance to nearest (nats)", xlim=(0, 1.25 * distance[near].max()))
    beside.tick_params(left=False, labelleft=False)
    despine(beside, "top", "right")
