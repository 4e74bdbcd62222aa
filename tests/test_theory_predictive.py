"""The predictive bound, what a division earns under it, and the confusion of halves: each statement of the page.

The models are small enough to sum over all counts, or their values are compared with draws from a fixed seed.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scipy.optimize import minimize
from scipy.stats import betabinom, binom, nbinom, poisson
from sklearn.metrics import cohen_kappa_score
from torch import Tensor
from torch.distributions import Poisson

from rmve.clusters.levels import MIN_CONFUSION, confusion_of, joint_of_halves, merge_tree
from rmve.clusters.support import support_of_merges
from rmve.maths.hsic import gini, hsic_trace
from rmve.maths.repulsion import default_bandwidth, expected_overlap
from rmve.maths.splitting import split_binomial, split_negative_binomial, split_normal

N_CELLS = 20_000
#: Signal to noise of a direction from which on it earns nats.
GOLDEN_RATIO = (1 + math.sqrt(5)) / 2
#: Standard errors that a draw is allowed to be off.
MAX_ERRORS = 4.5


pytestmark = pytest.mark.usefixtures("double_precision_and_fixed_seed")


@pytest.fixture
def rng() -> np.random.Generator:
    """NumPy's random numbers, from a fixed seed."""
    return np.random.default_rng(0)


# ------------------------------------------------------------------ the bound


@pytest.fixture
def mixture() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Two types of cells as Poisson counts of six genes: log weights, means, and halves of the cells' molecules."""
    log_weights = torch.tensor([0.3, 0.7]).log()
    mean = torch.tensor([[4.0, 1.0, 2.0, 3.0, 0.5, 2.0], [1.0, 4.0, 2.0, 0.5, 3.0, 2.0]])
    types = torch.multinomial(log_weights.exp(), N_CELLS, replacement=True)
    x = torch.poisson(mean[types])
    first = split_binomial(x)
    return log_weights, mean, first, x - first


def log_joint(x: Tensor, log_weights: Tensor, mean: Tensor) -> Tensor:
    """``log p(y) p(x|y)`` of one half of the molecules, shape ``(n, K)``."""
    return log_weights + Poisson(mean / 2, validate_args=False).log_prob(x[:, None]).sum(-1)


def bound(log_q: Tensor, target: Tensor, log_weights: Tensor, mean: Tensor) -> Tensor:
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


def test_best_reader_expects_the_target(mixture):
    """``q ∝ p(y) exp E[log p(x''|y) | x']`` beats the posterior of ``x'``, and any other reader of ``x'``."""
    log_weights, mean, first, second = mixture
    posterior = log_joint(first, log_weights, mean).log_softmax(-1)
    expected = posterior.exp() @ (mean / 2)  # E[x'' | x']
    best = log_joint(expected, log_weights, mean).log_softmax(-1)
    value = bound(best, second, log_weights, mean).mean()
    for other in (posterior, 0.5 * best, best + 0.3 * torch.randn(2), best + 0.5 * torch.randn(N_CELLS, 2)):
        assert bound(other.log_softmax(-1), second, log_weights, mean).mean() < value - 1e-3


# ----------------------------------------------------- noise: one population


def joint_law(kind: str, mean: float = 4.0, theta: float = 2.0, largest: int = 80) -> np.ndarray:
    """Exact joint probabilities of the two parts of one gene's counts, shape ``(n, n)``."""
    law = np.zeros((largest, largest))
    for x in range(largest):
        share, parts = np.arange(x + 1), binom
        if kind == "poisson":
            p = poisson.pmf(x, mean) * binom.pmf(share, x, 0.5)
        else:
            parts = (
                binom.pmf(share, x, 0.5) if kind == "nb, binomial" else betabinom.pmf(share, x, theta / 2, theta / 2)
            )
            p = nbinom.pmf(x, theta, theta / (theta + mean)) * parts
        law[share, x - share] += p
    return law


