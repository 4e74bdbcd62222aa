"""How far cells are from where the map puts them, and which genes say where they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PathCollection
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from sklearn.metrics import r2_score

from rmve._keys import DEFAULT_KEY, Written
from rmve.pl._colors import GREY, ColorOptions, Limit
from rmve.pl._docs import documented
from rmve.pl._figure import despine, finish, new_axes, require
from rmve.pl._names import plain
from rmve.pl._panels import figure_of
from rmve.pl._positions import mean_steps, read_frame, read_judged, two

#: Most cells that have an arrow each; of more, arrows are means in squares of a grid.
MAX_ARROWS = 100
#: Squares along the longer side of that grid.
N_SQUARES = 10
#: Colours of errors.
CMAP = "magma_r"


@documented
def spatial_error(
    adata: AnnData,
    key: str = DEFAULT_KEY,
    spatial_key: str | None = None,
    axes: Sequence[int] = (0, 1),
    arrows: bool = False,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
    *,
    invert_y: bool | None = None,
    unit: str | None = None,
    size: float | None = None,
    cmap: str | Colormap | None = None,
    vmin: Limit = None,
    vmax: Limit = None,
    title: str | None = None,
    return_fig: bool | None = None,
) -> Axes | Figure:
    """Draw how far each cell is from where the linear map puts it.

    Drawn are the cells whose position the model did not learn, if there are any: others are placed too well. The limits
    are those of :func:`rmve.pl.spatial`.

    Parameters
    ----------
    %(mapped)s
    %(spatial_key)s
    axes
        The two coordinates to draw; the error is that of all.
    arrows
        Whether to draw arrows from true to predicted positions. Up to 100 cells have an arrow each. Of more, an arrow is
        the mean of the cells in a square, ten of which span the longer side, and its colour is their mean error: where
        cells are off in all directions, arrows are short and errors are large.
    %(ax)s
    %(show)s
    invert_y
        Whether the vertical axis points down; ``None`` as in :func:`rmve.pl.spatial`.
    %(unit)s
    %(dot_size)s
    cmap
        Colour map of the errors.
    vmin, vmax
        Limits of their scale: a number, a percentile such as ``"p99"``, or a function of the errors.
    title
        Title; ``None`` says which cells are drawn.
    %(return_fig)s

    Returns
    -------
    The axes; the figure with ``return_fig=True``.

    Raises
    ------
    %(missing)s
    ValueError
        If the positions have no such axes.
    """
    names = Written(key)
    found = read_judged(adata, names, spatial_key)
    true, predicted, rows, note = found.true, found.predicted, found.rows, found.note
    start, end = two(true, axes), two(predicted, axes)
    frame = read_frame(adata, names, found.spatial_key, axes, invert_y, unit)
    others = np.setdiff1d(np.flatnonzero(np.isfinite(true).all(1)), rows)
    error, starts, ends = np.linalg.norm(true - predicted, axis=1)[rows], start[rows], end[rows]
    label, heading = "error", f"true to predicted, {note}" if arrows else f"error, {note}"
    if arrows and len(rows) > MAX_ARROWS:
        starts, ends, error = mean_steps(starts, ends, error, N_SQUARES)
        label = "mean error"
        heading = f"true to predicted, {len(rows):,} {note.removeprefix('all ')} averaged in squares"
        others = np.flatnonzero(np.isfinite(true).all(1))
    scale = ScalarMappable(ColorOptions(vmin=vmin, vmax=vmax).limits(error), CMAP if cmap is None else cmap)

    where = new_axes(ax, (6.0, 4.6))
    _dots(where, start[others], size, c="#ececec")
    if arrows:
        style: dict[str, Any] = {"angles": "xy", "scale_units": "xy", "scale": 1, "width": 0.004, "headwidth": 4}
        where.quiver(*starts.T, *(ends - starts).T, error, cmap=scale.cmap, norm=scale.norm, **style)
    else:
        _dots(where, starts, size, c=error, cmap=scale.cmap, norm=scale.norm)
    bar = where.figure.colorbar(scale, ax=where, shrink=0.6, aspect=18, pad=0.02, label=frame.with_unit(label))
    bar.outline.set_visible(False)
    frame.draw(where, heading if title is None else title)
    finish(where, ax, show, save)
    return figure_of(where) if return_fig else where


@documented
def spatial_fit(
    adata: AnnData,
    key: str = DEFAULT_KEY,
    axis: int = 0,
    spatial_key: str | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
    *,
    unit: str | None = None,
    size: float | None = None,
    title: str | None = None,
    return_fig: bool | None = None,
) -> Axes | Figure:
    """Draw the predicted against the true position along one axis, with its R².

    Drawn are the cells whose position the model did not learn, if there are any.

    Parameters
    ----------
    %(mapped)s
    %(axis)s
    %(spatial_key)s
    %(ax)s
    %(show)s
    %(unit)s
    %(dot_size)s
    title
        Title; ``None`` is R² and which cells are drawn.
    %(return_fig)s

    Returns
    -------
    The axes; the figure with ``return_fig=True``.

    Raises
    ------
    %(missing)s
    ValueError
        If the positions have no such axis.
    """
    names = Written(key)
    found = read_judged(adata, names, spatial_key)
    x, y = (two(points, (axis, axis))[found.rows, 0] for points in (found.true, found.predicted))
    name = read_frame(adata, names, found.spatial_key, (axis, axis), None, unit).labels[0].removeprefix("axis ")
    where = new_axes(ax, (4.2, 4.2))
    low, high = min(x.min(), y.min()), max(x.max(), y.max())
    margin = 0.05 * (high - low) or 1.0
    where.plot([low, high], [low, high], color=GREY, linewidth=1, zorder=0)
    _dots(where, np.column_stack([x, y]), size, c="#3b6fb6", alpha=0.6)
    limits = (low - margin, high + margin)
    where.set(xlabel=f"true {name}", ylabel=f"predicted {name}", aspect="equal", xlim=limits, ylim=limits)
    where.set_title(f"R² {r2_score(x, y):.2f}, {found.note}" if title is None else title)
    despine(where, "top", "right")
    finish(where, ax, show, save)
    return figure_of(where) if return_fig else where


@documented
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
    %(key)s
    %(axis)s
    n_genes
        Number of genes in each direction.
    %(ax)s
    %(show)s

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


def _dots(ax: Axes, points: np.ndarray, size: float | None, **style) -> PathCollection:
    x, y = points.T
    size = np.clip(25_000 / max(len(points), 1), 1.5, 18) if size is None else size
    return ax.scatter(x, y, s=size, linewidths=0, rasterized=True, **style)
