"""Genes that mark clusters: what a cell of a cluster expresses more of than a cell of the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from scipy.stats import rankdata

#: Least log2 fold change, and least share of the cluster's cells with the gene, of a marker.
MIN_LOG_FOLD_CHANGE, MIN_SHARE = 1.0, 0.1
#: Added to means before they are compared, as a share of the mean over all genes: rare genes have no steady ratio.
PSEUDO_SHARE = 0.01
#: Genes that are ranked at once.
BLOCK = 256


def probability_of_more(values: np.ndarray, cluster: np.ndarray, n_clusters: int) -> np.ndarray:
    """Probability that a cell of a cluster has more of a gene than a cell of the others; a tie counts one half.

    The area under the ROC curve of the gene for the cluster, or Mann and Whitney's U over the number of pairs.

    Parameters
    ----------
    values
        Shape ``(n, G)``.
    cluster
        Integers in ``[0, n_clusters)``, shape ``(n,)``.
    n_clusters
        Number of clusters.

    Returns
    -------
    Array of shape ``(n_clusters, G)``; NaN for a cluster that holds no cells, or all.
    """
    member = np.eye(n_clusters)[cluster]
    size = member.sum(0)[:, None]
    found = np.empty((n_clusters, values.shape[1]))
    with np.errstate(invalid="ignore", divide="ignore"):
        for start in range(0, values.shape[1], BLOCK):
            columns = slice(start, start + BLOCK)
            ranks = member.T @ rankdata(values[:, columns], axis=0)
            found[:, columns] = (ranks - size * (size + 1) / 2) / (size * (len(values) - size))
    return found


def marker_table(
    values: np.ndarray,
    cluster: np.ndarray,
    clusters: Sequence[str],
    genes: Sequence[str],
    n: int,
    to_mean: Callable[[np.ndarray], np.ndarray] | None = np.expm1,
) -> pd.DataFrame:
    """The first ``n`` markers of each cluster.

    Genes with a log fold change of at least :data:`MIN_LOG_FOLD_CHANGE` that at least :data:`MIN_SHARE` of the cluster's cells
    express come first, those with the largest probability ahead.

    Parameters
    ----------
    values
        Log-normalised expression, or values of another kind, shape ``(n_cells, G)``.
    cluster
        Integers, shape ``(n_cells,)``.
    clusters, genes
        Their names.
    n
        Genes for each cluster.
    to_mean
        Undoes the logarithm before means are taken; ``None``: means are compared by their difference.

    Returns
    -------
    Data frame as :meth:`rmve.RMVE.get_markers` has it.
    """
    n_clusters, names = len(clusters), np.asarray(genes, dtype=object)
    member = np.eye(n_clusters)[cluster]
    probability = probability_of_more(values, cluster, n_clusters)

    def inside_and_outside(of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        inside, size = member.T @ of, member.sum(0)[:, None]
        return inside / np.maximum(size, 1), (inside.sum(0) - inside) / np.maximum(len(of) - size, 1)

    share_in, share_out = inside_and_outside(values > 0)
    mean_in, mean_out = inside_and_outside(values if to_mean is None else to_mean(values))
    if to_mean is None:
        change = mean_in - mean_out
    else:
        little = PSEUDO_SHARE * max(float(to_mean(values).mean()), 1e-9)
        change = np.log2((mean_in + little) / (mean_out + little))
    tables = []
    for k, name in enumerate(clusters):
        if not np.isfinite(probability[k]).any():
            continue
        marks = (share_in[k] >= MIN_SHARE) & (change[k] >= (0 if to_mean is None else MIN_LOG_FOLD_CHANGE))
        best = np.lexsort((-probability[k], ~marks))[:n]
        columns = {
            "cluster": name,
            "gene": names[best],
            "log_fold_change": change[k][best],
            "share_inside": share_in[k][best],
            "share_outside": share_out[k][best],
            "probability": probability[k][best],
        }
        tables.append(pd.DataFrame(columns))
    if not tables:
        raise ValueError("All cells are of one cluster: there is nothing to compare its genes with.")
    table = pd.concat(tables, ignore_index=True)
    table["cluster"] = pd.Categorical(table["cluster"], categories=list(clusters))
    return table