@pytest.mark.parametrize("kind", ["poisson", "nb, binomial", "nb, its own"])
def test_best_reader_of_noise(kind):
    """Whatever the decoder: the best ``q`` is the same for all cells if the parts are independent, and only then."""
    law = joint_law(kind)
    assert law.sum() == pytest.approx(1, abs=1e-6)
    values = np.arange(len(law))
    log_lik = np.array([poisson.logpmf(values, mu) for mu in (1.0, 2.0, 5.0)])  # three components, all decoded wrongly
    expected = (law / law.sum(1, keepdims=True))[:15] @ log_lik.T  # E[log p(x''|y) | x']
    best = np.array([0.5, 0.3, 0.2]) * np.exp(expected)
    best /= best.sum(1, keepdims=True)
    spread = np.ptp(best, axis=0).max()
    assert spread > 0.1 if kind == "nb, binomial" else spread < 1e-6


def test_best_reader_of_all_molecules_reads_noise():
    """Under the plain bound the same decoder makes the best ``q`` differ from cell to cell, and holds nats."""
    weights, rates = np.array([0.5, 0.3, 0.2]), (2.0, 4.0, 10.0)
    x = np.arange(60)
    best = weights[:, None] * np.array([poisson.pmf(x, mu) for mu in rates])
    best /= best.sum(0)
    held = (poisson.pmf(x, 4.0) * (best * np.log(best / weights[:, None])).sum(0)).sum()
    assert held > 0.1


def test_most_that_one_population_earns():
    """The bound is at most minus the entropy of a half, and reaches it only at the true profile with zero nats held."""
    law = joint_law("poisson").sum(0)
    values = np.arange(len(law))
    most = (law * poisson.logpmf(values, 2.0)).sum()
    assert most == pytest.approx(-poisson.entropy(2.0), abs=1e-6)
    for rates in ((2.0, 2.0), (1.8, 2.2), (2.0, 4.0)):
        expected = np.array([(law * poisson.logpmf(values, mu)).sum() for mu in rates])
        value = np.log(0.5 * np.exp(expected).sum())  # at the best q, which is the same for all cells
        held = np.exp(expected) / np.exp(expected).sum()
        assert value < most - 1e-4 if rates[0] != rates[1] else value == pytest.approx(most)
        assert (held == 0.5).all() == (rates[0] == rates[1])


def _best_gain(read: Tensor, scored: Tensor) -> float:
    """Nats per cell that a division by the first gene of what is read gains, with the best profiles and weights."""
    upper = read[:, 0] > read[:, 0].mean()
    whole = Poisson(scored.mean(0)).log_prob(scored).sum(-1).mean()
    parts = torch.cat([Poisson(scored[side].mean(0)).log_prob(scored[side]).sum(-1) for side in (upper, ~upper)]).mean()
    return float(parts - whole - torch.special.entr(torch.stack([upper, ~upper]).double().mean(1)).sum())


def test_noise_earns_nothing_under_the_predictive_bound():
    """One population: a division by what was read predicts the rest no better, and costs its entropy."""
    x = torch.poisson(torch.full((N_CELLS, 50), 20.0))
    first = split_binomial(x)
    assert _best_gain(first, x - first) == pytest.approx(-np.log(2), abs=0.01)


def test_noise_earns_under_the_plain_bound():
    """The same division, scored on the molecules that were read, pays for a third of its cost."""
    x = torch.poisson(torch.full((N_CELLS, 50), 20.0))
    # two halves of a normal variable differ by 2 sqrt(2 / pi) standard deviations: 1 / pi nats per cell
    assert _best_gain(x, x) == pytest.approx(1 / np.pi - np.log(2), abs=0.03)


# ------------------------------------------------- noise: a sample of cells


