"""Overlap, merge tree and order of clusters, on arrays small enough to check by hand."""

from __future__ import annotations

import numpy as np
import pytest

from rmve import components


@pytest.fixture
def three():
    """Six cells in clusters 0, 1 and 3 of four; 0 and 1 overlap, 3 lies apart."""
    assigned = np.array([0, 0, 0, 1, 1, 3])
    r = np.array(
        [
            [0.6, 0.4, 0.0, 0.0],
            [0.5, 0.5, 0.0, 0.0],
            [1.0, 0.0, 0.0, 0.0],
            [0.3, 0.7, 0.0, 0.0],
            [0.2, 0.8, 0.0, 0.0],
            [0.0, 0.1, 0.0, 0.9],
        ]
    )
    latent = np.array([[0.0], [0.1], [0.2], [1.0], [1.2], [9.0]])
    return assigned, r, latent


def test_overlap_matrix(three):
    """The overlap is the mass that two clusters would exchange, over the size of the smaller one."""
    assigned, r, _ = three
    overlap = components.overlap_matrix(assigned, r)
    assert overlap[0, 1] == pytest.approx((0.4 + 0.5 + 0.0 + 0.3 + 0.2) / 2)
    np.testing.assert_allclose(overlap, overlap.T)
    assert (np.diag(overlap) == 0).all()
    assert (overlap[2] == 0).all()  # empty
    assert overlap[0, 3] == 0


