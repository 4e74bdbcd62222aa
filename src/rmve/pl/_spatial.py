"""Cells in physical space: where they are, where the map puts them, and how far off that is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from sklearn.metrics import r2_score

from rmve._keys import DEFAULT_KEY, SPATIAL_KEY, Written
from rmve.pl._colors import GREY, cell_colors
from rmve.pl._figure import despine, finish, new_axes, require
from rmve.pl._names import plain

#: Most arrows that are drawn.
MAX_ARROWS = 400
#: Colours of numbers: errors and uncertainties.
CMAP = "magma_r"


def spatial(
    adata: AnnData,
    key: str = DEFAULT_KEY,
    color: str | None = None,
    predicted: bool = False,
    spatial_key: str | None = None,
    axes: Sequence[int] = (0, 1),
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Cells in space, coloured by cluster, another column, or the uncertainty of their place.

    Parameters
    ----------
    adata
        Cells that :meth:`rmve.RMVE.annotate` wrote to.
    key
        Its ``key_added``.
    color
        Column of ``adata.obs`` or gene: categories or numbers, such as ``"rmve_spatial_sd"``; ``None`` is the clusters.
    predicted
        Whether to draw cells where the linear map puts them, and not where they are.
    spatial_key
        Key of ``adata.obsm`` with the true positions; ``None`` is the one that the model was set up with.
    axes
        The two coordinates to draw.
    ax
        Axes to draw on; ``None`` makes a figure.
    show
        Whether to show the figure; ``None``: in an interactive session, unless ``ax`` is given.
    save
        File to write.

    Returns
    -------
    The axes.

    Raises
    ------
    KeyError
        If a key is missing.
    ValueError
        If the positions have no such axes.
    """
    names = Written(key)
    if color is None:
        require(adata.obs, "obs", names.cluster, key)
        color = names.cluster
    colors = cell_colors(adata, color, CMAP)
    points = _predicted(adata, names) if predicted else _true(adata, names, spatial_key)
    points = _two(points, axes)
    order = np.random.default_rng(0).permutation(np.flatnonzero(np.isfinite(points).all(1)))
    where = new_axes(ax, (6.4, 4.6))
    _dots(where, points[order], c=colors.of_cells[order])
    colors.legend(where, order)
    _frame(where, axes, plain(color) + (", predicted" if predicted else ""))
    return finish(where, ax, show, save)