def test_covariance_of_fresh_halves():
    """Over fresh splits of the same cells: a quarter of the covariance of the counts without the Poisson variance."""
    x = torch.poisson(3 * torch.rand(30, 4) + torch.tensor([0.0, 1.0, 5.0, 20.0]))
    covariance = torch.zeros(4, 4)
    n_splits = 20_000
    center = x.mean(0) / 2
    many = x.expand(n_splits, 30, 4)
    first = split_binomial(many)
    covariance = torch.einsum("snf,sng->fg", first - center, many - first - center) / (n_splits * 30)
    expected = (torch.cov(x.T, correction=0) - torch.diag(x.mean(0))) / 4
    torch.testing.assert_close(covariance, expected, rtol=0, atol=0.03)


def gain_of_direction(signal: float, slope: float, weight: float, log_var: float) -> float:
    """Bound of one direction over that without it: ``z ~ N(0, 1)``, ``x'' ~ N(slope z, 1)``, ``q = N(weight x', var)``."""
    var, total = math.exp(log_var), 1 + signal  # the noise of a half is 1
    error = total - 2 * slope * weight * signal + slope**2 * (weight**2 * total + var)
    divergence = 0.5 * (weight**2 * total + var - 1 - log_var)
    return -0.5 * error + 0.5 * total - divergence


@pytest.mark.parametrize("signal", [0.5, 1.5, 1.7, 3.0, 10.0])
def test_direction_earns_beyond_the_golden_ratio(signal):
    """``(m - 1 - log m) / 2`` with ``m = t² / (1 + t)`` if that exceeds 1, else nothing; the best decoder then ignores it."""
    found = min(
        (
            minimize(
                lambda v: -gain_of_direction(signal, *v),
                start,
                method="Nelder-Mead",
                options={"xatol": 1e-9, "fatol": 1e-12, "maxiter": 4000},
            )
            for start in ((0.1, 0.1, 0.0), (signal**0.5, 0.3, -1.0))
        ),
        key=lambda result: result.fun,
    )
    m = signal**2 / (1 + signal)
    assert (m > 1) == (signal > GOLDEN_RATIO)
    assert -found.fun == pytest.approx(0.5 * (m - 1 - math.log(m)) if m > 1 else 0.0, abs=1e-6)
    if m > 1:
        assert found.x[0] ** 2 == pytest.approx(m - 1, rel=1e-3)


@pytest.mark.parametrize(("n_cells", "learned"), [(1_000, False), (80, True)])
def test_directions_of_noise_in_a_sample(n_cells, learned):
    """One population of 400 genes: all directions lie below the golden ratio unless genes outnumber cells."""
    n_genes, mean = 400, 40.0
    x = torch.poisson(torch.full((n_cells, n_genes), mean))
    covariance = torch.cov(x.T, correction=0)
    eigenvalues, vectors = torch.linalg.eigh(covariance / mean)
    ratio = n_genes / n_cells
    assert float(eigenvalues[-1]) == pytest.approx((1 + ratio**0.5) ** 2, rel=0.1)
    first = split_binomial(x.expand(20, *x.shape))
    read, scored = (part @ vectors[:, -1] for part in (first, x - first))
    signal = float(((read - read.mean()) * (scored - scored.mean())).mean() / (mean / 2))
    assert signal == pytest.approx((float(eigenvalues[-1]) - 1) / 2, rel=0.15)
    assert (signal > GOLDEN_RATIO) == learned
    assert float(eigenvalues[-1] - 1 - eigenvalues[-1].log()) / 2 > 0.3  # what the plain bound pays for it


@pytest.mark.parametrize("depth", [100.0, 1_000.0, 10_000.0])
def test_memory_earns_half(depth):
    """A code of its own for each cell: the plain bound pays all of its deviance for it, the predictive one half."""
    n_cells, profile = 200, torch.full((500,), 1 / 500)
    x = torch.poisson(depth * profile.expand(n_cells, -1))
    log_ratio = ((x / x.sum(-1, keepdim=True)).clamp_min(1e-300) / profile).log()
    plain = (x * log_ratio).sum(-1)
    first = split_binomial(x.expand(50, *x.shape))
    predictive = ((x - first) * log_ratio).sum(-1).mean(0)
    assert float(predictive.mean() / plain.mean()) == pytest.approx(0.5, abs=0.01)
    deep = (len(profile) - 1) / 2
    assert float(plain.mean()) == pytest.approx(deep, rel=0.05) if depth == 10_000 else float(plain.mean()) > 0.3 * deep
    assert plain.mean() > 2 * math.log(n_cells)  # so both pay for it, if the network can tell each cell from all others


