"""Cells on the human body."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path as FilePath
from typing import Any

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, Normalize
from matplotlib.patches import Ellipse, PathPatch
from matplotlib.path import Path
from matplotlib.typing import ColorType

from rmve._keys import DEFAULT_KEY, Written
from rmve.body import FRAME, ORGANS
from rmve.pl._colors import GREY, ColorOptions, Limit, Mask, Palette
from rmve.pl._docs import documented
from rmve.pl._figure import require
from rmve.pl._panels import Drawn, Look, Names, Panel, draw_cells, draw_panels, read_panels

#: Half of the body's outline, from the top of the head down to between the legs: points of cubic Bézier curves, as
#: distance from the middle line and height, in the frame of :mod:`rmve.body`. Drawn for RMVE.
MIDDLE = 53.0
HALF = [
    (0.0, -1.0),
    *((5.0, -1.0), (9.2, 3.0), (9.2, 9.5)),
    *((9.2, 13.0), (8.4, 16.0), (7.2, 19.0)),
    *((6.4, 21.0), (6.0, 22.5), (6.0, 25.0)),
    *((6.0, 28.5), (9.0, 29.5), (14.0, 31.0)),
    *((19.5, 32.5), (22.8, 35.0), (24.2, 41.0)),
    *((26.0, 49.0), (27.5, 57.0), (30.5, 66.0)),
    *((33.5, 75.0), (38.0, 84.0), (41.5, 92.0)),
    *((43.6, 94.6), (46.6, 97.0), (48.2, 101.0)),
    *((49.6, 104.5), (51.4, 108.0), (51.0, 110.6)),
    *((50.6, 113.2), (48.0, 113.6), (46.2, 111.4)),
    *((44.0, 108.6), (42.4, 104.6), (40.6, 101.6)),
    *((39.6, 99.8), (39.0, 98.6), (38.2, 96.8)),
    *((33.5, 88.5), (28.5, 79.0), (25.0, 71.0)),
    *((22.0, 64.0), (20.0, 56.0), (18.6, 48.0)),
    *((18.2, 54.0), (17.2, 61.0), (16.2, 67.0)),
    *((15.2, 74.0), (16.2, 80.0), (17.6, 88.0)),
    *((19.0, 96.0), (19.4, 106.0), (18.6, 117.0)),
    *((17.8, 127.0), (16.4, 134.0), (16.2, 141.0)),
    *((16.0, 148.0), (17.2, 154.0), (16.6, 161.0)),
    *((15.8, 170.0), (13.4, 178.0), (13.2, 184.5)),
    *((13.2, 188.0), (18.5, 190.5), (20.2, 193.0)),
    *((21.2, 195.2), (18.5, 196.0), (15.5, 195.8)),
    *((11.5, 195.5), (7.6, 194.5), (6.8, 191.0)),
    *((6.2, 186.0), (6.6, 176.0), (5.6, 166.0)),
    *((4.8, 156.0), (6.2, 148.0), (5.4, 139.0)),
    *((4.6, 128.0), (2.2, 116.0), (0.0, 103.5)),
]
BODY, BODY_EDGE, ORGAN, ORGAN_EDGE = "#f6ede4", "#cdb9a5", "#e9d2c3", "#c9a690"
#: Organs that are drawn faintly behind all data, the large ones first.
DRAWN = ("lung", "colon", "liver", "stomach", "small intestine", "kidney", "heart", "brain", "spleen", "bladder")
#: Organs of which the frame has one side only, drawn on the other, too.
PAIRED = ("lung", "kidney")
#: Least distance between two names beside the body.
LINE_HEIGHT = 6.0
#: Room for them on each side.
NAME_WIDTH = 34.0


def silhouette() -> Path:
    """Outline of the body, seen from the front."""
    half = np.array(HALF)
    right = half * [1.0, 1.0] + [MIDDLE, 0.0]
    left = (half * [-1.0, 1.0] + [MIDDLE, 0.0])[::-1]
    points = np.vstack([right, left[1:], right[:1]])
    codes = [Path.MOVETO] + [Path.CURVE4] * (len(points) - 2) + [Path.CLOSEPOLY]
    return Path(points, codes)


def draw_body(ax: Axes) -> None:
    """Draw the silhouette and some organs for orientation, and set the axes up: head on top, equal scales, no frame."""
    ax.add_patch(PathPatch(silhouette(), facecolor=BODY, edgecolor=BODY_EDGE, linewidth=1.2, zorder=0))
    for name in DRAWN:
        x, y, width, height = ORGANS.loc[name]
        for center in {x, 2 * MIDDLE - x} if name in PAIRED else {x}:
            style: dict[str, Any] = {"facecolor": ORGAN, "edgecolor": ORGAN_EDGE, "linewidth": 0.6, "alpha": 0.55}
            ax.add_patch(Ellipse((center, y), width, height, zorder=1, **style))
    left, right, top, bottom = FRAME
    ax.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")
    ax.set_axis_off()


@documented
def body_map(
    adata: AnnData,
    key: str = DEFAULT_KEY,
    color: Names = None,
    basis: str | None = None,
    names: bool = True,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | FilePath | None = None,
    *,
    layer: str | None = None,
    use_raw: bool | None = None,
    size: float | Sequence[float] | np.ndarray | None = None,
    cmap: str | Colormap | None = None,
    palette: Palette = None,
    vmin: Limit | Sequence[Limit] = None,
    vmax: Limit | Sequence[Limit] = None,
    norm: Normalize | None = None,
    groups: str | Sequence[str] | None = None,
    mask_obs: Mask = None,
    na_color: ColorType = GREY,
    sort_order: bool = True,
    title: str | Sequence[str] | None = None,
    ncols: int = 4,
    return_fig: bool | None = None,
    **kwargs: Any,
) -> Drawn:
    """Draw cells or samples on the human body, where the linear map puts them.

    The arguments after ``save`` mean what they mean in :func:`rmve.pl.embedding`.

    Parameters
    ----------
    adata
        Cells that :meth:`rmve.RMVE.annotate` wrote to, mapped to the frame of :mod:`rmve.body`
        (:func:`rmve.body.add_organ_positions` gives organs their place in it).
    %(key)s
    color
        Column of ``adata.obs`` or gene: categories, such as the organ, or numbers; ``None`` is the clusters. A list has a
        panel for each.
    basis
        Key of ``adata.obsm`` with positions in the body; ``None`` is where the model puts the cells.
    names
        Whether to write the name of each category beside the body, with a line to its median.
    %(ax_of_panel)s
    %(show)s
    %(colors)s
    %(na_color)s
    %(sort_order)s
    %(panels)s

    Returns
    -------
    %(drawn)s

    Raises
    ------
    %(not_found)s
    ValueError
        If the positions are not two-dimensional, or an argument does not fit the panels.

    Notes
    -----
    Cells far outside the body are drawn at the edge of the picture.
    """
    look = Look(ax, show, save, return_fig, title, ncols, size, sort_order, False, kwargs)
    options = ColorOptions(layer, use_raw, cmap, palette, vmin, vmax, norm, groups, mask_obs, na_color)
    panels = read_panels(adata, key, color, options, look)
    basis = basis or Written(key).spatial
    points = np.asarray(require(adata.obsm, "obsm", basis, key), dtype=float)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"A body map needs two coordinates; `adata.obsm[{basis!r}]` has {points.shape}.")
    left, right, top, bottom = FRAME
    known = np.isfinite(points).all(1)
    alpha = 1.0 if "alpha" in kwargs else 0.75  # cells of an organ lie close together
    shown = np.clip(points, [left, top], [right, bottom])

    def draw(where: Axes, panel: Panel) -> None:
        draw_body(where)
        colors = panel.colors
        draw_cells(where, shown, colors, look, (8_000, 2, 26), alpha, zorder=3)
        if colors.scale is not None:
            colors.legend(where, inset=len(panels) > 1)
        elif names:
            present = colors.present(known)
            medians = np.array([np.median(shown[known & (colors.codes == k)], axis=0) for k in present]).reshape(-1, 2)
            _names_beside(where, medians, [colors.names[k] for k in present], [colors.of_names[k] for k in present])
        where.set_title(panel.title)

    return draw_panels(panels, look, (7.2, 8.6), draw)


def _names_beside(ax: Axes, medians: np.ndarray, names: list[str], colors: list[str]) -> None:
    """Write names in two columns, left and right of the body, from head to feet, with lines to the medians."""
    left, right, top, bottom = FRAME
    from_head = np.argsort(medians[:, 1], kind="stable")
    for first, side in enumerate((left, right)):
        rows = from_head[first::2]
        heights = _apart(medians[rows, 1], LINE_HEIGHT, bottom)
        for row, height in zip(rows, heights, strict=True):
            ax.plot([medians[row, 0], side], [medians[row, 1], height], color=colors[row], linewidth=0.7, zorder=2)
            outward = -2.0 if side == left else 2.0
            ax.text(side + outward, height, names[row], ha="right" if side == left else "left", va="center", fontsize=8)
    ax.set_xlim(left - NAME_WIDTH, right + NAME_WIDTH)


def _apart(heights: np.ndarray, step: float, bottom: float) -> np.ndarray:
    """Sorted heights, moved down where they are closer than ``step``, and up again from ``bottom``."""
    moved = heights.astype(float).copy()
    for i in range(1, len(moved)):
        moved[i] = max(moved[i], moved[i - 1] + step)
    if len(moved) and moved[-1] > bottom:
        moved[-1] = bottom
        for i in range(len(moved) - 2, -1, -1):
            moved[i] = min(moved[i], moved[i + 1] - step)
    return moved
