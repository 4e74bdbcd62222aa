"""Confusion of clusters and the tree of their merges, on matrices small enough to check by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from rmve.clusters.levels import MIN_CONFUSION, MergeTree, confusion_of, joint_of_halves, merge_tree


def merge_apart(joint, min_cells: int = 0, **options) -> MergeTree:
    """The tree of clusters that lie ever farther apart on a line, with as many cells each as the diagonal allows."""
    joint = np.asarray(joint, dtype=float)
    assigned = np.repeat(np.arange(len(joint)), np.maximum(np.round(joint.sum(0)).astype(int), 1))
    return merge_tree(joint, assigned, 2.0 ** assigned[:, None], min_cells=min_cells, **options)


@pytest.fixture
def random():
    """Posteriors of the two halves of 200 cells over six components, and latent means."""
    rng = np.random.default_rng(0)
    first, second = rng.dirichlet(np.full(6, 0.3), size=(2, 200))
    return first, second, rng.normal(size=(200, 2))


# ------------------------------------------------------------------ confusion


def test_joint_of_halves_by_hand():
    """Each cell adds the product of its halves' posteriors, in both orders."""
    first, second = np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([[0.0, 1.0], [1.0, 0.0]])
    np.testing.assert_allclose(joint_of_halves(first, second), [[0.5, 0.75], [0.75, 0.0]])


def test_confusion_by_hand():
    """The joint distribution over that of the halves of different cells; clusters without cells have none."""
    joint = np.array([[5.0, 1.0, 0.0], [1.0, 3.0, 0.0], [0.0, 0.0, 0.0]])  # sizes 6, 4 and 0
    np.testing.assert_allclose(confusion_of(joint), [[5 / 3.6, 1 / 2.4, 0], [1 / 2.4, 3 / 1.6, 0], [0, 0, 0]])


def test_unions_add_up(random):
    """A union's joint distribution is the sum of its parts', and its confusion their mean, weighted by their sizes."""
    first, second, _ = random
    union = np.eye(5)[[0, 1, 0, 2, 3, 4]]  # components 0 and 2 are one
    joint = joint_of_halves(first, second)
    together = joint_of_halves(first @ union, second @ union)
    np.testing.assert_allclose(together, union.T @ joint @ union)
    parts, size = confusion_of(joint)[[0, 2]], joint.sum(0)[[0, 2]]
    np.testing.assert_allclose(confusion_of(together)[0, 1:], np.average(parts[:, [1, 3, 4, 5]], axis=0, weights=size))


# ----------------------------------------------------------------------- tree


def test_merges_by_hand():
    """The confused pair goes first though another is nearer; then Ward decides; an empty component takes no part."""
    joint = np.array([[2.0, 1.0, 0, 0], [1.0, 1.0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1.0]])
    given = joint.copy()
    latent = np.array([[0.0], [0.1], [0.2], [1.0], [1.2], [0.3]])
    tree = merge_tree(joint, np.array([0, 0, 0, 1, 1, 3]), latent, min_cells=0)
    assert (tree.n_components, tree.active.tolist()) == (4, [0, 1, 3])
    assert (tree.kept.tolist(), tree.merged.tolist()) == ([0, 0], [1, 3])
    np.testing.assert_allclose(tree.confusion, [1 / (3 * 2 / 6), 0.0])
    # Ward: n_a n_b / (n_a + n_b) |a - b|² / n
    np.testing.assert_allclose(tree.distance, [3 * 2 / 5 * (0.1 - 1.1) ** 2 / 6, 5 * 1 / 6 * (0.5 - 0.3) ** 2 / 6])
    assert (tree.n_finest, tree.n_default, tree.n_coarsest) == (3, 2, 1)
    np.testing.assert_array_equal(joint, given)


def test_clusters_apart_merge_by_ward():
    """Of clusters that no cell is between, the pair whose union costs least is merged first, and none by default."""
    latent = np.array([[0.0], [0.0], [5.0], [5.0], [6.0], [6.0]])
    tree = merge_tree(2.0 * np.eye(3), np.repeat([0, 1, 2], 2), latent, min_cells=0)
    assert (tree.kept.tolist(), tree.merged.tolist()) == ([1, 0], [2, 1])
    assert tree.n_default == tree.n_finest == 3


def test_one_population_is_one_cluster():
    """Where a half says nothing of the other, however unequal the parts are, the default level is one cluster."""
    share = np.array([0.6, 0.25, 0.1, 0.05])
    tree = merge_apart(100.0 * np.outer(share, share))
    np.testing.assert_allclose(tree.confusion, 1.0)
    assert tree.n_default == 1


@pytest.mark.parametrize(("factor", "n_default"), [(0.99, 2), (1.01, 1)])
def test_least_confusion_of_one_population(factor, n_default):
    """The limit divides clusters that are one from clusters that are two."""
    shared = factor * MIN_CONFUSION / 4  # by chance, two halves of the cells share a quarter of the pairs
    assert merge_apart(100.0 * np.array([[0.5 - shared, shared], [shared, 0.5 - shared]])).n_default == n_default


def test_known_types_are_merged_last():
    """Known types stay two however confused they are; a part of one joins it, and then stays apart from the others."""
    joint = np.array([[2.0, 2.0, 0.0, 1.0], [2.0, 2.0, 0.0, 2.0], [0.0, 0.0, 4.0, 0.0], [1.0, 2.0, 0.0, 1.0]])
    tree = merge_apart(joint, n_known=2)
    assert list(zip(tree.kept.tolist(), tree.merged.tolist(), strict=True)) == [(1, 3), (1, 2), (0, 1)]
    assert tree.confusion[-1] > MIN_CONFUSION
    assert (tree.n_default, tree.n_coarsest) == (3, 1)
    assert merge_apart(joint).n_default == 2


