"""What labels of some cells say of the others, on groups whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.metrics import adjusted_rand_score

from rmve.initialization import nearest_neighbors
from rmve.labels import SPREADING, partition_from_labels, spread_labels


def label_some(truth: np.ndarray, types, n_labelled: int, seed: int = 0) -> np.ndarray:
    """Labels of some cells of each of some types, -1 for all others."""
    rng, labels = np.random.default_rng(seed), np.full(len(truth), -1)
    for k in types:
        labels[rng.choice(np.flatnonzero(truth == k), n_labelled, replace=False)] = k
    return labels


@pytest.mark.parametrize("n_labelled", [1, 5, 20])
def test_labels_spread(groups, n_labelled):
    """When all types have labels, however few, each cell gets its type and nothing is new."""
    points, truth, graph = groups
    labels = label_some(truth, range(5), n_labelled)
    np.testing.assert_array_equal(partition_from_labels(points, graph, 0, labels), truth)


def test_types_without_labels_are_new(groups):
    """Groups without a label come out as new clusters, numbered after the labels, also those that have no cell."""
    points, truth, graph = groups
    labels = label_some(truth, range(3), 15)
    partition = partition_from_labels(points, graph, 0, labels)
    np.testing.assert_array_equal(partition[truth < 3], truth[truth < 3])
    assert set(partition[truth >= 3]) == {3, 4}
    assert adjusted_rand_score(truth, partition) == 1.0
    more = partition_from_labels(points, graph, 0, labels, 6)
    np.testing.assert_array_equal(more, np.where(partition < 3, partition, partition + 3))


def test_few_labels_say_little(groups):
    """A group without labels is not called new where few labels were to be expected in it."""
    points, truth, graph = groups
    partition = partition_from_labels(points, graph, 0, label_some(truth, range(4), 2))
    np.testing.assert_array_equal(partition[truth < 4], truth[truth < 4])
    assert set(partition[truth == 4]) <= set(range(4))


def test_types_may_be_labelled_unevenly(groups):
    """The share of cells with labels may differ from type to type: one with few is not new."""
    points, truth, graph = groups
    labels = truth.copy()
    labels[np.flatnonzero(truth == 4)[2:]] = -1
    labels[np.flatnonzero(truth == 3)[::2]] = -1
    np.testing.assert_array_equal(partition_from_labels(points, graph, 0, labels), truth)


def test_labels_may_split_a_cluster(groups):
    """Types that overlap are told apart by their labels; labelled cells keep theirs, even a wrong one."""
    points, truth, graph = groups
    labels = np.full(250, -1)
    first = np.flatnonzero(truth == 0)
    left = points[first, 1] < 0
    labels[first[:-5]] = np.where(left, 0, 1)[:-5]
    labels[truth > 0] = 2
    labels[np.flatnonzero(truth == 1)[0]] = 0
    partition = partition_from_labels(points, graph, 0, labels)
    np.testing.assert_array_equal(partition[labels >= 0], labels[labels >= 0])
    assert set(partition[first[-5:]]) <= {0, 1}


def test_cells_that_no_label_reaches():
    """Cells that are not connected to any label get that of the nearest mean."""
    points = np.array([[0.0], [0.1], [1.0], [1.1], [9.0], [9.1]])
    graph = sp.csr_matrix(np.kron(np.eye(3), np.array([[0.0, 1.0], [1.0, 0.0]])))
    labels = np.array([7, -1, -1, -1, 2, -1])
    np.testing.assert_array_equal(spread_labels(points, graph, labels, labels >= 0), [7, 7, 7, 7, 2, 2])


def test_spread_labels_against_the_limit():
    """Enough steps of spreading solve the linear system of Zhou et al. (2004)."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(60, 2))
    graph = nearest_neighbors(points, 5, seed=0)
    labels = np.where(rng.random(60) < 0.2, rng.integers(3, size=60), -1)
    both = (graph + graph.T).toarray()
    degree = both.sum(1)
    both /= np.sqrt(degree[:, None] * degree)
    limit = np.linalg.solve(np.eye(60) - SPREADING * both, labels[:, None] == np.arange(3))
    spread = spread_labels(points, graph, labels, labels >= 0)
    free = labels < 0
    assert (spread[free] == limit.argmax(1)[free]).mean() > 0.9
    np.testing.assert_array_equal(spread[~free], labels[~free])
