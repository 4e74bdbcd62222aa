"""What the components of a trained mixture say about clusters: overlap, merge tree, order, names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
from sklearn.metrics import adjusted_rand_score

#: Least overlap by which clusters are merged as overlapping; below it, by distance.
MIN_OVERLAP = 0.2
#: Least number of shared neighbours, relative to a random mixture, by which clusters of the start are merged as one.
MIN_MIXING = 0.3


def overlap_matrix(assigned: np.ndarray, responsibilities: np.ndarray) -> np.ndarray:
    """Share of the cells of two clusters that the mixture would give to the other one.

    ``o_kl = (Σ_{i in k} r_il + Σ_{i in l} r_ik) / min(n_k, n_l)``, with ``r`` the mixture's own ``p(y|z)``.

    Parameters
    ----------
    assigned
        Cluster of each cell, integers in ``[0, K)``, shape ``(n,)``.
    responsibilities
        ``p(y|z)``, shape ``(n, K)``.

    Returns
    -------
    Symmetric matrix of shape ``(K, K)`` with a zero diagonal; empty clusters overlap with none.
    """
    confusion = confusion_matrix(assigned, responsibilities)
    return overlap_from_confusion(confusion, np.bincount(assigned, minlength=confusion.shape[0]))


def confusion_matrix(assigned: np.ndarray, responsibilities: np.ndarray) -> np.ndarray:
    """``C_kl = Σ_{i in k} r_il``, shape ``(K, K)``; arguments as in :func:`overlap_matrix`."""
    n_clusters = responsibilities.shape[1]
    confusion = np.zeros((n_clusters, n_clusters))
    np.add.at(confusion, assigned, responsibilities)
    return confusion


def overlap_from_confusion(confusion: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """:func:`overlap_matrix` from the confusion of clusters and their sizes."""
    smaller = np.minimum(sizes[:, None], sizes[None])
    overlap = (confusion + confusion.T) / np.maximum(smaller, 1)
    overlap[smaller == 0] = 0.0
    np.fill_diagonal(overlap, 0.0)
    return overlap


def graph_overlap(confusion: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Overlap of clusters on a neighbour graph, 0 where they share too few neighbours to be of one kind.

    ``o_kl = ½ (C_kl + C_lk) / sqrt(C_kk C_ll)``: the form of ``rho`` in the repulsive prior, with the average over a
    cell's neighbours in place of the expected kernel. It is set to 0 where ``½ (C_kl + C_lk)`` is less than
    :data:`MIN_MIXING` times ``n_k n_l / n``, which it would be if the cells were mixed at random. The first says which
    pair is closest, however finely types were split; the second, which compares with chance as modularity does, when
    to stop.

    Parameters
    ----------
    confusion
        :func:`confusion_matrix` of clusters and the share of each cluster among a cell's neighbours, shape ``(K, K)``.
    sizes
        Cells in each cluster, shape ``(K,)``; a cluster without cells overlaps with none.

    Returns
    -------
    Symmetric matrix of shape ``(K, K)`` with a zero diagonal.
    """
    shared = 0.5 * (confusion + confusion.T)
    own = np.maximum(np.diag(confusion), 1e-9)
    by_chance = sizes[:, None] * sizes[None] / sizes.sum()
    overlap = np.where(
        (shared > 0) & (shared >= MIN_MIXING * by_chance), shared / np.sqrt(own[:, None] * own[None]), 0.0
    )
    overlap[by_chance == 0] = 0.0
    np.fill_diagonal(overlap, 0.0)
    return overlap