# --------------------------------------------------------- other likelihoods


def negative_binomial(mean: float, theta: float, n: int) -> Tensor:
    """Counts: Poisson with a rate that is Gamma distributed."""
    return torch.poisson(mean / theta * torch._standard_gamma(torch.full((n,), theta)))


@pytest.mark.parametrize(("mean", "theta"), [(2.0, 1.0), (50.0, 2.0)])
def test_overdispersion_that_the_likelihood_knows_earns_nothing(mean, theta):
    """The halves correlate by ``1 / (1 + 2 theta / mu)``, and the square of that is what decides: below 1."""
    x = negative_binomial(mean, theta, 200_000)
    first = split_binomial(x)
    correlation = float(torch.corrcoef(torch.stack([first, x - first]))[0, 1])
    assert correlation == pytest.approx(1 / (1 + 2 * theta / mean), abs=0.02)
    explained = float(torch.cov(torch.stack([first, x - first]))[0, 1]) ** 2 / float(first.var())
    assert explained / float((x - first).var()) == pytest.approx(correlation**2, rel=0.02)  # m with the right variance
    assert (explained / (mean / 2) > 1) == (mean / (2 * theta) > GOLDEN_RATIO)  # m if the likelihood were Poisson


@pytest.mark.parametrize(("factor", "fixed_point"), [(2.0, 4.0), (1.0, 2.0)])
def test_dispersion_learned_from_a_part(factor, fixed_point):
    """``theta = 8``: split with twice what a part shows, a part shows ``theta / 2``; with just that, ``√(1 + theta) - 1``."""
    x = negative_binomial(30.0, 8.0, 100_000)
    shown = 3.0
    for _ in range(12):
        first = split_negative_binomial(x, torch.full_like(x, factor * shown))
        part = x - first
        shown = float(part.mean() ** 2 / (part.var() - part.mean()))
    assert shown == pytest.approx(fixed_point, rel=0.05)
    covariance = float(((first - first.mean()) * (part - part.mean())).mean())
    assert covariance == pytest.approx(0.0 if factor == 2 else -(15.0**2) / (shown + 2), abs=2.0)


def test_variance_learned_from_a_copy():
    """Of normal values: half of it added as noise is consistent, all of it grows without end."""
    x = 1.5 * torch.randn(200_000, 1)
    for share, fixed_point in ((0.5, 2 * 1.5**2), (1.0, None)):
        shown = 1.5**2
        for _ in range(20):
            shown = float((2 * x - split_normal(x, torch.tensor([(share * shown) ** 0.5]))).var())
        assert shown == pytest.approx(fixed_point, rel=0.02) if fixed_point else shown > 20 * 1.5**2


def test_a_single_trial_cannot_be_split(rng):
    """Two independent parts of a Bernoulli value for all of its probabilities: one of the two says nothing."""

    def dependence(if_one: np.ndarray, if_zero: np.ndarray) -> float:
        laws = [p * if_one + (1 - p) * if_zero for p in (0.2, 0.5, 0.8)]
        return max(np.abs(law - law.sum(1, keepdims=True) * law.sum(0)).max() for law in laws)

    for _ in range(20):  # joint laws of the two parts, made from the value and random numbers
        if_one, if_zero = rng.dirichlet(np.ones(9), size=2).reshape(2, 3, 3)
        assert dependence(if_one, if_zero) > 1e-3
        shared = rng.dirichlet(np.ones(3))
        assert dependence(np.outer(if_one.sum(1), shared), np.outer(if_zero.sum(1), shared)) < 1e-12


