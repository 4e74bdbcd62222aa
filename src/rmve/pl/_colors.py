"""Colours of cells from a column of ``adata.obs`` or a gene, as scanpy takes them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import AnnData
from cycler import Cycler
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, Normalize, is_color_like, to_hex, to_rgba, to_rgba_array
from matplotlib.lines import Line2D
from matplotlib.typing import ColorType

from rmve.pl._names import plain
from rmve.pl._values import find_column, is_number, read_mask, suggestion

#: Colour of cells without a category, and of what is not in focus.
GREY = "#b8b8b8"
#: Most categories that are named in a figure.
MAX_NAMED = 100
#: Name of cells without a category, in legends.
MISSING = "NA"

#: Limit of a colour scale: a number, a percentile such as ``"p99"``, or a function of the numbers.
Limit = float | str | Callable[[np.ndarray], float] | None
#: Colours of categories: the name of a colour map, colours, a dictionary from category to colour, or a cycle.
Palette = str | Sequence[Any] | Mapping[Any, Any] | Cycler | None
#: Cells that are coloured: a boolean column of ``adata.obs``, or a boolean for each cell.
Mask = str | Sequence[bool] | np.ndarray | None


@dataclass(frozen=True)
class ColorOptions:
    """Which values a figure colours cells by, and with which colours: arguments that all figures of cells share.

    Attributes
    ----------
    layer, use_raw
        Where the values of genes are; see :func:`find_column`.
    cmap
        Colours of numbers.
    palette
        Colours of categories; see :func:`palette`.
    vmin, vmax
        Limits of the scale of numbers, or a list with one for each panel.
    norm
        Scale of numbers, in place of limits.
    groups
        Categories that are coloured; cells of others count as without a category.
    mask_obs
        Cells that are coloured; see :func:`read_mask`. Others count as without a value.
    na_color
        Colour of cells without a value.
    na_in_legend
        Whether legends name these cells.
    """

    layer: str | None = None
    use_raw: bool | None = None
    cmap: str | Colormap | None = None
    palette: Palette = None
    vmin: Limit | Sequence[Limit] = None
    vmax: Limit | Sequence[Limit] = None
    norm: Normalize | None = None
    groups: str | Sequence[str] | None = None
    mask_obs: Mask = None
    na_color: ColorType = GREY
    na_in_legend: bool = True

    def limits(self, values: np.ndarray, panel: int = 0) -> Normalize:
        """Scale of the numbers of a panel, NaN where missing."""
        if self.norm is not None:
            if self.vmin is not None or self.vmax is not None:
                raise ValueError("`norm` has limits of its own. Leave `vmin` and `vmax` out.")
            scale = copy(self.norm)
            scale.autoscale_None(np.ma.masked_invalid(values))
            return scale
        finite = values[np.isfinite(values)]
        finite = finite if len(finite) else np.array([0.0, 1.0])
        low = _limit("vmin", self.vmin, panel, finite, finite.min())
        high = _limit("vmax", self.vmax, panel, finite, finite.max())
        if low > high:
            raise ValueError(f"`vmin` must be at most `vmax`; the limits are {low:g} and {high:g}.")
        return Normalize(low, high)


def _limit(name: str, limit: Any, panel: int, values: np.ndarray, default: float) -> float:
    """A limit as a number."""
    if isinstance(limit, Sequence | np.ndarray) and not isinstance(limit, str):
        if panel >= len(limit):
            raise ValueError(f"`{name}` has {len(limit)} values, fewer than there are panels.")
        limit = limit[panel]
    if limit is None:
        return float(default)
    if callable(limit):
        return float(limit(values))
    if isinstance(limit, str):
        try:
            return float(np.percentile(values, float(limit.removeprefix("p")))) if limit[:1] == "p" else float(limit)
        except ValueError:
            raise ValueError(f"`{name}` must be a number or a percentile such as 'p99'; got {limit!r}.") from None
    return float(limit)


@dataclass(frozen=True)
class CellColors:
    """How the cells of a figure are coloured.

    Attributes
    ----------
    of_cells
        Colour of each cell, shape ``(n, 4)``.
    codes
        Category of each cell, -1 for none, shape ``(n,)``; all -1 for numbers.
    names
        Name of each category, as it is drawn.
    of_names
        Colour of each category.
    scale
        Colours of numbers; ``None`` for categories.
    values
        The numbers, NaN where missing or infinite; ``None`` for categories.
    of_missing
        Colour of cells without a category in the legend; ``None`` if it does not name them.
    """

    of_cells: np.ndarray
    codes: np.ndarray
    names: list[str]
    of_names: list[str]
    scale: ScalarMappable | None = None
    values: np.ndarray | None = None
    of_missing: str | None = None

    def present(self, among: np.ndarray | slice = slice(None)) -> list[int]:
        """Categories that some of the cells have; none if they are too many to be named."""
        found = np.unique(self.codes[among])
        found = found[found >= 0].tolist()
        return found if len(found) <= MAX_NAMED else []

    def longest_name(self) -> int:
        """Characters of the longest name that is drawn."""
        return max((len(self.names[k]) for k in self.present()), default=0)

    def legend(self, ax: Axes, among: np.ndarray | slice = slice(None), inset: bool = False) -> None:
        """Draw the colour bar of numbers, or the legend of the categories.

        Parameters
        ----------
        ax
            Axes of the cells.
        among
            Cells whose categories the legend names.
        inset
            Whether the colour bar takes no room from the axes, so that it stays close to them in a grid of panels.
        """
        if self.scale is not None:
            style: dict[str, Any] = {"ax": ax, "shrink": 0.6, "aspect": 18, "pad": 0.02}
            if inset:
                style = {"cax": ax.inset_axes((1.02, 0.2, 0.035, 0.6))}
            ax.figure.colorbar(self.scale, **style).outline.set_visible(False)
            return
        style = {"linestyle": "", "marker": "o"}
        dots = [Line2D([], [], color=self.of_names[k], label=self.names[k], **style) for k in self.present(among)]
        if dots and self.of_missing is not None and (self.codes[among] < 0).any():
            dots.append(Line2D([], [], color=self.of_missing, label=MISSING, **style))
        if dots:
            style = {"ncols": 1 + len(dots) // 20, "loc": "center left", "bbox_to_anchor": (1, 0.5)}
            legend = ax.legend(handles=dots, frameon=False, fontsize=8, **style)
            for text, dot in zip(legend.get_texts(), dots, strict=True):
                text.set_text(dot.get_label())  # a label that begins with "_" is drawn, too


def cell_colors(adata: AnnData, name: str, options: ColorOptions | None = None, panel: int = 0) -> CellColors:
    """Colours of cells by a column of ``adata.obs``, or a gene.

    Text, booleans and categories have a colour for each value; numbers, of whatever type, have a scale.

    Parameters
    ----------
    adata
        Cells.
    name
        The column, or the gene.
    options
        Where the values of genes are, and which colours they have; ``None`` is the defaults.
    panel
        Position of the figure among several, for limits that are lists.

    Raises
    ------
    KeyError
        If there is neither.
    ValueError
        If options do not fit the cells.
    """
    options = options or ColorOptions()
    if not is_color_like(options.na_color):
        raise ValueError(f"`na_color={options.na_color!r}` is no colour.")
    missing = to_hex(options.na_color, keep_alpha=True)
    column = find_column(adata, name, options.layer, options.use_raw)
    shown = read_mask(adata, options.mask_obs)
    if is_number(column):
        values = column.to_numpy(float, na_value=np.nan)
        values = np.where(np.isfinite(values) & shown, values, np.nan)
        cmap = plt.get_cmap(options.cmap).with_extremes(bad=missing)
        scale = ScalarMappable(options.limits(values, panel), cmap)
        of_cells = scale.to_rgba(np.ma.masked_invalid(values))
        return CellColors(of_cells, np.full(len(values), -1), [], [], scale, values)
    column = column.astype("category")
    names = [plain(category) for category in column.cat.categories]
    of_names = palette(adata, name, column.cat.categories, options.palette)
    codes = np.where(shown, column.cat.codes, -1)
    if options.groups is not None:
        groups = {options.groups} if isinstance(options.groups, str) else set(map(str, options.groups))
        chosen = np.array([*(str(category) in groups for category in column.cat.categories), False])
        codes = np.where(chosen[codes], codes, -1)  # code -1 is the last
    in_legend = options.na_in_legend and to_rgba(missing)[3] > 0
    of_cells = to_rgba_array([*of_names, missing])[codes]
    return CellColors(of_cells, codes, names, of_names, of_missing=missing if in_legend else None)


def require_column(adata: AnnData, name: str) -> pd.Series:
    """A column of ``adata.obs`` as a categorical series.

    Raises
    ------
    KeyError
        If it is missing.
    """
    if name not in adata.obs:
        columns = ", ".join(map(repr, adata.obs.columns)) or "none"
        near = suggestion(name, adata.obs.columns)
        raise KeyError(f"{name!r} is not a column of `adata.obs`.{near} Its columns: {columns}.")
    return adata.obs[name].astype("category")


def palette(adata: AnnData, name: str, categories: pd.Index, chosen: Palette = None) -> list[str]:
    """Colours of the categories of a column: those chosen, else those in ``adata.uns``, else scanpy's defaults.

    Colours in ``adata.uns`` count if they are enough. Nothing is written there.

    Parameters
    ----------
    adata
        Cells.
    name
        Column of ``adata.obs``.
    categories
        Of the column. The colours may be a list of names (of matplotlib or R), RGB(A) rows, or a dictionary.
    chosen
        Colours to take in place of those in ``adata.uns``: the name of a colour map, a list, which begins again where it
        is short, a dictionary from category to colour, or a cycle of matplotlib.

    Raises
    ------
    ValueError
        If something that was chosen is no colour.
    """
    from scanpy.pl import palettes

    n_colors = len(categories)
    if chosen is not None:
        rows = _spread(chosen, categories)
        converted = [_to_color(row) for row in rows]
        if None in converted:
            raise ValueError(f"`palette` holds {rows[converted.index(None)]!r}, which is no colour.")
        return [color for color in converted if color is not None]
    stored = adata.uns.get(f"{name}_colors")
    if isinstance(stored, Mapping):
        stored = _of_names(stored, categories)
    elif stored is not None:
        stored = list(np.atleast_1d(stored))
    if stored is not None and len(stored) >= n_colors:
        converted = [_to_color(color) for color in stored[:n_colors]]
        colors = [color for color in converted if color is not None]
        if len(colors) == n_colors:
            return colors
        wrong = stored[converted.index(None)]
        warnings.warn(
            f"`adata.uns['{name}_colors']` holds {wrong!r}, which is no colour. Default colours are used.",
            UserWarning,
            stacklevel=3,
        )
    defaults = (palettes.default_20, palettes.default_28, palettes.default_102)
    colors = next((colors for colors in defaults if n_colors <= len(colors)), defaults[-1])
    return [colors[i % len(colors)] for i in range(n_colors)]


def _of_names(colors: Mapping, categories: pd.Index) -> list:
    """Colour of each category by its name, grey for those that have none."""
    by_name = {str(key): value for key, value in colors.items()}
    return [by_name.get(str(category), GREY) for category in categories]


def _spread(chosen: Any, categories: pd.Index) -> list:
    """As many colours as categories, from what a user may give as ``palette``."""
    n_colors = len(categories)
    if isinstance(chosen, Mapping):
        return _of_names(chosen, categories)
    if isinstance(chosen, str):
        if chosen not in colormaps:
            raise ValueError(f"`palette={chosen!r}` is no colour map.{suggestion(chosen, colormaps)}")
        cmap = colormaps[chosen]
        if isinstance(cmap, ListedColormap) and n_colors <= cmap.N < 256:  # a list of colours that tell apart
            return [cmap(i) for i in range(n_colors)]
        return list(cmap(np.linspace(0, 1, n_colors)))
    rows = list(chosen.by_key()["color"]) if isinstance(chosen, Cycler) else list(chosen)
    if not rows:
        raise ValueError("`palette` is empty.")
    return [rows[i % len(rows)] for i in range(n_colors)]


def _to_color(color: object) -> str | None:
    """A colour as matplotlib has it, from a name of matplotlib or R, or from numbers in [0, 1] or [0, 255]."""
    from scanpy.plotting._utils import additional_colors

    if isinstance(color, bytes):
        color = color.decode()
    if isinstance(color, str):
        if is_color_like(color):
            return color
        if color in additional_colors:
            return additional_colors[color]
        shade = color.lower().removeprefix("grey").removeprefix("gray")
        if shade.isdecimal() and shade != color and int(shade) <= 100:
            return to_hex(str(int(shade) / 100))
        return None
    try:
        numbers = np.asarray(color, dtype=float)
    except (TypeError, ValueError):
        return None
    if numbers.ndim == 1 and numbers.size and numbers.max() > 1 and np.asarray(color).dtype.kind in "iu":
        numbers = numbers / 255
    row = tuple(np.atleast_1d(numbers))
    return to_hex(row, keep_alpha=len(row) == 4 and row[3] < 1) if is_color_like(row) else None


def cluster_colors(adata: AnnData, name: str, chosen: Palette = None) -> dict[str, str]:
    """Colour of each cluster, by its name, from a column of ``adata.obs``; see :func:`palette`."""
    categories = require_column(adata, name).cat.categories
    return dict(zip(categories.astype(str), palette(adata, name, categories, chosen), strict=True))