def merge_tree(
    assigned: np.ndarray,
    responsibilities: np.ndarray,
    latent: np.ndarray,
    overlap_of: Callable[[np.ndarray, np.ndarray], np.ndarray] = overlap_from_confusion,
    min_overlap: float = MIN_OVERLAP,
) -> np.ndarray:
    """Merge clusters one pair at a time, the most overlapping first, then the nearest (Ward).

    Parameters
    ----------
    assigned, responsibilities
        As in :func:`overlap_matrix`.
    latent
        Latent means, shape ``(n, d)``.
    overlap_of
        Overlap of clusters from their confusion and sizes.
    min_overlap
        Pairs that overlap less are merged by distance, after all others.

    Returns
    -------
    Array of shape ``(n_used - 1, 4)``, a row for each merge: the two clusters (a merged one is called by the
    lower of its numbers), their overlap, and the increase of the within-cluster sum of squares per cell.
    """
    n_clusters = responsibilities.shape[1]
    sizes = np.bincount(assigned, minlength=n_clusters).astype(float)
    confusion = confusion_matrix(assigned, responsibilities)
    sums = np.zeros((n_clusters, latent.shape[1]))
    np.add.at(sums, assigned, latent)
    alive = sizes > 0
    rows = []
    while alive.sum() > 1:
        overlap = overlap_of(confusion, np.where(alive, sizes, 0.0))
        center = sums / np.maximum(sizes, 1)[:, None]
        squared = ((center[:, None] - center[None]) ** 2).sum(-1)
        ward = sizes[:, None] * sizes[None] / np.maximum(sizes[:, None] + sizes[None], 1) * squared / len(assigned)
        possible = np.triu(alive[:, None] & alive[None], 1)
        score = np.where(overlap >= min_overlap, overlap, -ward)
        a, b = np.unravel_index(np.where(possible, score, -np.inf).argmax(), score.shape)
        rows.append((a, b, overlap[a, b], ward[a, b]))
        confusion[a] += confusion[b]
        confusion[:, a] += confusion[:, b]
        sums[a] += sums[b]
        sizes[a] += sizes[b]
        alive[b] = False
    return np.array(rows).reshape(-1, 4)


def cut_tree(tree: np.ndarray, n_clusters_total: int, n_merges: int) -> np.ndarray:
    """Cluster that each original cluster belongs to after the first merges of a tree.

    Parameters
    ----------
    tree
        From :func:`merge_tree`.
    n_clusters_total
        ``K``, empty clusters included.
    n_merges
        How many rows of the tree to carry out.

    Returns
    -------
    Integers, shape ``(K,)``.
    """
    belongs = np.arange(n_clusters_total)
    for a, b in tree[:n_merges, :2].astype(int):
        belongs[belongs == b] = a
    return belongs


def n_overlapping_merges(tree: np.ndarray, min_overlap: float = MIN_OVERLAP) -> int:
    """Number of leading merges of a tree whose overlap is at least ``min_overlap``."""
    return int(np.logical_and.accumulate(tree[:, 2] >= min_overlap).sum())


def separation_after(tree: np.ndarray, distance: np.ndarray, active: np.ndarray) -> np.ndarray:
    """Least distance between components of different clusters, at every cut of a tree.

    Parameters
    ----------
    tree
        From :func:`merge_tree`.
    distance
        Of each pair of components, shape ``(K, K)``.
    active
        Which components hold cells, shape ``(K,)``.

    Returns
    -------
    Shape ``(len(tree) + 1,)``: before the first merge, after it, ...; infinite where one cluster is left. It never
    decreases along the tree.
    """
    apart = np.zeros(len(tree) + 1)
    for n_merges in range(len(tree) + 1):
        cluster = cut_tree(tree, len(active), n_merges)
        different = (cluster[:, None] != cluster[None]) & active[:, None] & active[None]
        apart[n_merges] = np.min(distance, where=different, initial=np.inf)
    return apart


def agreement_matrix(partitions: Sequence[np.ndarray]) -> np.ndarray:
    """Adjusted Rand index of each pair of partitions of the same elements, shape ``(m, m)``, 1 on the diagonal."""
    agreement = np.eye(len(partitions))
    for i, j in combinations(range(len(partitions)), 2):
        agreement[i, j] = agreement[j, i] = adjusted_rand_score(partitions[i], partitions[j])
    return agreement


def same_partition(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two partitions of the same elements are equal up to the names of their parts."""
    pairs = set(zip(first.tolist(), second.tolist(), strict=True))
    return len(pairs) == len(set(first.tolist())) == len(set(second.tolist()))


def order_by_size(assigned: np.ndarray, n_clusters: int) -> np.ndarray:
    """Cluster numbers from the largest to the smallest; equal sizes keep their order."""
    return np.argsort(-np.bincount(assigned, minlength=n_clusters), kind="stable")