# ------------------------------------------------------- a component's gain


def gain_of_split(profiles: Tensor, shares: Tensor, molecules: float, n: int = N_CELLS) -> dict[str, float]:
    """Gain of two components over one, at the best ``q`` and at the posterior, with the parts of its bounds."""
    types = torch.repeat_interleave((n * shares).round().long())  # as many cells of each as expected
    read = torch.poisson(molecules * profiles[types])
    posterior = (shares.log() + read @ profiles.log().T).log_softmax(-1)
    union = shares @ profiles
    alone = molecules * (profiles * (profiles / union).log()).sum(-1)  # D_s0
    between = molecules * (profiles[:, None] * (profiles[:, None] / profiles).log()).sum(-1)  # D_sk
    expected = posterior.exp() @ (alone[:, None] - between)  # E[log p_k(x'') - log p_0(x'') | x']
    return {
        "best": float((shares.log() + expected).logsumexp(-1).mean()),
        "posterior": float((posterior.exp() * (expected - posterior + shares.log())).sum(-1).mean()),
        "divergence": float(shares @ alone),
        "information": float((posterior.exp() * (posterior - shares.log())).sum(-1).mean()),
        "misread": float((torch.einsum("ns,nk->sk", posterior.exp(), posterior.exp()) / n * between).sum()),
    }


@pytest.mark.parametrize("molecules", [5.0, 20.0, 100.0, 2000.0])
def test_gain_of_a_split_between_its_bounds(molecules):
    """Scored molecules times the divergence, less the information that ``q`` holds, less what is misread."""
    profiles, shares = torch.tensor([[0.5, 0.3, 0.2], [0.3, 0.3, 0.4]]), torch.tensor([0.3, 0.7])
    gain = gain_of_split(profiles, shares, molecules)
    upper = gain["divergence"] - gain["information"]
    assert gain["posterior"] == pytest.approx(upper - gain["misread"], rel=0.01, abs=0.02)
    assert gain["posterior"] - 1e-9 <= gain["best"] <= upper + 0.01
    entropy = float(torch.special.entr(shares).sum())
    assert gain["information"] <= min(entropy, gain["divergence"]) + 0.02
    if molecules == 2000:
        assert gain["best"] == pytest.approx(gain["divergence"] - entropy, rel=0.01)
    if molecules == 5:
        assert gain["best"] < 0  # true types that five molecules do not tell apart are not worth a component


def test_gain_of_a_split_is_depth_times_divergence():
    """With certain types: scored molecules times the Jensen-Shannon divergence, less the entropy of the types."""
    profiles, weights, depth = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]]), torch.tensor([0.4, 0.6]), 200.0
    types = torch.multinomial(weights, N_CELLS, replacement=True)
    scored = torch.poisson(depth * profiles[types])
    union = weights @ profiles
    gain = (scored * (profiles[types] / union).log()).sum(-1).mean() - torch.special.entr(weights).sum()
    divergence = (weights[:, None] * profiles * (profiles / union).log()).sum()
    assert float(gain) == pytest.approx(float(depth * divergence - torch.special.entr(weights).sum()), rel=0.02)


@pytest.mark.parametrize(("divergence", "split"), [(0.6, False), (0.9, True)])
def test_split_starts_at_three_quarters_of_a_nat(divergence, split):
    """Two equal types of many genes: the best decoder tells them apart from .74 scored nats per cell on."""
    sign = torch.where(torch.arange(400) % 2 == 0, 1.0, -1.0)
    contrast, molecules = 0.05, divergence / (0.5 * 0.05**2)  # the divergence per molecule is contrast² / 2
    read = torch.poisson(
        molecules / 400 * (1 + contrast * sign).expand(N_CELLS, -1)
    )  # cells of one type; the other mirrors it
    log_odds = read @ ((1 + contrast * sign) / (1 - contrast * sign)).log()
    mean = (0.5 * log_odds).tanh()  # E[type | x'] of types -1 and 1

    def gain(share: float) -> float:  # decoded contrast as a share of the true one
        return float(-(share**2) * divergence + (2 * share * divergence * mean).cosh().log().mean())

    best = max(np.linspace(0, 1.5, 31), key=gain)
    assert (best > 0.3) == split
    assert (gain(best) > 1e-3) == split
    assert (2 * divergence * float(mean.square().mean()) > 1) == split