def test_graph_overlap():
    """Normalised by what the clusters share with themselves; splitting a cluster at random hardly changes it."""
    confusion = np.array([[8.0, 2.0, 0.0], [1.0, 2.0, 0.0], [0.0, 0.0, 0.0]])
    overlap = components.graph_overlap(confusion, np.array([10, 3, 0]))
    np.testing.assert_allclose(overlap, [[0.0, 1.5 / 4.0, 0.0], [1.5 / 4.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    # two halves of the first cluster, each of which has half of every neighbourhood
    halves = np.array([[2.0, 2.0, 1.0], [2.0, 2.0, 1.0], [0.5, 0.5, 2.0]])
    split = components.graph_overlap(halves, np.array([5, 5, 3]))
    assert split[0, 1] == pytest.approx(1.0)
    assert split[0, 2] == pytest.approx(overlap[0, 1])


@pytest.mark.parametrize("mixing", [0.9, 1.1])
def test_graph_overlap_is_compared_with_chance(mixing):
    """Below the least share of what a random mixture would give there is none."""
    sizes = np.array([60.0, 40.0])
    shared = mixing * components.MIN_MIXING * 60 * 40 / 100
    confusion = np.array([[60 - shared, shared], [shared, 40 - shared]])
    assert (components.graph_overlap(confusion, sizes)[0, 1] > 0) == (mixing > 1)


def test_merge_tree_by_hand(three):
    """The overlapping pair goes first; then the distance decides; the empty cluster takes no part."""
    tree = components.merge_tree(*three)
    assert tree.shape == (2, 4)
    np.testing.assert_array_equal(tree[:, :2], [[0, 1], [0, 3]])
    assert tree[0, 2] == pytest.approx(0.7)
    # Ward: n_a n_b / (n_a + n_b) |a - b|² / n
    assert tree[0, 3] == pytest.approx(3 * 2 / 5 * (0.1 - 1.1) ** 2 / 6)
    assert tree[1, 2] == pytest.approx(0.1)  # what cluster 3 would give to the merged one
    assert tree[1, 3] == pytest.approx(5 * 1 / 6 * (0.5 - 9.0) ** 2 / 6)


def test_merge_tree_without_overlap_is_ward():
    """Without overlap, the pair whose union costs least in within-cluster sum of squares is merged first."""
    latent = np.array([[0.0], [0.0], [5.0], [5.0], [6.0], [6.0]])
    tree = components.merge_tree(np.repeat([0, 1, 2], 2), np.repeat(np.eye(3), 2, axis=0), latent)
    np.testing.assert_array_equal(tree[:, :2], [[1, 2], [0, 1]])


@pytest.mark.parametrize("n_used", [0, 1])
def test_merge_tree_of_one_cluster(n_used):
    """One cluster leaves nothing to merge."""
    assigned = np.zeros(n_used * 3, dtype=int)
    tree = components.merge_tree(assigned, np.tile([[1.0, 0.0]], (len(assigned), 1)), np.zeros((len(assigned), 2)))
    assert tree.shape == (0, 4)


def test_cut_tree(three):
    """The first merges of the tree are carried out, and a chain of merges ends at its lowest number."""
    tree = components.merge_tree(*three)
    np.testing.assert_array_equal(components.cut_tree(tree, 4, 0), [0, 1, 2, 3])
    np.testing.assert_array_equal(components.cut_tree(tree, 4, 1), [0, 0, 2, 3])
    np.testing.assert_array_equal(components.cut_tree(tree, 4, 2), [0, 0, 2, 0])


def test_cut_tree_follows_a_chain():
    """A cluster that was merged before goes along when its union is merged."""
    tree = np.array([[1.0, 2.0, 0, 0], [0.0, 1.0, 0, 0]])
    np.testing.assert_array_equal(components.cut_tree(tree, 3, 2), [0, 0, 0])


def test_order_by_size():
    """Clusters come from the largest to the smallest; equal ones, and empty ones at the end, by number."""
    np.testing.assert_array_equal(components.order_by_size(np.array([2, 2, 0, 3]), 5), [2, 0, 3, 1, 4])


def test_partitions_of_the_tree_are_nested():
    """Each cut of the tree is a coarsening of the one before, by one cluster."""
    rng = np.random.default_rng(0)
    assigned = rng.integers(6, size=200)
    latent = rng.normal(size=(6, 2))[assigned] + 0.3 * rng.normal(size=(200, 2))
    r = rng.dirichlet(np.ones(6), size=200)
    tree = components.merge_tree(assigned, r, latent)
    assert len(tree) == 5
    finer = components.cut_tree(tree, 6, 0)
    for merges in range(1, 6):
        coarser = components.cut_tree(tree, 6, merges)
        assert len(np.unique(coarser)) == 6 - merges
        pairs = {(f, c) for f, c in zip(finer, coarser, strict=True)}
        assert len(pairs) == len(np.unique(finer))
        finer = coarser


@pytest.mark.parametrize(
    ("overlaps", "expected"), [([], 0), ([0.9, 0.3, 0.05, 0.4], 2), ([0.1, 0.5], 0), ([0.2, 0.2], 2)]
)
def test_overlapping_merges_come_first(overlaps, expected):
    """Merging stops at the first pair that overlaps by less than the limit."""
    tree = np.zeros((len(overlaps), 4))
    tree[:, 2] = overlaps
    assert components.n_overlapping_merges(tree) == expected


def test_separation_grows_along_the_tree(three):
    """The least distance is over pairs of active components in different clusters, and infinite for one cluster."""
    tree = components.merge_tree(*three)  # 0 and 1, then 0 and 3
    distance = np.array([[np.inf, 1.0, 0.1, 4.0], [1.0, np.inf, 0.1, 3.0], [0.1, 0.1, np.inf, 0.1], [4.0, 3.0, 0.1, 0]])
    active = np.array([True, True, False, True])
    np.testing.assert_array_equal(components.separation_after(tree, distance, active), [1.0, 3.0, np.inf])


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ([0, 0, 1], [5, 5, 2], True),
        ([0, 0, 1], [0, 1, 1], False),
        ([0, 1, 2], [0, 1, 1], False),
        ([0, 1, 1], [0, 1, 2], False),
        ([3], [0], True),
    ],
)
def test_same_partition(first, second, same):
    """Names of the parts do not matter; a coarser or finer partition is another one."""
    assert components.same_partition(np.array(first), np.array(second)) is same
