"""Cells in physical space: where they are, and where the map puts them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, Normalize
from matplotlib.typing import ColorType

from rmve._keys import DEFAULT_KEY, Written
from rmve.pl._colors import GREY, ColorOptions, Limit, Mask, Palette
from rmve.pl._docs import documented
from rmve.pl._image import AUTO, read_image
from rmve.pl._panels import (
    Drawn,
    Look,
    Names,
    Panel,
    check_legend,
    draw_cells,
    draw_panels,
    read_panels,
    write_categories,
)
from rmve.pl._positions import find_spatial_key, predicted_positions, read_frame, true_positions, two


@documented
def spatial(
    adata: AnnData,
    key: str = DEFAULT_KEY,
    color: Names = None,
    predicted: bool = False,
    spatial_key: str | None = None,
    axes: Sequence[int] = (0, 1),
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
    *,
    invert_y: bool | None = None,
    unit: str | None = None,
    img_key: str | None = AUTO,
    img: np.ndarray | None = None,
    alpha_img: float = 1.0,
    library_id: str | None = None,
    scale_factor: float | None = None,
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
    na_color: ColorType | None = None,
    na_in_legend: bool = True,
    sort_order: bool = True,
    frameon: bool | None = None,
    legend_loc: str | None = None,
    title: str | Sequence[str] | None = None,
    ncols: int = 4,
    return_fig: bool | None = None,
    **kwargs: Any,
) -> Drawn:
    """Draw cells in space, coloured by clusters, other columns or genes.

    The arguments from ``layer`` on mean what they mean in :func:`rmve.pl.embedding`. Figures of true and of predicted
    positions have the same limits, which hold the cells of both.

    Parameters
    ----------
    %(annotated)s
    color
        Column of ``adata.obs`` or gene: categories or numbers, such as ``"rmve_spatial_sd"``; ``None`` is the clusters. A
        list has a panel for each.
    predicted
        Whether to draw cells where the linear map puts them, and not where they are.
    %(spatial_key)s
    axes
        The two coordinates to draw.
    %(ax_of_panel)s
    %(show)s
    invert_y
        Whether the vertical axis points down, as in an image. ``None``: if ``adata.uns[spatial_key]`` says that positions
        are those of an image, as scanpy and squidpy store it, and the vertical axis is the second coordinate.
    %(unit)s
    img_key
        Key of the tissue image to draw below the cells, such as ``"hires"``, in
        ``adata.uns[spatial_key][library_id]["images"]``. ``"auto"``: the image that there is, ``"hires"`` before others;
        none if ``adata`` holds several sections. ``None``: no image.
    img
        Image to draw in place of a stored one.
    alpha_img
        Opacity of the image.
    library_id
        Section with the image; ``None`` is the only one.
    scale_factor
        Pixels of the image in a unit of the coordinates. ``None``: the stored ``tissue_{img_key}_scalef``, 1 for ``img``.
    %(colors)s
    na_color
        Colour of cells without a value; ``None`` is grey, and no colour on an image.
    %(na_in_legend)s
    %(sort_order)s
    %(frameon)s
    legend_loc
        Where names of categories stand: ``"right margin"``, which ``None`` is; ``"on data"``; or ``"none"``.
    %(panels)s

    Returns
    -------
    %(drawn)s

    Raises
    ------
    KeyError
        If a key or an image is missing, or a name is neither a column nor a gene.
    TypeError
        If scatter takes no such argument.
    ValueError
        If the positions have no such axes, several sections have images, or an argument does not fit the panels.
    """
    look = Look(ax, show, save, return_fig, title, ncols, size, sort_order, frameon, kwargs)
    check_legend(legend_loc)
    names = Written(key)
    spatial_key = find_spatial_key(adata, names, spatial_key, annotated=False)
    image = read_image(adata, spatial_key, axes, img_key, img, library_id, scale_factor)
    if na_color is None:
        na_color = "none" if image else GREY
    options = ColorOptions(layer, use_raw, cmap, palette, vmin, vmax, norm, groups, mask_obs, na_color, na_in_legend)
    panels = read_panels(adata, key, color, options, look, ", predicted" if predicted else "")
    points = two(predicted_positions(adata, names) if predicted else true_positions(adata, spatial_key), axes)
    frame = read_frame(adata, names, spatial_key, axes, invert_y, unit)

    def draw(where: Axes, panel: Panel) -> None:
        if image:
            image.draw(where, alpha_img)
        draw_cells(where, points, panel.colors, look, (25_000, 1.5, 18))
        if panel.colors.scale is not None or legend_loc in (None, "right margin"):
            panel.colors.legend(where, np.isfinite(points).all(1), inset=len(panels) > 1)
        frame.draw(where, panel.title)

    def write(where: Axes, panel: Panel) -> None:
        if panel.colors.scale is None and legend_loc == "on data":
            write_categories(where, points, panel.colors)

    beside = legend_loc in (None, "right margin")
    return draw_panels(panels, look, (6.4 if beside or len(panels) == 1 else 5.4, 4.6), draw, write)
