"""How sure the assignment is."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from scipy.special import entr

from rmve._keys import DEFAULT_KEY, Written
from rmve._validation import check_choice
from rmve.pl._colors import palette, require_column
from rmve.pl._docs import documented
from rmve.pl._figure import despine, finish, new_axes, require
from rmve.pl._names import plain

#: Confidence from which on a cell counts as sure in the figure.
SURE = 0.9
MEASURES = ("confidence", "entropy")


@documented
def confidence(
    adata: AnnData,
    key: str = DEFAULT_KEY,
    measure: Literal["confidence", "entropy"] = "confidence",
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes:
    """How sure the cells of each cluster are: probability of the assigned cluster, or entropy of all probabilities.

    Parameters
    ----------
    %(annotated)s
    measure
        ``"confidence"``: ``max q(y|x)``; ``"entropy"`` of ``q(y|x)`` over the clusters, in nats: 0 for a cell that is
        sure, 0.69 for one between two clusters, more for one between several.
    %(ax)s
    %(show)s

    Returns
    -------
    The axes: a point for each cell, a circle at the median with a line from the first to the third quartile, and on
    the right the share of sure cells: those with a confidence of at least 0.9, or with at most the entropy of the
    probabilities 0.9 and 0.1, which is 0.33.

    Raises
    ------
    %(missing)s
    ValueError
        If there is no such measure.
    """
    check_choice("measure", measure, MEASURES)
    names = Written(key)
    require(adata.obs, "obs", names.cluster, key)
    column = require_column(adata, names.cluster)
    if measure == "confidence":
        values = np.asarray(require(adata.obs, "obs", names.confidence, key), dtype=float)
        sure, threshold, label = values >= SURE, SURE, "confidence: max q(y|x)"
        limits = (min(0.5, values.min()) - 0.02, 1.01)
    else:
        probabilities = np.asarray(require(adata.obsm, "obsm", names.probabilities, key), dtype=float)
        values = entr(probabilities).sum(1)
        threshold = float(entr([SURE, 1 - SURE]).sum())
        sure, label, limits = values <= threshold, "entropy of q(y|x), nats", (-0.02, max(0.7, values.max()) + 0.02)
    categories, codes = column.cat.categories, column.cat.codes.to_numpy()
    colors = palette(adata, names.cluster, categories)
    present = [k for k in range(len(categories)) if (codes == k).any()]

    axes = new_axes(ax, (5.4, 1.2 + 0.34 * len(present)))
    rng = np.random.default_rng(0)
    for row, k in enumerate(present):
        of_cluster = values[codes == k]
        height = row + rng.uniform(-0.3, 0.3, len(of_cluster))
        size = np.clip(9000 / len(values), 0.5, 8)
        axes.scatter(of_cluster, height, s=size, color=colors[k], alpha=0.5, linewidths=0, rasterized=True)
        low, median, high = np.quantile(of_cluster, [0.25, 0.5, 0.75])
        axes.hlines(row, low, high, color="black", linewidth=1.5)
        axes.plot(median, row, "o", markersize=5, color="white", markeredgecolor="black")
        axes.text(
            1.02,
            row,
            f"{sure[codes == k].mean():.0%}",
            transform=axes.get_yaxis_transform(),
            va="center",
            fontsize=8,
        )
    axes.axvline(threshold, color="0.8", linewidth=0.8, zorder=0)
    axes.set(
        yticks=range(len(present)), yticklabels=[plain(categories[k]) for k in present], ylabel=plain(names.cluster)
    )
    axes.set(ylim=(len(present) - 0.5, -0.5), xlim=limits, xlabel=label)
    sign = "≥" if measure == "confidence" else "≤"
    axes.text(1.02, 1.02, f"{sign} {threshold:.2g}", transform=axes.transAxes, fontsize=8)
    axes.tick_params(axis="y", length=0)
    despine(axes, "top", "right")
    return finish(axes, ax, show, save)