def test_known_types_alone():
    """With nothing but known types, the default level has all of them, and coarser ones can be had."""
    tree = merge_apart(np.ones((3, 3)), n_known=3)
    assert (tree.n_default, tree.n_coarsest) == (3, 1)


def test_few_cells_are_no_population():
    """Clusters of fewer cells than that join the nearest first, though no cell is between them; known types do not."""
    assigned = np.repeat([0, 1, 2, 3], [20, 2, 20, 1])
    joint, latent = np.diag([20.0, 2.0, 20.0, 1.0]), np.array([0.0, 3.0, 4.0, 1.0])[assigned][:, None]
    tree = merge_tree(joint, assigned, latent, min_cells=3)
    assert list(zip(tree.kept, tree.merged, strict=True)) == [(0, 3), (1, 2), (0, 1)]
    assert tree.n_default == 2
    assert merge_tree(joint, assigned, latent, min_cells=3, n_known=4).n_default == 4


@pytest.mark.parametrize("n_cells", [0, 3])
def test_no_merges(n_cells):
    """One cluster, or none, leaves nothing to merge."""
    joint = np.diag([float(n_cells), 0.0])
    tree = merge_tree(joint, np.zeros(n_cells, dtype=int), np.zeros((n_cells, 2)))
    assert len(tree.kept) == tree.n_indistinct == 0
    assert tree.n_finest == tree.n_default == tree.n_coarsest == min(n_cells, 1)
    np.testing.assert_array_equal(tree.cut(tree.n_finest), [0, 1])


# --------------------------------------------------------------------- levels


def test_levels_are_nested(random):
    """Each level is a coarsening of the one before by one cluster, and names it by one of its components."""
    first, second, latent = random
    assigned = first.argmax(1) + (first.argmax(1) >= 3)  # component 3 of seven holds no cells
    joint = np.insert(np.insert(joint_of_halves(first, second), 3, 0.0, axis=0), 3, 0.0, axis=1)
    tree = merge_tree(joint, assigned, latent)
    finer = tree.cut(6)
    np.testing.assert_array_equal(finer, np.arange(7))
    for n_clusters in range(5, 0, -1):
        level = tree.cut(n_clusters)
        assert len(np.unique(level[tree.active])) == n_clusters
        assert level[3] == 3
        np.testing.assert_array_equal(level[level], level)
        np.testing.assert_array_equal(level, level[finer])
        finer = level


def test_a_chain_of_merges(make_tree):
    """A cluster that was merged before goes along when its union is merged."""
    tree = make_tree([(1, 2, 0.9), (0, 1, 0.0)], 3)
    assert (tree.cut(2).tolist(), tree.cut(1).tolist()) == ([0, 1, 1], [0, 0, 0])


@pytest.mark.parametrize("n_clusters", [0, 4])
def test_levels_that_there_are_not(make_tree, n_clusters):
    """The error says which levels there are."""
    with pytest.raises(ValueError, match=f"`n_clusters={n_clusters}` is not between 1 and 3"):
        make_tree([(1, 2, 0.9), (0, 1, 0.0)], 5).cut(n_clusters)


# ---------------------------------------------------------------- dictionaries


def test_tree_through_json(random):
    """A tree that went through JSON is the same, to the last digit."""
    first, second, latent = random
    for tree in (
        merge_tree(joint_of_halves(first, second), first.argmax(1), latent),
        merge_tree(np.eye(2), np.zeros(3, dtype=int), np.zeros((3, 1))),
    ):
        back = MergeTree.from_dict(json.loads(json.dumps(tree.to_dict())))
        for name, value in vars(tree).items():
            np.testing.assert_array_equal(getattr(back, name), value, strict=True)


@pytest.mark.parametrize(
    "change",
    [
        {"n_components": 2},
        {"n_components": "3"},
        {"n_components": 3.0},
        {"active": [0, 1, 5]},
        {"active": [-1, 0, 1]},
        {"active": [0, 1, 1]},
        {"active": [2, 1, 0]},
        {"active": [0, 1, 10**30]},
        {"active": None},
        {"kept": [0]},
        {"kept": [0, 2]},
        {"kept": [2, 0]},
        {"kept": [[0], [0, 1]]},
        {"merged": [1, 1]},
        {"merged": [2, 7]},
        {"confusion": [0.5]},
        {"confusion": ["much", "little"]},
        {"distance": {"a": 1}},
        {"support": [1.0]},
        {"n_indistinct": 3},
        {"n_indistinct": -1},
        {"n_indistinct": 0.5},
        {"n_indistinct": None},
    ],
    ids=repr,
)
def test_what_is_no_tree_is_refused(make_tree, change):
    """Values of a file that are no tree are a ValueError, whatever they are."""
    good = make_tree([(0, 2, 0.9), (0, 1, 0.0)], 3, n_indistinct=1).to_dict()
    MergeTree.from_dict(good)
    with pytest.raises(ValueError):  # noqa: PT011
        MergeTree.from_dict(good | change)


@pytest.mark.parametrize("values", [{}, [], "tree", None, 3])
def test_other_documents_are_no_tree(values):
    """So is anything that is not a dictionary with its names."""
    with pytest.raises(ValueError, match="no merge tree"):
        MergeTree.from_dict(values)