def test_two_halves_of_all_cells_cost_half_of_the_strength():
    """The unit of ``tau``; two halves of a share ``w`` of the cells cost ``tau w / 2`` for each of these."""
    zero, one = torch.zeros(2, 3), torch.ones(2, 3)
    assert float(expected_overlap(torch.tensor([0.5, 0.5]), zero, one, torch.tensor(1.0))) == pytest.approx(0.5)
    far = torch.tensor([[0.0] * 3, [0.0] * 3, [100.0] * 3])
    cost = expected_overlap(torch.tensor([0.1, 0.1, 0.8]), far, torch.ones(3, 3), torch.tensor(1.0))
    assert float(cost) / 0.2 == pytest.approx(0.2 / 2)


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


# --------------------------------------------------------------------- levels


def one_hot(labels: np.ndarray) -> np.ndarray:
    """Hard assignments, shape ``(n, K)``."""
    return np.eye(labels.max() + 1)[labels]


def dependence(joint: np.ndarray) -> float:
    """``Σ P(a,a) - P(a)²``."""
    return float(np.trace(joint) - (joint.sum(0) ** 2).sum())


def test_confusion_of_a_random_division(rng):
    """One over the share of the population, within and between its parts; the other population is apart."""
    population = rng.random(N_CELLS) < 0.4

    def assigned() -> np.ndarray:
        return np.eye(3)[np.where(population, (rng.random(N_CELLS) < 0.3).astype(int), 2)]

    confusion = confusion_of(joint_of_halves(assigned(), assigned()))
    np.testing.assert_allclose(confusion[:2, :2], 1 / 0.4, rtol=0.1)
    assert confusion[2, :2].max() == 0


@pytest.mark.parametrize(("mixing", "rises"), [(0.2, False), (0.8, True)])
def test_merging_raises_the_dependence_of_the_halves_above_chance(rng, mixing, rises):
    """It rises by ``2 P(a) P(b) (c_ab - 1)``."""
    types = rng.integers(3, size=N_CELLS)

    def read() -> np.ndarray:  # types 0 and 1 are read at random with this probability
        unsure = (types < 2) & (rng.random(N_CELLS) < mixing)
        return np.eye(3)[np.where(unsure, rng.integers(2, size=N_CELLS), types)]

    joint = joint_of_halves(read(), read()) / N_CELLS
    union = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    change, confusion = dependence(union.T @ joint @ union) - dependence(joint), confusion_of(joint)[0, 1]
    assert change == pytest.approx(2 * joint.sum(0)[0] * joint.sum(0)[1] * (confusion - 1))
    assert (change > 0) == (confusion > 1) == rises


def test_dependence_of_the_halves_is_hsic(rng):
    """Between cells and labels, as Lemma 3 has it: same cell less different cells, and the gap to Gini is the overlap."""
    member = rng.dirichlet(np.full(4, 0.4), size=50)  # of each cell, the mean over its halves
    joint = member.T @ member / 50
    cells = torch.full((50,), 1 / 50)
    hsic = float(hsic_trace(cells, torch.from_numpy(member @ member.T)))
    assert dependence(joint) == pytest.approx(hsic)
    share = torch.from_numpy(joint.sum(0))
    off_diagonal = joint.sum() - np.trace(joint)
    assert float(gini(share)) - hsic == pytest.approx(off_diagonal)
    confusion = confusion_of(joint)
    np.fill_diagonal(confusion, 0.0)
    assert off_diagonal == pytest.approx(float(share @ torch.from_numpy(confusion) @ share))  # Σ w_a w_b c_ab
    assert 0 <= hsic <= float(gini(share))
    assert np.linalg.eigvalsh(joint).min() > -1e-12