def spatial_error(
    adata: AnnData,
    key: str = DEFAULT_KEY,
    spatial_key: str | None = None,
    axes: Sequence[int] = (0, 1),
    arrows: bool = False,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes:
    """How far each cell is from where the linear map puts it.

    Drawn are the cells whose position the model did not learn, if there are any: others are placed too well.

    Parameters
    ----------
    adata
        Cells that :meth:`rmve.RMVE.annotate` wrote to, with a spatial map.
    key
        Its ``key_added``.
    spatial_key
        Key of ``adata.obsm`` with the true positions; ``None`` is the one that the model was set up with.
    axes
        The two coordinates to draw; the error is that of all.
    arrows
        Whether to draw arrows from true to predicted positions, of at most :data:`MAX_ARROWS` cells.
    ax
        Axes to draw on; ``None`` makes a figure.
    show
        Whether to show the figure; ``None``: in an interactive session, unless ``ax`` is given.
    save
        File to write.

    Returns
    -------
    The axes.

    Raises
    ------
    KeyError
        If a key is missing.
    ValueError
        If the positions have no such axes.
    """
    names = Written(key)
    true = _true(adata, names, spatial_key)
    predicted = _predicted(adata, names)
    rows, note = _judged(adata, names, true)
    error = np.linalg.norm(true - predicted, axis=1)
    start, end = _two(true, axes), _two(predicted, axes)
    where = new_axes(ax, (6.0, 4.6))
    others = np.setdiff1d(np.flatnonzero(np.isfinite(true).all(1)), rows)
    _dots(where, start[others], c="#ececec")
    if arrows:
        rows = np.random.default_rng(0).permutation(rows)[:MAX_ARROWS]
        steps = end[rows] - start[rows]
        field = where.quiver(
            *start[rows].T,
            *steps.T,
            error[rows],
            cmap=CMAP,
            angles="xy",
            scale_units="xy",
            scale=1,
            width=0.003,
            headwidth=4,
        )
        where.update_datalim(end[rows])
        where.autoscale_view()
        _colorbar(where, field, "error")
    else:
        _numbers(where, start[rows], error[rows], "error")
    _frame(where, axes, f"true to predicted, {note}" if arrows else f"error, {note}")
    return finish(where, ax, show, save)


def spatial_fit(
    adata: AnnData,
    key: str = DEFAULT_KEY,
    axis: int = 0,
    spatial_key: str | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Predicted against true position along one axis, with its R².

    Drawn are the cells whose position the model did not learn, if there are any.

    Parameters
    ----------
    adata
        Cells that :meth:`rmve.RMVE.annotate` wrote to, with a spatial map.
    key
        Its ``key_added``.
    axis
        The coordinate.
    spatial_key
        Key of ``adata.obsm`` with the true positions; ``None`` is the one that the model was set up with.
    ax
        Axes to draw on; ``None`` makes a figure.
    show
        Whether to show the figure; ``None``: in an interactive session, unless ``ax`` is given.
    save
        File to write.

    Returns
    -------
    The axes.

    Raises
    ------
    KeyError
        If a key is missing.
    ValueError
        If the positions have no such axis.
    """
    names = Written(key)
    true = _true(adata, names, spatial_key)
    predicted = _predicted(adata, names)
    rows, note = _judged(adata, names, true)
    x, y = _two(true, (axis, axis))[rows, 0], _two(predicted, (axis, axis))[rows, 0]
    where = new_axes(ax, (4.2, 4.2))
    limits = [min(x.min(), y.min()), max(x.max(), y.max())]
    where.plot(limits, limits, color=GREY, linewidth=1, zorder=0)
    _dots(where, np.column_stack([x, y]), c="#3b6fb6", alpha=0.6)
    where.set(xlabel=f"true {axis}", ylabel=f"predicted {axis}", aspect="equal")
    where.set_title(f"R² {r2_score(x, y):.2f}, {note}")
    despine(where, "top", "right")
    return finish(where, ax, show, save)


def spatial_genes(
    adata: AnnData,
    key: str = DEFAULT_KEY,
    axis: int = 0,
    n_genes: int = 10,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes:
    """The genes that change most along an axis of space, in both directions.

    Parameters
    ----------
    adata
        Training cells that :meth:`rmve.RMVE.annotate` wrote to, with a spatial map.
    key
        Its ``key_added``.
    axis
        The coordinate.
    n_genes
        Number of genes in each direction.
    ax
        Axes to draw on; ``None`` makes a figure.
    show
        Whether to show the figure; ``None``: in an interactive session, unless ``ax`` is given.
    save
        File to write.

    Returns
    -------
    The axes.

    Raises
    ------
    KeyError
        If there is no table, or no such axis in it.
    """
    uns = require(adata.uns, "uns", Written(key).uns, key)
    table = uns.get("spatial_genes")
    if table is None or str(axis) not in table:
        raise KeyError(
            f"`adata.uns[{key!r}]` has no genes along axis {axis}. Train with `spatial_key` and annotate again."
        )
    change = table[str(axis)].sort_values()
    change = pd.concat([change[change < 0][:n_genes], change[change > 0][-n_genes:]])
    where = new_axes(ax, (4.6, 0.5 + 0.22 * len(change)))
    where.barh(np.arange(len(change)), change, color=np.where(change < 0, "#3b6fb6", "#c8553d"), height=0.75)
    where.set_yticks(np.arange(len(change)), map(plain, change.index), fontsize=8)
    where.axvline(0, color="black", linewidth=0.8)
    where.set(xlabel=f"change over one standard deviation of axis {axis}", ylim=(-0.7, len(change) - 0.3))
    despine(where, "top", "right", "left")
    where.tick_params(axis="y", length=0)
    return finish(where, ax, show, save)


# --------------------------------------------------------------------- parts


def _predicted(adata: AnnData, names: Written) -> np.ndarray:
    return np.asarray(require(adata.obsm, "obsm", names.spatial, names.key_added), dtype=float)


def _true(adata: AnnData, names: Written, spatial_key: str | None) -> np.ndarray:
    """Positions in ``adata.obsm``, rows of NaN where unknown."""
    uns = require(adata.uns, "uns", names.uns, names.key_added)
    spatial_key = spatial_key or uns.get("params", {}).get("spatial_key", SPATIAL_KEY)
    if spatial_key not in adata.obsm:
        keys = ", ".join(map(repr, adata.obsm)) or "none"
        raise KeyError(f"`spatial_key={spatial_key!r}` is not in `adata.obsm`. Its keys: {keys}.")
    return np.asarray(adata.obsm[spatial_key], dtype=float)


def _judged(adata: AnnData, names: Written, true: np.ndarray) -> tuple[np.ndarray, str]:
    """Rows of cells with a position that the model did not learn (all, if it learned none), and what they are."""
    known = np.isfinite(true).all(1)
    held_out = np.isin(adata.obs_names, np.asarray(adata.uns.get(names.uns, {}).get("held_out", []), dtype=str))
    if (known & held_out).any():
        return np.flatnonzero(known & held_out), "held-out cells"
    return np.flatnonzero(known), "all cells"


def _two(points: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """Two columns; a single coordinate is drawn against zeros."""
    if points.ndim != 2 or max(axes) >= max(points.shape[1], 2):
        raise ValueError(f"`axes={tuple(axes)}` are not among the {points.shape[-1]} coordinates.")
    if points.shape[1] == 1:
        points = np.column_stack([points[:, 0], np.zeros(len(points))])
    return points[:, list(axes)]


def _dots(ax: Axes, points: np.ndarray, **style) -> PathCollection:
    x, y = points.T
    size = np.clip(25_000 / max(len(points), 1), 1.5, 18)
    return ax.scatter(x, y, s=size, linewidths=0, rasterized=True, **style)


def _numbers(ax: Axes, points: np.ndarray, values: np.ndarray, label: str) -> None:
    _colorbar(ax, _dots(ax, points, c=values, cmap=CMAP), label)


def _colorbar(ax: Axes, mappable, label: str) -> None:
    ax.figure.colorbar(mappable, ax=ax, shrink=0.6, aspect=18, pad=0.02, label=label).outline.set_visible(False)


def _frame(ax: Axes, axes: Sequence[int], title: str) -> None:
    ax.set(xticks=[], yticks=[], xlabel=f"axis {axes[0]}", ylabel=f"axis {axes[1]}", aspect="equal", title=title)
    despine(ax, "top", "right", "left", "bottom")
