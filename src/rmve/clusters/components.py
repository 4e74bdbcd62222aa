"""What partitions of components say: agreement, order, and how far apart their clusters are."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from sklearn.metrics import adjusted_rand_score

from rmve.clusters.levels import MergeTree


def separation_at_levels(tree: MergeTree, distance: np.ndarray) -> np.ndarray:
    """Least distance between components of different clusters, at every level of a tree.

    Parameters
    ----------
    tree
        Merges of the components.
    distance
        Of each pair of components, shape ``(K, K)``.

    Returns
    -------
    One value for each level, from the finest to the coarsest; infinite where one cluster is left. It never decreases.
    """
    apart = []
    among = np.ix_(tree.active, tree.active)
    for n_clusters in range(tree.n_finest, tree.n_coarsest - 1, -1):
        cluster = tree.cut(n_clusters)[tree.active]
        apart.append(np.min(distance[among], where=cluster[:, None] != cluster, initial=np.inf))
    return np.array(apart)


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