def test_dependence_over_gini_is_kappa(rng):
    """Cohen's kappa between the labels of the two halves."""
    types = rng.integers(3, size=400)
    first, second = (np.where(rng.random(400) < 0.3, rng.integers(3, size=400), types) for _ in range(2))
    both = np.concatenate([first, second]), np.concatenate([second, first])
    joint = joint_of_halves(one_hot(first), one_hot(second)) / 400
    assert dependence(joint) / (1 - (joint.sum(0) ** 2).sum()) == pytest.approx(cohen_kappa_score(*both))


def test_heights_do_not_turn(rng):
    """Confusion never rises along the merges of what is one, and stays below the limit after them."""
    for _ in range(20):
        member = rng.dirichlet(np.full(12, 0.2), size=300)
        assigned = member.argmax(1)
        joint = member.T @ member
        tree = merge_tree(joint, assigned, rng.normal(size=(300, 2)), min_cells=0)
        one = tree.confusion[: tree.n_indistinct]
        assert 0 < len(one)
        assert (np.diff(one) <= 1e-12).all()
        assert (one >= MIN_CONFUSION).all()
        assert (tree.confusion[tree.n_indistinct :] < MIN_CONFUSION).all()


@pytest.mark.parametrize("share", [(0.5, 0.5), (0.05, 0.2)])
def test_standard_error_of_the_confusion(rng, share):
    """Of a random division: ``√[(1 + (1 - p_a)(1 - p_b) / (p_a p_b)) / 2n]``."""
    p = np.array([*share, 1 - sum(share)])
    p = p[p > 0]
    values = []
    for _ in range(1_000):
        halves = (np.eye(len(p))[rng.choice(len(p), size=1_000, p=p)] for _ in range(2))
        values.append(confusion_of(joint_of_halves(*halves))[0, 1])
    a, b = share
    error = math.sqrt((1 + (1 - a) * (1 - b) / (a * b)) / 2_000)
    assert np.std(values) == pytest.approx(error, rel=0.1)
    assert np.mean(values) == pytest.approx(1.0, abs=MAX_ERRORS * error / 1_000**0.5 + 0.005)


@pytest.mark.parametrize(("correlation", "n_default"), [(0.0, 1), (0.6, 1), (0.8, 2)])
def test_continuum(rng, correlation, n_default):
    """A normal trait cut in the middle: ``2 arccos(r) / π``, and two clusters from ``r = 1/√2`` on."""
    trait = rng.normal(size=N_CELLS)
    noise = rng.normal(size=(2, N_CELLS))
    halves = (correlation**0.5 * trait + (1 - correlation) ** 0.5 * noise > 0).astype(int)
    joint = joint_of_halves(one_hot(halves[0]), one_hot(halves[1]))
    assert confusion_of(joint)[0, 1] == pytest.approx(2 * math.acos(correlation) / math.pi, abs=0.03)
    assert merge_tree(joint, halves[0], trait[:, None]).n_default == n_default
    assert (correlation > 1 / math.sqrt(2)) == (n_default == 2)


@pytest.mark.parametrize(("mean", "n_default"), [(5.0, 1), (40.0, 2)])
def test_overdispersion_of_one_gene_is_a_continuum(mean, n_default):
    """Binomial halves of a negative binomial gene are of one opinion if the mean exceeds about five times ``theta``."""
    theta = 3.0
    x = negative_binomial(mean, theta, N_CELLS)
    for kind, expected in (("binomial", n_default), ("negative_binomial", 1)):
        first = split_binomial(x) if kind == "binomial" else split_negative_binomial(x, torch.full_like(x, theta))
        labels = [(half > x.median() / 2).long().numpy() for half in (first, x - first)]
        joint = joint_of_halves(one_hot(labels[0]), one_hot(labels[1]))
        assert merge_tree(joint, labels[0], x.numpy()[:, None]).n_default == expected


