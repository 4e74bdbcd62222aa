"""Colours of cells from a column of ``adata.obs`` or a gene, as scanpy takes them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, is_color_like, to_hex
from matplotlib.lines import Line2D

from rmve.pl._names import plain

#: Colour of cells without a category, and of what is not in focus.
GREY = "#b8b8b8"
#: Most categories that are named in a figure.
MAX_NAMED = 100


@dataclass(frozen=True)
class CellColors:
    """How the cells of a figure are coloured.

    Attributes
    ----------
    of_cells
        Colour of each cell, shape ``(n,)`` or ``(n, 4)``.
    codes
        Category of each cell, -1 for none, shape ``(n,)``; all -1 for numbers.
    names
        Name of each category, as it is drawn.
    of_names
        Colour of each category.
    scale
        Colours of numbers; ``None`` for categories.
    """

    of_cells: np.ndarray
    codes: np.ndarray
    names: list[str]
    of_names: list[str]
    scale: ScalarMappable | None = None

    def present(self, among: np.ndarray | slice = slice(None)) -> list[int]:
        """Categories that some of the cells have; none if they are too many to be named."""
        found = np.unique(self.codes[among])
        found = found[found >= 0].tolist()
        return found if len(found) <= MAX_NAMED else []

    def legend(self, ax: Axes, among: np.ndarray | slice = slice(None)) -> None:
        """Draw the colour bar of numbers, or the legend of the categories."""
        if self.scale is not None:
            ax.figure.colorbar(self.scale, ax=ax, shrink=0.6, aspect=18, pad=0.02).outline.set_visible(False)
            return
        style: dict[str, Any] = {"linestyle": "", "marker": "o"}
        dots = [Line2D([], [], color=self.of_names[k], label=self.names[k], **style) for k in self.present(among)]
        if dots:
            style = {"ncols": 1 + len(dots) // 20, "loc": "center left", "bbox_to_anchor": (1, 0.5)}
            legend = ax.legend(handles=dots, frameon=False, fontsize=8, **style)
            for text, dot in zip(legend.get_texts(), dots, strict=True):
                text.set_text(dot.get_label())  # a label that begins with "_" is drawn, too


def cell_colors(adata: AnnData, name: str, cmap: str = "viridis") -> CellColors:
    """Colours of cells by a column of ``adata.obs``, or a gene.

    Text, booleans and categories have a colour for each value; numbers, of whatever type, have a scale.

    Parameters
    ----------
    adata
        Cells.
    name
        The column, or the gene.
    cmap
        Of numbers.

    Raises
    ------
    KeyError
        If there is neither.
    """
    column = find_column(adata, name)
    if is_number(column):
        values = column.to_numpy(float, na_value=np.nan)
        values = np.where(np.isfinite(values), values, np.nan)
        finite = values[np.isfinite(values)]
        limits = Normalize(finite.min(), finite.max()) if len(finite) else Normalize(0, 1)
        scale = ScalarMappable(limits, colormaps[cmap].with_extremes(bad=GREY))
        return CellColors(scale.to_rgba(np.ma.masked_invalid(values)), np.full(len(values), -1), [], [], scale)
    column = column.astype("category")
    names = [plain(category) for category in column.cat.categories]
    of_names, codes = palette(adata, name, column.cat.categories), column.cat.codes.to_numpy()
    return CellColors(np.array([*of_names, GREY])[codes], codes, names, of_names)  # code -1 is the last


def is_number(column: pd.Series) -> bool:
    """Whether a column holds numbers, as against categories."""
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def find_column(adata: AnnData, name: str) -> pd.Series:
    """A column of ``adata.obs``, or the values of a gene in ``adata.X``.

    Raises
    ------
    KeyError
        If there is neither.
    """
    if name in adata.obs:
        return adata.obs[name]
    if name in adata.var_names and adata.X is not None:
        return pd.Series(np.asarray(adata.obs_vector(name)), index=adata.obs_names)
    columns = ", ".join(map(repr, adata.obs.columns)) or "none"
    raise KeyError(f"{name!r} is neither a column of `adata.obs` nor a gene. Its columns: {columns}.")


def require_column(adata: AnnData, name: str) -> pd.Series:
    """A column of ``adata.obs`` as a categorical series.

    Raises
    ------
    KeyError
        If it is missing.
    """
    if name not in adata.obs:
        columns = ", ".join(map(repr, adata.obs.columns)) or "none"
        raise KeyError(f"{name!r} is not a column of `adata.obs`. Its columns: {columns}.")
    return adata.obs[name].astype("category")


def palette(adata: AnnData, name: str, categories: pd.Index) -> list[str]:
    """Colours of the categories of a column: those in ``adata.uns`` if they are enough, else scanpy's defaults.

    Parameters
    ----------
    adata
        Cells.
    name
        Column of ``adata.obs``.
    categories
        Of the column. The colours may be a list of names (of matplotlib or R), RGB(A) rows, or a dictionary.
    """
    from scanpy.pl import palettes

    n_colors = len(categories)
    chosen = adata.uns.get(f"{name}_colors")
    if isinstance(chosen, Mapping):
        by_name = {str(key): value for key, value in chosen.items()}
        chosen = [by_name.get(str(category), GREY) for category in categories]
    elif chosen is not None:
        chosen = list(np.atleast_1d(chosen))
    if chosen is not None and len(chosen) >= n_colors:
        converted = [_to_color(color) for color in chosen[:n_colors]]
        colors = [color for color in converted if color is not None]
        if len(colors) == n_colors:
            return colors
        wrong = chosen[converted.index(None)]
        warnings.warn(
            f"`adata.uns['{name}_colors']` holds {wrong!r}, which is no colour. Default colours are used.",
            UserWarning,
            stacklevel=3,
        )
    defaults = (palettes.default_20, palettes.default_28, palettes.default_102)
    colors = next((colors for colors in defaults if n_colors <= len(colors)), defaults[-1])
    return [colors[i % len(colors)] for i in range(n_colors)]


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


def cluster_colors(adata: AnnData, name: str) -> dict[str, str]:
    """Colour of each cluster, by its name, from a column of ``adata.obs``; see :func:`palette`."""
    categories = require_column(adata, name).cat.categories
    return dict(zip(categories.astype(str), palette(adata, name, categories), strict=True))
