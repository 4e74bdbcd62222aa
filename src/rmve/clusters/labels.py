"""What the labels of some cells say of the others: which share their type, and which are of none of the known ones."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from scipy.stats import poisson

from rmve.clusters.initialization import default_n_components, starting_partition
from rmve.clusters.levels import MergeTree, joint_of_halves, merge_tree

#: Share of a cell's label that comes from its neighbours, in each step by which labels spread on the graph.
SPREADING, N_SPREADING_STEPS = 0.9, 20
#: A cluster is of no known type if so few labelled cells have at most this probability.
MAX_P_UNLABELLED = 1e-3
MAX_UNLABELLED_ROUNDS = 10


def partition_from_labels(
    points: np.ndarray, graph: sp.csr_matrix, seed: int, labels: np.ndarray, n_labels: int | None = None
) -> np.ndarray:
    """Partition of the cells to start from when some have labels: types of the labels, and new ones.

    Labels spread to the other cells on the neighbour graph; small clusters that hold too few labelled cells to be of a
    known type (:func:`unlabelled_clusters`) each start a component of their own.

    Parameters
    ----------
    points
        Principal components, shape ``(n, p)``.
    graph
        Neighbour graph whose rows sum to one, shape ``(n, n)``.
    seed
        Of k-means.
    labels
        Type of each cell, ``-1`` for unlabelled, shape ``(n,)``; at least one cell has one.
    n_labels
        Number of types, with cells or not; ``None`` if the last one has a cell.

    Returns
    -------
    Integers, shape ``(n,)``: types below ``n_labels``, new clusters from there on. Labelled cells keep their label.
    """
    n_labels = n_labels or int(labels.max()) + 1
    known = labels >= 0
    partition = spread_labels(points, graph, labels, known.astype(np.float32))
    small = starting_partition(points, default_n_components(len(points)), seed)
    without = unlabelled_clusters(_graph_tree(points, graph, small), small, labels, partition)
    new = without[small] & ~known
    if not new.any():
        return partition
    start = labels.copy()
    start[new] = n_labels + small[new]
    # a cell of a new cluster counts for as much as a cell of a known type does on average
    partition = spread_labels(points, graph, start, np.where(known, 1.0, known.mean()))
    partition = np.unique(np.append(np.arange(n_labels), partition), return_inverse=True)[1]
    return partition[n_labels:]


def spread_labels(points: np.ndarray, graph: sp.csr_matrix, labels: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Give each unlabelled cell the label that spreads to it from its neighbours and theirs.

    Zhou et al. (2004), "Learning with local and global consistency". A cell that no label reaches gets that of the
    nearest mean.

    Parameters
    ----------
    points
        Principal components, shape ``(n, p)``.
    graph
        Neighbour graph, shape ``(n, n)``.
    labels
        Integers, ``-1`` for unlabelled, shape ``(n,)``.
    weight
        How much the label of each cell counts, shape ``(n,)``.

    Returns
    -------
    Labels of all cells, shape ``(n,)``; those that were given are kept.
    """
    known = np.flatnonzero(labels >= 0)
    names, codes = np.unique(labels[known], return_inverse=True)
    mutual = graph + graph.T
    scale = sp.diags(1.0 / np.sqrt(np.maximum(np.asarray(mutual.sum(1)).ravel(), 1e-9)))
    mutual = sp.csr_matrix(scale @ mutual @ scale, dtype=np.float32)
    given = np.zeros((len(labels), len(names)), dtype=np.float32)
    given[known, codes] = weight[known]
    spread = given
    for _ in range(N_SPREADING_STEPS):
        spread = SPREADING * (mutual @ spread) + given
    nearest = spread.argmax(1)
    lost = spread.max(1) == 0
    if lost.any():
        centers = np.stack([points[known][codes == k].mean(0) for k in range(len(names))])
        nearest[lost] = ((centers**2).sum(1) - 2.0 * points[lost] @ centers.T).argmin(1)
    nearest[known] = codes
    return names[nearest]


def unlabelled_clusters(tree: MergeTree, small: np.ndarray, labels: np.ndarray, types: np.ndarray) -> np.ndarray:
    """Small clusters that hold too few labelled cells to be of a known type.

    If cells of a type are labelled at random, the labelled ones among some of its cells are about Poisson. The share of
    cells with a label may differ from type to type, so it is estimated for each, without the cells of clusters found to
    be new. Small clusters are tested first, then what they merge to on the way up the tree; what was found to be new
    counts no more further up.

    Parameters
    ----------
    tree
        Merges of the small clusters.
    small
        Small cluster of each cell, shape ``(n,)``.
    labels
        Type of each cell, ``-1`` for unlabelled, shape ``(n,)``.
    types
        Type that each cell would have if there were no new ones, shape ``(n,)``.

    Returns
    -------
    Whether each small cluster is of no known type.
    """
    known = labels >= 0
    n_small, n_types = small.max() + 1, types.max() + 1
    labelled = np.bincount(small[known], minlength=n_small)
    labelled_of_type = np.bincount(labels[known], minlength=n_types)
    is_new = np.zeros(n_small, dtype=bool)
    for _ in range(MAX_UNLABELLED_ROUNDS):
        share = labelled_of_type / np.maximum(np.bincount(types[known | ~is_new[small]], minlength=n_types), 1)
        expected = np.bincount(small, weights=share[types], minlength=n_small)
        before, is_new = is_new, _below_expectation(tree, labelled, expected)
        if (is_new == before).all():
            break
    return is_new


def _graph_tree(points: np.ndarray, graph: sp.csr_matrix, small: np.ndarray) -> MergeTree:
    """Merges of small clusters that share their neighbours: a cell and its neighbour take the place of two halves."""
    member = np.eye(small.max() + 1, dtype=np.float32)[small]
    return merge_tree(joint_of_halves(member, graph @ member), small, points)


def _below_expectation(tree: MergeTree, found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Small clusters in which, or in a union of which, much fewer are found than expected."""
    found, expected = found.copy(), expected.copy()
    below, belongs = poisson.cdf(found, expected) <= MAX_P_UNLABELLED, np.arange(len(found))
    found[below], expected[below] = 0, 0.0
    for a, b in zip(tree.kept[: tree.n_indistinct], tree.merged[: tree.n_indistinct], strict=True):
        belongs[belongs == b] = a
        found[a] += found[b]
        expected[a] += expected[b]
        if poisson.cdf(found[a], expected[a]) <= MAX_P_UNLABELLED:
            below[belongs == a] = True
            found[a], expected[a] = 0, 0.0
    return below
