"""Cells on a plane."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, Normalize
from matplotlib.patches import Ellipse
from matplotlib.typing import ColorType

from rmve._keys import DEFAULT_KEY, Written
from rmve.pl._colors import GREY, ColorOptions, Limit, Mask, Palette, cluster_colors
from rmve.pl._docs import documented
from rmve.pl._figure import despine, mixture_components, require
from rmve.pl._names import plain
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
from rmve.pl._values import suggestion

#: Opacity of a cell of confidence zero.
MIN_ALPHA = 0.1
#: Longest name, in characters, that is written onto the cells.
MAX_NAME = 10
#: Half axes of a component's ellipse, in standard deviations.
N_SD = 2.0


@documented
def embedding(
    adata: AnnData,
    key: str = DEFAULT_KEY,
    basis: str | None = None,
    color: Names = None,
    confidence: bool = False,
    ellipses: bool = False,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
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
    na_in_legend: bool = True,
    sort_order: bool = True,
    frameon: bool | None = None,
    legend_loc: str | None = None,
    title: str | Sequence[str] | None = None,
    ncols: int = 4,
    return_fig: bool | None = None,
    **kwargs: Any,
) -> Drawn:
    """Draw cells in two dimensions, coloured by clusters, other columns or genes.

    The arguments after ``save`` mean what they mean in :func:`scanpy.pl.embedding`. A cluster has the colour of
    ``adata.uns[f"{name}_colors"]`` if there is one, otherwise scanpy's default; nothing is written there. A part of the cells
    may lack clusters, and defaults then go to others: store colours in ``adata.uns`` to keep them.

    Parameters
    ----------
    %(annotated)s
    basis
        Key of ``adata.obsm``, with or without ``X_``. ``None``: ``X_umap`` if there is one, otherwise RMVE's embedding.
        Of RMVE's embedding the first two principal components are drawn, of others the first two columns.
    color
        Column of ``adata.obs`` or gene to colour by: categories, or numbers, such as
        :attr:`rmve.Stability.cell_stability`; ``None`` is the clusters. A list has a panel for each. Integers are numbers;
        make them categories with ``adata.obs[name].astype("category")``.
    confidence
        Whether cells of an uncertain cluster are drawn paler.
    ellipses
        Whether the mixture's components in use are drawn, too: two standard deviations around their means, which
        hold 86 % of a component's mass on the plane. For RMVE's own embedding only, which is then the default.
    %(ax_of_panel)s
    %(show)s
    %(colors)s
    %(na_color)s
    %(na_in_legend)s
    %(sort_order)s
    %(frameon)s
    legend_loc
        Where names of categories stand: ``"on data"``, at their medians, moved apart where they would overlap;
        ``"right margin"``; or ``"none"``. ``None``: on the data, unless a name is long.
    %(panels)s

    Returns
    -------
    %(drawn)s

    Raises
    ------
    %(not_found)s
    ValueError
        If the basis has fewer than two columns, or is not RMVE's embedding although ``ellipses`` are asked for; or if an
        argument does not fit the panels.
    """
    look = Look(ax, show, save, return_fig, title, ncols, size, sort_order, frameon, kwargs)
    options = ColorOptions(layer, use_raw, cmap, palette, vmin, vmax, norm, groups, mask_obs, na_color, na_in_legend)
    check_legend(legend_loc)
    names = Written(key)
    panels = read_panels(adata, key, color, options, look)
    points, labels, plane = _coordinates(adata, names, names.latent if ellipses and basis is None else basis)
    if ellipses and plane is None:
        raise ValueError(
            f"`basis={basis!r}` is not the space of the mixture, so its components have no shape there. Leave `basis` out."
        )
    alpha: np.ndarray | float = 1.0
    if confidence:
        alpha = MIN_ALPHA + (1 - MIN_ALPHA) * np.asarray(require(adata.obs, "obs", names.confidence, key), dtype=float)

    def place(panel: Panel) -> str:
        if panel.colors.scale is not None or legend_loc is not None:
            return legend_loc or "right margin"
        return "right margin" if panel.colors.longest_name() > MAX_NAME else "on data"

    def draw(where: Axes, panel: Panel) -> None:
        draw_cells(where, points, panel.colors, look, (25_000, 0.5, 16), alpha)
        if ellipses and plane is not None:
            chosen = options.palette if panel.name == names.cluster else None
            _draw_components(where, adata, key, *plane, cluster_colors(adata, names.cluster, chosen))
        where.set(xticks=[], yticks=[], xlabel=labels[0], ylabel=labels[1], title=panel.title)
        despine(where, "top", "right")
        if panel.colors.scale is not None or place(panel) == "right margin":
            panel.colors.legend(where, np.isfinite(points).all(1), inset=len(panels) > 1)

    def write(where: Axes, panel: Panel) -> None:
        if panel.colors.scale is None and place(panel) == "on data":
            write_categories(where, points, panel.colors)

    beside = any(panel.colors.scale is None and place(panel) == "right margin" for panel in panels)
    return draw_panels(panels, look, (7.2 if beside else 4.8, 4.4), draw, write)


def _draw_components(
    axes: Axes, adata: AnnData, key: str, origin: np.ndarray, directions: np.ndarray, colors: dict[str, str]
) -> None:
    """Ellipses of the components on a plane through ``origin``, spanned by the columns of ``directions``."""
    table, means, variances = mixture_components(adata, key)
    for cluster, mean, variance in zip(table["cluster"].astype(str), means, variances, strict=True):
        size, axis = np.linalg.eigh(directions.T @ (variance[:, None] * directions))
        width, height = 2 * N_SD * np.sqrt(size)
        angle = np.degrees(np.arctan2(*axis[::-1, 0]))
        center, color = (mean - origin) @ directions, colors.get(cluster, GREY)
        for width_of_line, of_line in ((3.0, "white"), (1.5, color)):
            shape = Ellipse(center, width, height, angle=angle, fill=False, linewidth=width_of_line, edgecolor=of_line)
            axes.add_patch(shape)
    axes.autoscale_view()


def _coordinates(
    adata: AnnData, names: Written, basis: str | None
) -> tuple[np.ndarray, tuple[str, str], tuple[np.ndarray, np.ndarray] | None]:
    """Points, shape ``(n, 2)``, what the axes are called, and origin and directions of a plane of RMVE's embedding."""
    if basis is None:
        basis = "X_umap" if "X_umap" in adata.obsm else names.latent
    name = basis if basis in adata.obsm else f"X_{basis}"
    if basis == names.latent:
        require(adata.obsm, "obsm", basis, names.key_added)
    elif name not in adata.obsm:
        keys = ", ".join(map(repr, adata.obsm)) or "none"
        near = suggestion(basis, adata.obsm)
        raise KeyError(f"`basis={basis!r}` is not in `adata.obsm`.{near} Its keys: {keys}.")
    points = np.asarray(adata.obsm[name], dtype=float)
    if points.ndim != 2 or points.shape[1] < 2:
        raise ValueError(f"`adata.obsm[{name!r}]` has fewer than two columns. Choose another `basis`.")
    if name == names.latent:
        return _principal_components(points, name)
    stem = name.removeprefix("X_")
    stem = stem.upper() if stem in ("umap", "tsne", "pca") else stem
    return points[:, :2], (f"{plain(stem)} 1", f"{plain(stem)} 2"), None


def _principal_components(
    points: np.ndarray, name: str
) -> tuple[np.ndarray, tuple[str, str], tuple[np.ndarray, np.ndarray]]:
    origin = points.mean(0)
    centered = points - origin
    variance, directions = np.linalg.eigh(centered.T @ centered)
    directions = directions[:, :-3:-1]
    directions = directions * np.sign(directions[np.abs(directions).argmax(0), [0, 1]])
    share = 100 * variance[:-3:-1] / max(variance.sum(), np.finfo(float).tiny)
    first, second = (f"PC {i + 1} of {plain(name)} ({share[i]:.0f} %)" for i in range(2))
    return centered @ directions, (first, second), (origin, directions)
