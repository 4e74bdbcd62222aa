"""Cells on a plane."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.patches import Ellipse

from rmve._keys import DEFAULT_KEY, Written
from rmve.pl._colors import GREY, cell_colors, cluster_colors
from rmve.pl._figure import despine, finish, mixture_components, new_axes, require, write_names
from rmve.pl._names import plain

#: Opacity of a cell of confidence zero.
MIN_ALPHA = 0.1
#: Longest name, in characters, that is written onto the cells.
MAX_NAME = 10
#: Half axes of a component's ellipse, in standard deviations.
N_SD = 2.0


def embedding(
    adata: AnnData,
    key: str = DEFAULT_KEY,
    basis: str | None = None,
    color: str | None = None,
    confidence: bool = False,
    ellipses: bool = False,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Cells in two dimensions, coloured by cluster or by a number.

    Names of clusters stand at the clusters' medians, moved apart where they would overlap, or in a legend if they are long.

    Parameters
    ----------
    adata
        Cells that :meth:`rmve.RMVE.annotate` wrote to.
    key
        Its ``key_added``.
    basis
        Key of ``adata.obsm``, with or without ``X_``. ``None``: ``X_umap`` if there is one, otherwise RMVE's embedding.
        Of RMVE's embedding the first two principal components are drawn, of others the first two columns.
    color
        Column of ``adata.obs`` or gene to colour by: categories, or numbers, such as
        :attr:`rmve.Stability.cell_stability`; ``None`` is the clusters. Integers are numbers; make them categories with
        ``adata.obs[name].astype("category")``.
    confidence
        Whether cells of an uncertain cluster are drawn paler.
    ellipses
        Whether the mixture's components in use are drawn, too: two standard deviations around their means, which
        hold 86 % of a component's mass on the plane. For RMVE's own embedding only, which is then the default.
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
        If the basis has fewer than two columns, or is not RMVE's embedding although ``ellipses`` are asked for.
    """
    names = Written(key)
    if color is None:
        require(adata.obs, "obs", names.cluster, key)
        color = names.cluster
    colors = cell_colors(adata, color)
    points, labels, plane = _coordinates(adata, names, names.latent if ellipses and basis is None else basis)
    if ellipses and plane is None:
        raise ValueError(
            f"`basis={basis!r}` is not the space of the mixture, so its components have no shape there. Leave `basis` out."
        )
    alpha = np.ones(adata.n_obs)
    if confidence:
        alpha = MIN_ALPHA + (1 - MIN_ALPHA) * np.asarray(require(adata.obs, "obs", names.confidence, key), dtype=float)

    present = colors.present()
    shown = [colors.names[k] for k in present]
    with_legend = max(map(len, shown), default=0) > MAX_NAME

    axes = new_axes(ax, (7.2 if with_legend else 4.8, 4.4))
    order = np.random.default_rng(0).permutation(adata.n_obs)  # no cluster lies on top of the others
    x, y = points[order].T
    axes.scatter(
        x,
        y,
        c=colors.of_cells[order],
        alpha=alpha[order],  # type: ignore[arg-type]  # matplotlib takes an array, its stubs one number only
        s=np.clip(25_000 / adata.n_obs, 0.5, 16),
        linewidths=0,
        rasterized=True,
    )
    if ellipses and plane is not None:
        _draw_components(axes, adata, key, *plane)
    axes.set(xticks=[], yticks=[], xlabel=labels[0], ylabel=labels[1], title=plain(color))
    despine(axes, "top", "right")
    if with_legend or colors.scale is not None:
        colors.legend(axes)
    else:
        medians = np.array([np.median(points[colors.codes == k], axis=0) for k in present]).reshape(-1, 2)
        write_names(axes, medians, shown)
    return finish(axes, ax, show, save)


def _draw_components(axes: Axes, adata: AnnData, key: str, origin: np.ndarray, directions: np.ndarray) -> None:
    """Ellipses of the components on a plane through ``origin``, spanned by the columns of ``directions``."""
    table, means, variances = mixture_components(adata, key)
    colors = cluster_colors(adata, Written(key).cluster)
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
        raise KeyError(f"`basis={basis!r}` is not in `adata.obsm`. Its keys: {keys}.")
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
