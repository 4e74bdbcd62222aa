"""Positions of cells, true and predicted, and the frame that figures of both share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes

from rmve._keys import SPATIAL_KEY, Written
from rmve.pl._figure import despine, require
from rmve.pl._image import image_sections
from rmve.pl._names import plain
from rmve.pl._values import suggestion

#: Room around the cells, as a share of the extent.
MARGIN = 0.05


@dataclass(frozen=True)
class Frame:
    """Limits, names and direction of the axes of a figure in space.

    Attributes
    ----------
    limits
        Least and largest coordinate of all cells, true and predicted, with a margin: a row for each axis of the figure.
    labels
        Names of the two axes, with their unit where it is known.
    unit
        Of the coordinates; empty if unknown.
    inverted
        Whether the vertical axis points down.
    """

    limits: np.ndarray
    labels: tuple[str, str]
    unit: str
    inverted: bool

    def draw(self, ax: Axes, title: str) -> None:
        """Set limits, labels and title of axes in space."""
        low, high = self.limits[1]
        ax.set(xlim=self.limits[0], ylim=(high, low) if self.inverted else (low, high), aspect="equal")
        ax.set(xticks=[], yticks=[], xlabel=self.labels[0], ylabel=self.labels[1], title=title)
        despine(ax, "top", "right", "left", "bottom")

    def with_unit(self, quantity: str) -> str:
        """A label of a length."""
        return f"{quantity} ({self.unit})" if self.unit else quantity


def read_frame(
    adata: AnnData, names: Written, spatial_key: str, axes: Sequence[int], invert_y: bool | None, unit: str | None
) -> Frame:
    """Frame of all figures of these cells, whether they show true or predicted positions.

    Parameters
    ----------
    adata
        Cells.
    names
        What ``annotate`` wrote.
    spatial_key
        Key of ``adata.obsm`` with the true positions; it may be missing.
    axes
        The two coordinates of the figure.
    invert_y
        Whether the vertical axis points down; ``None``: if it is the second coordinate of positions on an image.
    unit
        Of the coordinates; ``None``: pixels of positions on an image, otherwise unknown.
    """
    on_image = bool(image_sections(adata, spatial_key))
    unit = ("pixels" if on_image else "") if unit is None else plain(unit)
    found = [np.asarray(adata.obsm[name], dtype=float) for name in (spatial_key, names.spatial) if name in adata.obsm]
    found = [points for points in found if points.ndim == 2 and points.shape[1] == found[0].shape[1]]
    points = np.vstack([two(points, axes) for points in found])
    points = points[np.isfinite(points).all(1)]
    limits = np.array([points.min(0), points.max(0)]).T if len(points) else np.array([[0.0, 1.0], [0.0, 1.0]])
    extent = np.ptp(limits, axis=1)
    margin = MARGIN * np.where(extent > 0, extent, max(extent.max(), 1.0))
    labels = [
        f"{_axis_name(adata, spatial_key, i)} ({unit})" if unit else _axis_name(adata, spatial_key, i) for i in axes
    ]
    inverted = on_image and axes[1] == 1 if invert_y is None else bool(invert_y)
    return Frame(limits + np.outer(margin, [-1, 1]), (labels[0], labels[1]), unit, inverted)


def find_spatial_key(adata: AnnData, names: Written, spatial_key: str | None, annotated: bool = True) -> str:
    """Key of ``adata.obsm`` with the true positions: the one given, or the one that the model was set up with.

    Parameters
    ----------
    adata
        Cells.
    names
        What ``annotate`` wrote.
    spatial_key
        The key, if it is given.
    annotated
        Whether ``annotate`` must have been called.
    """
    uns = require(adata.uns, "uns", names.uns, names.key_added) if annotated else adata.uns.get(names.uns, {})
    return spatial_key or uns.get("params", {}).get("spatial_key") or SPATIAL_KEY


def predicted_positions(adata: AnnData, names: Written) -> np.ndarray:
    """Where the linear map puts the cells."""
    return np.asarray(require(adata.obsm, "obsm", names.spatial, names.key_added), dtype=float)


def true_positions(adata: AnnData, spatial_key: str) -> np.ndarray:
    """Positions in ``adata.obsm``, rows of NaN where unknown."""
    if spatial_key not in adata.obsm:
        keys = ", ".join(map(repr, adata.obsm)) or "none"
        near = suggestion(spatial_key, adata.obsm)
        raise KeyError(f"`spatial_key={spatial_key!r}` is not in `adata.obsm`.{near} Its keys: {keys}.")
    return np.asarray(adata.obsm[spatial_key], dtype=float)


def judged(adata: AnnData, names: Written, true: np.ndarray) -> tuple[np.ndarray, str]:
    """Rows of cells with a position that the model did not learn (all, if it learned none), and what they are."""
    known = np.isfinite(true).all(1)
    held_out = np.isin(adata.obs_names, np.asarray(adata.uns.get(names.uns, {}).get("held_out", []), dtype=str))
    if (known & held_out).any():
        return np.flatnonzero(known & held_out), "held-out cells"
    return np.flatnonzero(known), "all cells"


@dataclass(frozen=True)
class Judged:
    """True and predicted positions, and the cells that judge the map.

    Attributes
    ----------
    spatial_key
        Key of ``adata.obsm`` with the true positions.
    true, predicted
        Positions of all cells, rows of NaN where unknown.
    rows
        Rows of the cells that judge.
    note
        What these cells are.
    """

    spatial_key: str
    true: np.ndarray
    predicted: np.ndarray
    rows: np.ndarray
    note: str


def read_judged(adata: AnnData, names: Written, spatial_key: str | None) -> Judged:
    """Positions of annotated cells; ``spatial_key`` as given to the figure."""
    key = find_spatial_key(adata, names, spatial_key)
    true, predicted = true_positions(adata, key), predicted_positions(adata, names)
    return Judged(key, true, predicted, *judged(adata, names, true))


def two(points: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """Two columns; a single coordinate is drawn against zeros."""
    if points.ndim != 2 or max(axes) >= max(points.shape[1], 2):
        raise ValueError(f"`axes={tuple(axes)}` are not among the {points.shape[-1]} coordinates.")
    if points.shape[1] == 1:
        points = np.column_stack([points[:, 0], np.zeros(len(points))])
    return points[:, list(axes)]


def mean_steps(
    start: np.ndarray, end: np.ndarray, error: np.ndarray, n_squares: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean start, end and error of the cells that start in each square of a grid, if there are any.

    Parameters
    ----------
    start, end
        Shape ``(n, 2)``.
    error
        Shape ``(n,)``.
    n_squares
        Along the longer side of what the starts extend over.
    """
    low = start.min(0)
    side = max((start - low).max() / n_squares, np.finfo(float).tiny)
    square = np.minimum(np.floor((start - low) / side), n_squares - 1)
    means = pd.DataFrame(np.column_stack([start, end, error])).groupby([*square.T]).mean().to_numpy()
    return means[:, :2], means[:, 2:4], means[:, 4]


def _axis_name(adata: AnnData, spatial_key: str, axis: int) -> str:
    """Name of the column of a data frame, otherwise the number of the axis."""
    table = adata.obsm.get(spatial_key)
    if isinstance(table, pd.DataFrame) and axis < table.shape[1]:
        return plain(table.columns[axis])
    return f"axis {axis}"
