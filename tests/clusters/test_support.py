"""What unseen molecules say for a division: the divergence of its profiles, and nothing for a division of noise."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from rmve.clusters.support import support_of_merges

N_GENES = 60
N_MOLECULES = 400


def profiles(n: int, strength: float = 3.0) -> np.ndarray:
    """Profiles of types that each have ten marker genes."""
    rate = np.tile(np.random.default_rng(7).gamma(3.0, size=N_GENES), (n, 1))
    for k in range(n):
        rate[k, 10 * k : 10 * (k + 1)] *= strength
    return rate / rate.sum(1, keepdims=True)


def halves(profile: np.ndarray, seed: int = 0) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """Two independent halves of cells with these profiles, shape ``(n, G)``."""
    rng = np.random.default_rng(seed)
    return tuple(sp.csr_matrix(rng.poisson(N_MOLECULES / 2 * profile).astype(np.float32)) for _ in range(2))


def divergence(weights, *pair: np.ndarray) -> float:
    """Jensen-Shannon divergence in nats, of profiles that have the same genes."""
    weights, pair = np.asarray(weights, dtype=float) / np.sum(weights), np.stack(pair)
    return float((weights[:, None] * pair * np.log(pair / (weights @ pair))).sum())


@pytest.mark.parametrize("sizes", [(150, 150), (240, 60)], ids=str)
def test_two_types(make_tree, sizes):
    """The effect is the divergence of the true profiles, a little less as they are estimated, with large support."""
    p, y = profiles(2), np.repeat([0, 1], sizes)
    effect, support = support_of_merges(*halves(p[y]), y, make_tree([(0, 1, 0.0)], 2))
    truth = divergence(sizes, *p)
    assert effect.shape == support.shape == (1,)
    assert 0.85 * truth < effect[0] < 1.03 * truth
    assert support[0] > 8


def test_effect_does_not_depend_on_depth_and_support_does(make_tree):
    """Twice the cells leave the effect as it is and raise the support by a factor of about 1.4."""
    p, found = profiles(2), []
    for n_cells in (200, 400):
        y = np.arange(n_cells) % 2
        found.append(support_of_merges(*halves(p[y]), y, make_tree([(0, 1, 0.0)], 2)))
    (few, few_support), (many, many_support) = found
    np.testing.assert_allclose(few, many, rtol=0.15)
    np.testing.assert_allclose(many_support / few_support, np.sqrt(2), rtol=0.25)


def test_sides_can_be_exchanged(make_tree):
    """Which of the two is kept does not matter."""
    p, y = profiles(2), np.repeat([0, 1], [120, 80])
    first, second = halves(p[y])
    one = support_of_merges(first, second, y, make_tree([(0, 1, 0.0)], 2))
    other = support_of_merges(first, second, y, make_tree([(1, 0, 0.0)], 2))
    np.testing.assert_allclose(one, other)


def test_random_division_of_one_population(make_tree):
    """Has no support, whatever the cells and the division."""
    p, tree, found = profiles(1), make_tree([(0, 1, 0.0)], 2), []
    for seed in range(20):
        y = np.random.default_rng(100 + seed).integers(2, size=200)
        found.append(support_of_merges(*halves(p[np.zeros_like(y)], seed), y, tree)[1][0])
    assert np.mean(np.array(found) < 3) >= 0.95
    assert np.median(found) < 1


def test_division_by_noise_in_one_half(make_tree):
    """One population, divided by a gene's molecules in the half that assigns: unseen molecules do not support that.

    The same molecules do, so the halves are what makes the difference.
    """
    tree, found, seen, p = make_tree([(0, 1, 0.0)], 2), [], [], profiles(1)
    for seed in range(20):
        first, second = halves(p[np.zeros(600, dtype=int)], seed)
        gene = first[:, p.argmax()].toarray().ravel()
        y = (gene > np.median(gene)).astype(int)
        found.append(support_of_merges(first, second, y, tree)[1][0])
        seen.append(support_of_merges(first, first, y, tree)[1][0])
    assert np.mean(np.array(found) < 3) >= 0.95
    assert np.median(found) < 1
    assert np.median(seen) > 5


def test_random_division_of_cells_that_all_differ(make_tree):
    """Both halves of a cell share what is its own: profiles of other cells do not know it, and noise has no support."""
    tree, found = make_tree([(0, 1, 0.0)], 2), []
    for seed in range(20):
        rng = np.random.default_rng(200 + seed)
        own = rng.gamma(2.0, profiles(1) / 2.0, size=(60, N_GENES))
        found.append(support_of_merges(*halves(own, seed), rng.integers(2, size=60), tree)[1][0])
    assert np.mean(np.array(found) < 3) >= 0.95
    assert np.median(found) < 1


def test_tiny_clusters(make_tree):
    """Few cells of a type of its own: less support than many, and numbers in any case; none without a cell."""
    p, tree, support = profiles(2), make_tree([(0, 1, 0.0)], 2), {}
    for n_tiny in (0, 1, 6, 60):
        y = np.repeat([0, 1], [120, n_tiny])
        effect, (support[n_tiny],) = support_of_merges(*halves(p[y]), y, tree)
        assert np.isfinite([*effect, support[n_tiny]]).all()
        assert n_tiny > 0 or effect[0] == 0
    assert support[0] == 0
    assert support[1] < 3
    assert support[1] < support[6] < support[60]


def test_cells_without_molecules(make_tree):
    """No molecules, no support, and no division by zero."""
    empty = sp.csr_matrix((10, N_GENES))
    found = support_of_merges(empty, empty, np.arange(10) % 2, make_tree([(0, 1, 0.0)], 2))
    np.testing.assert_array_equal(found, np.zeros((2, 1)))


def test_unions_come_in_the_order_of_the_tree(make_tree):
    """Each merge compares the unions that are there by then, with the profile of all of their cells."""
    p, sizes = profiles(3), np.array([150, 100, 50])
    y = np.repeat([0, 2, 3], sizes)  # component 1 is not in use
    first, second = halves(p[np.repeat([0, 1, 2], sizes)])
    a, b, c = p
    for merges, expected in (
        ([(2, 3, 0.0), (0, 2, 0.0)], [((100, 50), b, c), ((150, 150), a, (2 * b + c) / 3)]),
        ([(3, 0, 0.0), (2, 3, 0.0)], [((150, 50), a, c), ((100, 200), b, (3 * a + c) / 4)]),
        ([(0, 2, 0.0), (0, 3, 0.0)], [((150, 100), a, b), ((250, 50), (3 * a + 2 * b) / 5, c)]),
    ):
        effect, support = support_of_merges(first, second, y, make_tree(merges, 5))
        np.testing.assert_allclose(effect, [divergence(*case) for case in expected], rtol=0.15)
        assert support.min() > 5


def test_levels_above_a_division_of_noise(make_tree):
    """Two parts of one population have no support, their union and another type do."""
    y = np.repeat([0, 1], [200, 100])
    first, second = halves(profiles(2)[y])
    assigned = np.where(y == 1, 2, np.arange(300) % 2)
    _, support = support_of_merges(first, second, assigned, make_tree([(0, 1, 0.9), (0, 2, 0.0)], 3))
    assert support[0] < 3
    assert support[1] > 20


def test_what_is_given_stays_as_it_is(make_tree):
    """Counts and assignment are only read, and a seed gives the same numbers again."""
    y = np.arange(100) % 2
    first, second = halves(profiles(2)[y])
    before = first.copy(), second.copy(), y.copy()
    tree = make_tree([(0, 1, 0.0)], 2)
    once, again = (support_of_merges(first, second, y, tree, seed=3) for _ in range(2))
    np.testing.assert_array_equal(once, again)
    np.testing.assert_array_equal(y, before[2])
    for now, then in zip((first, second), before, strict=False):
        np.testing.assert_array_equal(now.toarray(), then.toarray())


def test_tree_without_merges(make_tree):
    """One cluster has nothing to support."""
    effect, support = support_of_merges(*halves(profiles(1)[[0] * 5]), np.zeros(5, dtype=int), make_tree([], 1))
    assert effect.shape == support.shape == (0,)
