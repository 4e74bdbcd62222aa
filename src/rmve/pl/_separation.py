"""How far the mixture's components are apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from anndata import AnnData
from matplotlib.axes import Axes
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from rmve._keys import DEFAULT_KEY, Written
from rmve.maths.gaussians import between_components, bhattacharyya
from rmve.pl._colors import cluster_colors
from rmve.pl._docs import documented
from rmve.pl._figure import finish, mixture_components, new_axes, require, row_names

#: Most components for which each cell of the map has its number written into it.
MAX_NUMBERS = 15


@documented
def separation(
    adata: AnnData,
    key: str = DEFAULT_KEY,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Share of their mass that each pair of components in use could have in common, as a heat map.

    Parameters
    ----------
    %(annotated)s
    %(ax)s
    %(show)s

    Returns
    -------
    The axes: a row and a column for each component, in the order of the merge of the closest, named by its cluster.

    Raises
    ------
    %(missing)s

    Notes
    -----
    The colour is Bhattacharyya's coefficient, ``exp(-D)`` of the distance ``D`` in nats that :func:`components` shows:
    1 for two components that coincide, 0 for two that are disjoint. Two components of equal weight have at most
    that share of their mass in common.
    """
    names = Written(key)
    require(adata.obs, "obs", names.cluster, key)
    table, means, variances = mixture_components(adata, key)
    distance = between_components(bhattacharyya, torch.as_tensor(means), torch.as_tensor(variances)).numpy()
    order = _closest_together(distance)
    shared = np.exp(-distance[np.ix_(order, order)].astype(float))
    clusters = table["cluster"].astype(str).iloc[order]
    n, labels = len(order), row_names(clusters)
    size = 1.8 + 0.34 * n + 0.08 * max(map(len, labels))  # names stand on both sides
    axes = new_axes(ax, (size + 1.0, size))
    image = axes.imshow(np.where(np.eye(n, dtype=bool), np.nan, shared), cmap="Blues", vmin=0.0, vmax=1.0)
    axes.set_facecolor("0.93")
    if n <= MAX_NUMBERS:
        for a, b in zip(*np.nonzero(~np.eye(n, dtype=bool)), strict=True):
            if shared[a, b] >= 0.005:
                color = "white" if shared[a, b] > 0.6 else "0.2"
                axes.text(b, a, f"{shared[a, b]:.2f}", ha="center", va="center", fontsize=7, color=color)
    rotation = 90 if max(map(len, labels)) > 3 else 0
    axes.set_xticks(range(n), labels, rotation=rotation)
    axes.set_yticks(range(n), labels)
    colors = cluster_colors(adata, names.cluster)
    for ticks in (axes.get_xticklabels(), axes.get_yticklabels()):
        for tick, cluster in zip(ticks, clusters, strict=True):
            tick.set_color(colors.get(cluster, "0.3"))
            tick.set_fontweight("bold")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set(xlabel="cluster", ylabel="cluster", title="overlap of components")
    bar = axes.figure.colorbar(image, ax=axes, shrink=0.8, aspect=18, pad=0.03)
    bar.set_label("exp(−Bhattacharyya distance)")
    bar.outline.set_visible(False)
    return finish(axes, ax, show, save)


def _closest_together(distance: np.ndarray) -> np.ndarray:
    """Order in which close components stand side by side: the leaves of average linkage."""
    if len(distance) < 3:
        return np.arange(len(distance))
    symmetric = (distance + distance.T) / 2
    np.fill_diagonal(symmetric, 0.0)
    condensed = squareform(symmetric, checks=False)
    return leaves_list(linkage(condensed, "average", optimal_ordering=True))
