"""Figures of cells in one panel or several: what ``embedding``, ``spatial`` and ``body_map`` have in common."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure

from rmve._keys import Written
from rmve._validation import check_choice
from rmve.pl._colors import CellColors, ColorOptions, cell_colors
from rmve.pl._figure import finish, new_axes, require, write_names
from rmve.pl._names import plain
from rmve.pl._values import suggestion

#: What figures of cells return: the axes, those of several panels, the figure if asked for, ``None`` if it was shown.
Drawn = Axes | list[Axes] | Figure | None
#: Columns of cells to colour by.
Names = str | Sequence[str | None] | None
LEGENDS = ("on data", "right margin", "none")
#: Arguments of matplotlib's scatter that have another name here.
OWN = {
    "s": "`size`",
    "c": "`color`",
    "color": "`color`",
    "facecolors": "`color`",
    "color_map": "`cmap`",
    "colorizer": "`cmap`",
    "data": "`adata`",
    "plotnonfinite": "nothing: missing numbers are grey",
}


@dataclass(frozen=True)
class Look:
    """Arguments of a figure of cells, checked before anything is drawn.

    Attributes
    ----------
    ax, show, save, return_fig, title, ncols
        Where to draw, and what to do with the figure.
    size
        Area of a point in points², for all or for each cell; ``None`` follows from the number of cells.
    sort_order
        Whether cells with larger numbers lie on top.
    frameon
        Whether the panels have axes and their labels; ``None``: yes.
    scatter
        Further arguments of matplotlib's scatter.
    """

    ax: Axes | None = None
    show: bool | None = None
    save: str | Path | None = None
    return_fig: bool | None = None
    title: str | Sequence[str] | None = None
    ncols: int = 4
    size: float | Sequence[float] | np.ndarray | None = None
    sort_order: bool = True
    frameon: bool | None = None
    scatter: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Panel:
    """What cells are coloured by, their colours, and the title."""

    name: str
    colors: CellColors
    title: str


def read_panels(
    adata: AnnData, key: str, color: Names, colors: ColorOptions, look: Look, suffix: str = ""
) -> list[Panel]:
    """Colours and titles of the panels, one for each name.

    Parameters
    ----------
    adata
        Cells.
    key
        ``key_added`` of ``annotate``.
    color
        Column of ``adata.obs`` or gene, or several; ``None`` is the clusters.
    colors, look
        Further arguments of the figure.
    suffix
        End of titles that are names.

    Raises
    ------
    KeyError
        If a name is neither a column nor a gene.
    TypeError
        If scatter takes no such argument.
    ValueError
        If there are no names, several for axes that were given, other than there are titles, sizes of other cells, or
        groups that are no categories.
    """
    wanted = [color] if color is None or isinstance(color, str) else list(color)
    titles = None if look.title is None else [look.title] if isinstance(look.title, str) else list(look.title)
    if not wanted:
        raise ValueError("`color` is empty. Name a column or a gene.")
    if len(wanted) > 1 and look.ax is not None:
        raise ValueError(f"`ax` is one panel, and `color` needs {len(wanted)}. Draw them one by one.")
    if titles is not None and len(titles) != len(wanted):
        raise ValueError(f"`title` has {len(titles)} entries, and there are {len(wanted)} panels.")
    if look.ncols < 1:
        raise ValueError(f"`ncols` must be at least 1; got {look.ncols}.")
    sizes = np.ravel(np.asarray(look.size, dtype=float))
    if len(sizes) not in (1, adata.n_obs):
        raise ValueError(f"`size` has {len(sizes)} entries, and there are {adata.n_obs} cells.")
    _check_scatter(look.scatter)
    panels = []
    for i, name in enumerate(wanted):
        if name is None:
            name = Written(key).cluster
            require(adata.obs, "obs", name, key)
        title = plain(name) + suffix if titles is None else titles[i]
        panels.append(Panel(name, cell_colors(adata, name, colors, i), title))
    _check_groups(colors.groups, panels)
    return panels


def draw_panels(
    panels: Sequence[Panel],
    look: Look,
    figsize: tuple[float, float],
    draw: Callable[[Axes, Panel], None],
    write: Callable[[Axes, Panel], None] | None = None,
) -> Drawn:
    """Draw the panels on new axes or those given, save and show them.

    Parameters
    ----------
    panels
        Result of :func:`read_panels`.
    look
        Arguments of the figure.
    figsize
        Width and height of a panel, in inches.
    draw
        Draws a panel.
    write
        Writes onto it once all panels are drawn, so that their places are final.
    """
    if len(panels) == 1:
        axes = [new_axes(look.ax, figsize)]
    else:
        n_columns = min(look.ncols, len(panels))
        n_rows = -(-len(panels) // n_columns)
        size = (n_columns * figsize[0], n_rows * figsize[1])
        grid = plt.subplots(n_rows, n_columns, figsize=size, squeeze=False, layout="constrained")[1].ravel()
        for unused in grid[len(panels) :]:
            unused.remove()
        axes = list(grid[: len(panels)])
    if look.frameon is False:
        for ax in axes:
            ax.set_axis_off()
    for step in (draw, write):
        if step is not None:
            for ax, panel in zip(axes, panels, strict=True):
                step(ax, panel)
    finish(axes[0], look.ax, look.show, look.save)
    if look.return_fig:
        return figure_of(axes)
    if look.show:
        return None
    return axes[0] if len(axes) == 1 else axes


def figure_of(drawn: Drawn) -> Figure:
    """The whole figure that was drawn on."""
    if isinstance(drawn, Figure):
        return drawn
    if drawn is None:
        return plt.gcf()
    ax = drawn[0] if isinstance(drawn, list) else drawn
    return ax.figure.canvas.figure


def draw_cells(
    ax: Axes,
    points: np.ndarray,
    colors: CellColors,
    look: Look,
    sizes: tuple[float, float, float],
    alpha: np.ndarray | float = 1.0,
    **style: Any,
) -> PathCollection:
    """Draw cells as points, without those that have no place.

    Cells lie on each other in random order, so that no cluster hides another, those without a category below; with
    numbers, larger ones lie on top.

    Parameters
    ----------
    ax
        Where to draw.
    points
        Shape ``(n, 2)``, NaN where unknown.
    colors
        Of the cells.
    look
        Arguments of the figure.
    sizes
        Area of all points together, and bounds of the area of one, in points².
    alpha
        Opacity, of all or of each.
    style
        Defaults of scatter, which ``look.scatter`` goes before.
    """
    order = np.random.default_rng(0).permutation(np.flatnonzero(np.isfinite(points).all(1)))
    if look.sort_order:
        height = colors.codes >= 0 if colors.values is None else np.nan_to_num(colors.values, nan=-np.inf)
        order = order[np.argsort(height[order], kind="stable")]
    total, least, most = sizes
    size = np.clip(total / max(len(order), 1), least, most) if look.size is None else np.asarray(look.size, dtype=float)
    given = dict(look.scatter)
    opacity = np.multiply(alpha, 1.0 if given.get("alpha") is None else given["alpha"])
    if (colors.of_cells[:, 3] < 1).any():
        opacity = opacity * colors.of_cells[:, 3]
    style = {"linewidths": 0, "rasterized": True} | style
    if {"linewidth", "lw"} & given.keys():
        del style["linewidths"]
    style |= given | {"s": size[order] if size.size > 1 else size, "c": colors.of_cells[order]}
    style["alpha"] = opacity[order] if np.ndim(opacity) else float(opacity)
    x, y = points[order].T
    return ax.scatter(x, y, **style)


def write_categories(ax: Axes, points: np.ndarray, colors: CellColors) -> None:
    """Write the name of each category at the median of its cells."""
    known = np.isfinite(points).all(1)
    present = colors.present(known)
    medians = [np.median(points[known & (colors.codes == k)], axis=0) for k in present]
    write_names(ax, np.array(medians).reshape(-1, 2), [colors.names[k] for k in present])


def check_legend(place: str | None) -> None:
    """Raise ValueError unless a legend can stand at a place; ``None`` is the default of a figure."""
    if place is not None:
        check_choice("legend_loc", place, LEGENDS)


def _check_groups(groups: str | Sequence[str] | None, panels: Sequence[Panel]) -> None:
    """Raise ValueError for a group that is a category of no panel."""
    known = {name for panel in panels for name in panel.colors.names}
    wanted = [] if groups is None else [groups] if isinstance(groups, str) else list(groups)
    for group in wanted:
        if plain(group) not in known:
            columns = ", ".join(repr(panel.name) for panel in panels)
            raise ValueError(f"`groups` holds {group!r}, which is no category of {columns}.{suggestion(group, known)}")


def _check_scatter(given: dict[str, Any]) -> None:
    """Raise TypeError for an argument that matplotlib's scatter does not take, before there is a figure."""
    for name in given:
        if name in OWN:
            raise TypeError(f"{name!r} is an argument of matplotlib that has another name here: {OWN[name]}.")
    taken = {*inspect.signature(Axes.scatter).parameters} - {"self", "x", "y", "kwargs", *OWN}
    taken |= {name.removeprefix("set_") for name in dir(PathCollection) if name.startswith("set_")}
    own = {each.name for part in (Look, ColorOptions) for each in fields(part)} - {"scatter"}
    for name in given:
        if name not in taken:
            near = suggestion(name, taken | own)
            raise TypeError(f"{name!r} is an argument neither of this figure nor of matplotlib's scatter.{near}")