@pytest.mark.parametrize(("share", "n_default"), [(0.5, 3), (0.02, 2)])
def test_rare_types_are_joined_sooner(rng, share, n_default):
    """Two types that the halves of 3 % of their cells confuse: ``c = 2 · .03 / share``, more if there are few such cells."""
    inside = np.arange(N_CELLS) < share * N_CELLS
    types = np.where(inside, rng.integers(2, size=N_CELLS), 2)
    first, second = types.copy(), types.copy()
    confused = inside & (np.arange(N_CELLS) % 33 == 0)
    second[confused] = 1 - first[confused]
    joint = joint_of_halves(one_hot(first), one_hot(second))
    assert confusion_of(joint)[0, 1] == pytest.approx(2 / 33 / share, rel=0.1)
    assert merge_tree(joint, types, rng.normal(size=(N_CELLS, 2))).n_default == n_default


def test_ward_loses_the_least_scatter(rng):
    """The distance of a merge is what the within-cluster sum of squares per cell rises by, least over all pairs."""
    types = rng.integers(6, size=500)
    latent = rng.normal(size=(6, 3))[types] * 5 + rng.normal(size=(500, 3))
    tree = merge_tree(np.diag(np.bincount(types).astype(float)), types, latent)
    assert tree.n_indistinct == 0

    def scatter(labels: np.ndarray) -> float:
        return sum(((latent[labels == k] - latent[labels == k].mean(0)) ** 2).sum() for k in np.unique(labels)) / 500

    for step in range(5):
        labels, after = (tree.cut(6 - step - i)[types] for i in range(2))
        names = np.unique(labels)
        costs = [scatter(np.where(labels == b, a, labels)) for a in names for b in names if a < b]
        assert scatter(after) == pytest.approx(min(costs))
        assert tree.distance[step] == pytest.approx(scatter(after) - scatter(labels))
    assert (np.diff(tree.distance) >= 0).all()


# -------------------------------------------------------------------- support


def halves_of(rates: np.ndarray, rng: np.random.Generator) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """Two halves of Poisson counts."""
    return tuple(sp.csr_matrix(rng.poisson(rates / 2).astype(float)) for _ in range(2))


def tree_of_two(assigned: np.ndarray):
    """The tree of two clusters."""
    return merge_tree(np.diag(np.bincount(assigned).astype(float)), assigned, assigned[:, None].astype(float))


def test_effect_is_the_divergence_from_below(rng):
    """Nats per molecule; more cells come nearer."""
    profiles = rng.dirichlet(np.full(300, 2.0), size=2)
    profiles[1] = 0.8 * profiles[0] + 0.2 * profiles[1]
    union = profiles.mean(0)
    divergence = 0.5 * (profiles * np.log(profiles / union)).sum()
    effects = []
    for n_cells in (100, 8_000):
        types = np.arange(n_cells) % 2
        effect, support = support_of_merges(*halves_of(500 * profiles[types], rng), types, tree_of_two(types))
        effects.append(float(effect[0]))
        assert support[0] > 5
    assert effects[0] < effects[1] < 1.02 * divergence
    assert effects[1] == pytest.approx(divergence, rel=0.1)


def test_division_of_noise_has_no_support(rng):
    """Cells of one population, assigned by what was read: other molecules say nothing for it."""
    found = []
    for _ in range(20):
        first, second = halves_of(np.full((300, 200), 2.0), rng)
        assigned = (first[:, :20].sum(1).A1 > 20).astype(int)
        found.append(support_of_merges(first, second, assigned, tree_of_two(assigned))[1][0])
    assert np.mean(np.array(found) > 2) <= 0.15
    assert np.mean(found) < 0.5
