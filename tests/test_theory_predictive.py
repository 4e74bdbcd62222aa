"""The predictive bound and the confusion of halves, on models that are small enough to sum over."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.distributions import Poisson

from rmve.levels import confusion_of, joint_of_halves
from rmve.maths.repulsion import default_bandwidth, expected_overlap
from rmve.maths.splitting import split_binomial

N_CELLS = 20_000


@pytest.fixture(autouse=True)
def fixed_seed():
    """Run each test in double precision from the same state of the random generator, and restore both."""
    previous = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
    torch.set_default_dtype(previous)


@pytest.fixture
def mixture() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two types of cells as Poisson counts of six genes: log weights, means, and halves of the cells' molecules."""
    log_weights = torch.tensor([0.3, 0.7]).log()
    mean = torch.tensor([[4.0, 1.0, 2.0, 3.0, 0.5, 2.0], [1.0, 4.0, 2.0, 0.5, 3.0, 2.0]])
    types = torch.multinomial(log_weights.exp(), N_CELLS, replacement=True)
    x = torch.poisson(mean[types])
    first = split_binomial(x)
    return log_weights, mean, first, x - first


def log_joint(x: torch.Tensor, log_weights: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """``log p(y) p(x|y)`` of one half of the molecules, shape ``(n, K)``."""
    return log_weights + Poisson(mean / 2).log_prob(x[:, None]).sum(-1)


def bound(log_q: torch.Tensor, target: torch.Tensor, log_weights: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """The right-hand side of the predictive bound, shape ``(n,)``."""
    return (log_q.exp() * (log_joint(target, log_weights, mean) - log_q)).sum(-1)


def test_bound_holds_for_any_assignment(mixture):
    """For each cell, also if the assignment was computed from other molecules."""
    log_weights, mean, first, second = mixture
    evidence = log_joint(second, log_weights, mean).logsumexp(-1)
    for log_q in (log_joint(first, log_weights, mean).log_softmax(-1), torch.randn(N_CELLS, 2).log_softmax(-1)):
        assert (bound(log_q, second, log_weights, mean) <= evidence + 1e-10).all()


def test_gap_is_the_divergence_from_the_posterior_of_the_target(mixture):
    """Equality, cell by cell."""
    log_weights, mean, first, second = mixture
    joint = log_joint(second, log_weights, mean)
    log_q = log_joint(first, log_weights, mean).log_softmax(-1)
    gap = joint.logsumexp(-1) - bound(log_q, second, log_weights, mean)
    divergence = (log_q.exp() * (log_q - joint.log_softmax(-1))).sum(-1)
    torch.testing.assert_close(gap, divergence)


def _best_gain(read: torch.Tensor, scored: torch.Tensor) -> float:
    """Nats per cell that a division by the first gene of what is read gains, with the best profiles and weights."""
    upper = read[:, 0] > read[:, 0].mean()
    whole = Poisson(scored.mean(0)).log_prob(scored).sum(-1).mean()
    parts = torch.cat([Poisson(scored[side].mean(0)).log_prob(scored[side]).sum(-1) for side in (upper, ~upper)]).mean()
    share = upper.double().mean()
    return float(parts - whole + share * share.log() + (1 - share) * (1 - share).log())


def test_noise_earns_nothing_under_the_predictive_bound():
    """One population: a division by what was read predicts the rest no better, and costs its entropy."""
    x = torch.poisson(torch.full((N_CELLS, 50), 20.0))
    first = split_binomial(x)
    assert _best_gain(first, x - first) == pytest.approx(-np.log(2), abs=0.05)


def test_noise_earns_under_the_plain_bound():
    """The same division, scored on the molecules that were read, looks like structure: more so with more genes read."""
    x = torch.poisson(torch.full((N_CELLS, 1), 20.0))
    first = split_binomial(x)
    assert _best_gain(x, x) > _best_gain(first, x - first) + 0.2


def test_gain_of_a_split_is_depth_times_divergence():
    """With certain types: scored molecules times the Jensen-Shannon divergence, less the entropy of the types."""
    profiles, weights, depth = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]]), torch.tensor([0.4, 0.6]), 200.0
    types = torch.multinomial(weights, N_CELLS, replacement=True)
    scored = torch.poisson(depth * profiles[types])
    union = weights @ profiles
    gain = (scored * (profiles[types] / union).log()).sum(-1).mean() - torch.special.entr(weights).sum()
    divergence = (weights[:, None] * profiles * (profiles / union).log()).sum()
    assert float(gain) == pytest.approx(float(depth * divergence - torch.special.entr(weights).sum()), rel=0.02)


def test_a_merge_pays_from_that_strength_on():
    """At ``tau_ab`` the objective is level: below it keeping the two components is better, above it merging is."""
    weights, loss = torch.tensor([0.2, 0.3, 0.5]), 0.8
    mean = torch.tensor([[0.0, 0.0], [1.0, 0.0], [50.0, 0.0]])
    var = torch.ones(3, 2)
    bandwidth = default_bandwidth(weights, var)
    apart = expected_overlap(weights, mean, var, bandwidth)
    tau = loss / apart  # the third component overlaps with none, so this is 2 w_a w_b rho_ab
    merged = expected_overlap(torch.tensor([0.5, 0.5]), mean[1:], var[1:], bandwidth)
    for factor, better in ((0.9, "apart"), (1.1, "merged")):
        cost = {"apart": factor * tau * apart, "merged": loss + factor * tau * merged}
        assert min(cost, key=lambda name: float(cost[name])) == better


def test_confusion_of_a_random_division():
    """One over the share of the population, within and between its parts; the other population is apart."""
    rng = np.random.default_rng(0)
    population = rng.random(N_CELLS) < 0.4

    def assigned() -> np.ndarray:
        return np.eye(3)[np.where(population, (rng.random(N_CELLS) < 0.3).astype(int), 2)]

    confusion = confusion_of(joint_of_halves(assigned(), assigned()))
    np.testing.assert_allclose(confusion[:2, :2], 1 / 0.4, rtol=0.1)
    assert confusion[2, :2].max() == 0


@pytest.mark.parametrize(("mixing", "rises"), [(0.2, False), (0.8, True)])
def test_merging_raises_the_dependence_of_the_halves_above_chance(mixing, rises):
    """HSIC of the labels of the halves rises by a merge if and only if the confusion exceeds 1."""
    rng = np.random.default_rng(0)
    types = rng.integers(3, size=N_CELLS)

    def read() -> np.ndarray:  # types 0 and 1 are read at random with this probability
        unsure = (types < 2) & (rng.random(N_CELLS) < mixing)
        return np.eye(3)[np.where(unsure, rng.integers(2, size=N_CELLS), types)]

    joint = joint_of_halves(read(), read()) / N_CELLS

    def dependence(joint: np.ndarray) -> float:
        return float(np.trace(joint) - (joint.sum(0) ** 2).sum())

    union = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    change = dependence(union.T @ joint @ union) - dependence(joint)
    assert (change > 0) == rises
    assert (confusion_of(joint)[0, 1] > 1) == rises
