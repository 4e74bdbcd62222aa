"""The repulsive priors: the expected overlap and its forces, and Lemmas 4 and 5 for two other forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rmve.maths.gaussians import cosine_gram, log_normal
from rmve.maths.hsic import gini, hsic_trace
from rmve.maths.repulsion import EPSILON, REPULSIONS, default_bandwidth, expected_overlap, means_only, pairwise_hsic

BANDWIDTH_SQ = torch.tensor(1.5, dtype=torch.float64)


@pytest.fixture(params=sorted(REPULSIONS))
def penalty(request):
    """Each repulsive prior in turn."""
    return REPULSIONS[request.param]


@pytest.fixture
def duplicated(random_mixture):
    """A mixture of four components whose last component is a copy of the third."""
    weights, mean, var = random_mixture(4, 2)
    copy = torch.tensor([0, 1, 2, 2])
    return weights, mean[copy], var[copy]


def log_g(rho: Tensor) -> Tensor:
    """``log g(t)`` with ``g(t) = t / (1 + t)`` and ``t = 2 (1 - rho)`` for each pair of components."""
    row, col = torch.triu_indices(rho.shape[-1], rho.shape[-1], offset=1)
    t = 2 * (1 - rho[..., row, col])
    return t.log() - t.log1p()


def draws_of_cosine_gram(n_draws: int, n_components: int) -> Tensor:
    """Cosine Gram matrices of components drawn independently from a base prior, ``(n_draws, K, K)``."""
    mean = 3 * torch.randn(n_draws, n_components, 2)
    var = (0.7 * torch.randn(n_draws, n_components, 2)).exp()
    return torch.vmap(lambda m, v: cosine_gram(m, v, 2.0))(mean, var)


# --- the expected overlap -------------------------------------------------------------------------------


@pytest.mark.parametrize("n_components", [1, 2, 6])
def test_overlap_is_gap_to_gini(random_mixture, n_components):
    """``Σ_{a≠b} w_a w_b rho_ab`` is the Gini index minus the HSIC of the unit embeddings."""
    weights, mean, var = random_mixture(n_components, 3)
    gap = gini(weights) - hsic_trace(weights, cosine_gram(mean, var, BANDWIDTH_SQ))
    torch.testing.assert_close(expected_overlap(weights, mean, var, BANDWIDTH_SQ), gap)


@pytest.mark.parametrize("spread", [0.0, 0.3, 1.0, 3.0])
def test_overlap_bounds(random_mixture, spread):
    """``0 <= R <= 1 - Σ w²``, strictly within for distinct components."""
    weights, mean, var = random_mixture(6, 3, spread=spread)
    assert 0 < expected_overlap(weights, mean, var, BANDWIDTH_SQ) < gini(weights)


def test_overlap_is_largest_iff_occupied_components_coincide(random_mixture):
    """``R`` reaches the Gini index if all occupied components coincide, whatever the empty ones are."""
    weights, mean, var = random_mixture(4, 2)
    weights = torch.cat([weights[:3] / weights[:3].sum(), torch.zeros(1)])
    mean[:3], var[:3] = mean[0].clone(), var[0].clone()
    torch.testing.assert_close(expected_overlap(weights, mean, var, BANDWIDTH_SQ), gini(weights))
    for changed in (mean, var):
        changed[1, 0] += 0.1
        assert expected_overlap(weights, mean, var, BANDWIDTH_SQ) < gini(weights) - 1e-5
        changed[1, 0] -= 0.1


def test_overlap_vanishes_for_disjoint_components(random_mixture):
    """``R`` tends to zero as the occupied components move apart, and is zero for a single occupied one."""
    weights, mean, var = random_mixture(4, 2)
    values = [expected_overlap(weights, scale * mean, var, BANDWIDTH_SQ) for scale in (1.0, 3.0, 10.0, 100.0)]
    assert all(b < a for a, b in zip(values, values[1:], strict=False))
    assert values[-1] < 1e-12
    single = torch.tensor([0.0, 1.0, 0.0, 0.0])
    assert expected_overlap(single, mean, var, BANDWIDTH_SQ) == 0


def test_merge_lowers_overlap(duplicated):
    """Merging two coinciding components lowers ``R`` by exactly ``2 w_a w_b`` and keeps the mixture density."""
    weights, mean, var = duplicated
    merged = torch.cat([weights[:2], weights[2:].sum(0, keepdim=True)])
    fall = expected_overlap(weights, mean, var, BANDWIDTH_SQ) - expected_overlap(
        merged, mean[:3], var[:3], BANDWIDTH_SQ
    )
    torch.testing.assert_close(fall, 2 * weights[2] * weights[3], rtol=1e-12, atol=1e-15)
    z = torch.randn(20, 1, 2)
    before = (log_normal(z, mean, var) + weights.log()).logsumexp(-1)
    after = (log_normal(z, mean[:3], var[:3]) + merged.log()).logsumexp(-1)
    torch.testing.assert_close(before, after)


def test_forces_match_closed_form(random_mixture):
    """Forces on means and weights are the closed forms, by autograd and by finite differences.

    ``-dR/dmu_a = 2 w_a Σ_b w_b rho_ab A_ab⁻¹ (mu_a - mu_b)`` and ``dR/dw_a = 2 Σ_{b≠a} w_b rho_ab``.
    """
    bandwidth_sq = torch.tensor([0.6, 1.0, 2.0])
    weights, mean, var = (v.requires_grad_() for v in random_mixture(5, 3))
    expected_overlap(weights, mean, var, bandwidth_sq).backward()

    w, m, v = weights.detach(), mean.detach(), var.detach()
    rho = cosine_gram(m, v, bandwidth_sq)
    direction = (m[:, None] - m) / (v[:, None] + v + bandwidth_sq)
    force = 2 * w[:, None] * torch.einsum("b,ab,abj->aj", w, rho, direction)
    torch.testing.assert_close(-mean.grad, force, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(weights.grad, 2 * (rho - torch.eye(5)) @ w, rtol=1e-10, atol=1e-12)
    assert torch.autograd.gradcheck(
        lambda *parameters: expected_overlap(*parameters, bandwidth_sq), (weights, mean, var)
    )


def test_force_on_means_is_away_from_the_other_component():
    """Two components on a line push each other apart with opposite and equal forces."""
    mean = torch.tensor([[-0.2], [0.7]], requires_grad=True)
    expected_overlap(torch.tensor([0.8, 0.2]), mean, torch.tensor([[1.0], [0.5]]), BANDWIDTH_SQ).backward()
    force = -mean.grad[:, 0]
    assert force[0] < 0 < force[1]
    torch.testing.assert_close(force[0], -force[1])


def test_empty_component_feels_nothing(random_mixture):
    """A component of weight zero neither pushes nor is pushed, and does not change ``R``."""
    weights, mean, var = random_mixture(4, 3, spread=0.5)
    weights = torch.cat([torch.zeros(1), weights[1:] / weights[1:].sum()])
    mean.requires_grad_()
    var.requires_grad_()
    value = expected_overlap(weights, mean, var, BANDWIDTH_SQ)
    with_empty = torch.autograd.grad(value, (mean, var))
    occupied = expected_overlap(weights[1:], mean[1:], var[1:], BANDWIDTH_SQ)
    without_empty = torch.autograd.grad(occupied, (mean, var))
    torch.testing.assert_close(value, occupied)
    for with_, without in zip(with_empty, without_empty, strict=True):
        assert torch.equal(with_[0], torch.zeros(3))
        assert with_[1:].abs().min() > 0
        torch.testing.assert_close(with_, without)


def test_equal_split_of_duplicates_is_unstable(duplicated):
    """For two coinciding components the equal split is a maximum of ``R``, and gradient flow leaves it.

    Moving ``e`` from one to the other lowers ``R`` by exactly ``2 e²``: the first derivative along this
    direction is zero and the second is ``-4``.
    """
    weights, mean, var = duplicated
    shared = weights[2:].sum()

    def overlap(share: Tensor) -> Tensor:
        split = torch.stack([shared * share, shared * (1 - share)])
        return expected_overlap(torch.cat([weights[:2], split]), mean, var, BANDWIDTH_SQ)

    half = torch.tensor(0.5, requires_grad=True)
    (slope,) = torch.autograd.grad(overlap(half), half, create_graph=True)
    (curvature,) = torch.autograd.grad(slope, half)
    assert slope.abs() < 1e-15
    torch.testing.assert_close(curvature, -4 * shared**2)
    for e in (1e-3, 0.05, -0.05):
        fall = overlap(half) - overlap(half + e / shared)
        assert fall.item() == pytest.approx(2 * e**2, rel=1e-8)

    logit = torch.tensor(0.01, requires_grad=True)
    for _ in range(500):
        (slope,) = torch.autograd.grad(overlap(logit.sigmoid()), logit)
        logit = (logit - 2 * slope).detach().requires_grad_()
    assert logit.sigmoid() > 0.99


# --- every entry of the registry ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n_components", [1, 2, 5])
@pytest.mark.parametrize("case", ["distinct", "coincident", "one empty", "far apart", "narrow", "wide"])
def test_finite_everywhere(penalty, random_mixture, case, n_components, dtype):
    """Values and gradients are finite, also at coinciding components, for ``K = 1`` and in single precision."""
    weights, mean, var = random_mixture(n_components, 10)
    if case == "coincident":
        mean, var = mean[:1].repeat(n_components, 1), var[:1].repeat(n_components, 1)
    elif case == "one empty":
        weights = torch.arange(1.0, n_components + 1) - int(n_components > 1)
        weights = weights / weights.sum()
    elif case == "far apart":
        mean = 1e4 * mean
    elif case == "narrow":
        var = 1e-8 * var
    elif case == "wide":
        var = 1e8 * var
    parameters = [v.to(dtype).requires_grad_() for v in (weights, mean, var)]
    value = penalty(*parameters, default_bandwidth(parameters[0], parameters[2]))
    assert value.dtype == dtype
    assert value.shape == ()
    assert value.isfinite()
    assert value > -2 * EPSILON
    for gradient in torch.autograd.grad(value, parameters, allow_unused=True):
        assert gradient is None or gradient.isfinite().all()


def test_single_component_has_no_penalty(penalty, random_mixture):
    """A single component is not penalised, up to the small constant in the logarithms."""
    assert penalty(*random_mixture(1, 3), BANDWIDTH_SQ).abs() <= EPSILON


def test_does_not_depend_on_order(penalty, random_mixture):
    """Relabelling the components leaves the penalty unchanged."""
    weights, mean, var = random_mixture(6, 3)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    value = penalty(weights, mean, var, BANDWIDTH_SQ)
    torch.testing.assert_close(penalty(weights[order], mean[order], var[order], BANDWIDTH_SQ), value)


def test_separated_components_pay_less(penalty, random_mixture):
    """The penalty falls as the same components move apart."""
    weights, mean, var = random_mixture(5, 3)
    values = [penalty(weights, scale * mean, var, BANDWIDTH_SQ) for scale in (0.1, 0.5, 1.0, 3.0, 10.0)]
    assert all(b < a for a, b in zip(values, values[1:], strict=False))


def test_gradient_matches_finite_differences(penalty, random_mixture):
    """Autograd's gradient is that of the value."""
    parameters = tuple(v.requires_grad_() for v in random_mixture(3, 2))
    assert torch.autograd.gradcheck(lambda *p: penalty(*p, BANDWIDTH_SQ), parameters)


def test_bandwidth_per_dimension(penalty, random_mixture):
    """Equal length scales for all dimensions are one scalar, and stretching an axis with its scale is no change."""
    weights, mean, var = random_mixture(3, 3)
    value = penalty(weights, mean, var, BANDWIDTH_SQ)
    torch.testing.assert_close(penalty(weights, mean, var, BANDWIDTH_SQ.expand(3)), value)
    stretch = torch.tensor([1.0, 10.0, 0.1])
    stretched = penalty(weights, stretch * mean, stretch**2 * var, stretch**2 * BANDWIDTH_SQ)
    torch.testing.assert_close(stretched, value)


def test_means_only_is_blind_to_covariances(random_mixture):
    """At equal means every penalty but ``means_only`` falls when variances are made different."""
    weights, mean, var = random_mixture(3, 2)
    mean = torch.zeros_like(mean)
    same = var[:1].repeat(3, 1)
    for penalty in REPULSIONS.values():
        gain = penalty(weights, mean, same, BANDWIDTH_SQ) - penalty(weights, mean, var, BANDWIDTH_SQ)
        assert gain == 0 if penalty is means_only else gain > 1e-3


# --- the bandwidth --------------------------------------------------------------------------------------


def test_default_bandwidth_is_mean_variance():
    """The squared length scale is the weighted mean variance."""
    weights = torch.tensor([0.25, 0.75])
    var = torch.tensor([[1.0, 3.0, 2.0], [4.0, 4.0, 4.0]])
    assert default_bandwidth(weights, var).item() == pytest.approx(0.25 * 2 + 0.75 * 4)
    assert default_bandwidth(2 * weights, var).item() == pytest.approx(0.25 * 2 + 0.75 * 4)


def test_default_bandwidth_has_no_gradient(random_mixture):
    """No gradient flows through the bandwidth."""
    weights, _, var = (v.requires_grad_() for v in random_mixture(3, 2))
    assert not default_bandwidth(weights, var).requires_grad


def test_default_bandwidth_ignores_empty_components(random_mixture):
    """The variances of a component of weight zero do not enter."""
    weights, _, var = random_mixture(4, 2)
    weights = torch.cat([torch.zeros(1), weights[1:]])
    torch.testing.assert_close(default_bandwidth(weights, var), default_bandwidth(weights[1:], var[1:]))


@pytest.mark.parametrize("n_latent", [2, 10, 50])
@pytest.mark.parametrize("distance", [1.0, 5.0])
def test_default_bandwidth_gives_the_same_overlap_in_any_dimension(n_latent, distance):
    """Unit spheres at a distance ``D`` overlap by ``exp(-D² / 6)``, whatever ``d`` is."""
    mean = torch.stack([torch.zeros(n_latent), torch.full((n_latent,), distance / math.sqrt(n_latent))]).double()
    var = torch.ones(2, n_latent, dtype=torch.float64)
    rho = cosine_gram(mean, var, default_bandwidth(torch.tensor([0.5, 0.5], dtype=torch.float64), var))[0, 1]
    assert rho.item() == pytest.approx(math.exp(-(distance**2) / 6))


# --- Lemma 4: the normaliser of the pairwise form -------------------------------------------------------


def test_pairwise_is_minus_log_product_of_g(random_mixture):
    """``pairwise_hsic`` is ``-log Π g(t_ab)^{1/K}`` up to the constant that keeps it finite."""
    weights, mean, var = random_mixture(4, 2)
    expected = -log_g(cosine_gram(mean, var, BANDWIDTH_SQ)).sum() / 4
    assert pairwise_hsic(weights, mean, var, BANDWIDTH_SQ).item() == pytest.approx(expected.item(), abs=20 * EPSILON)


@pytest.mark.parametrize("n_components", [2, 4, 8, 16])
def test_lemma4_normaliser_bound(n_components):
    """Lemma 4: the normaliser ``Z_K`` of the pairwise forms is in ``(0, 1)`` and falls at most linearly in ``K``.

    ``-log Z_K <= (K - 1)/2 E|log g|`` for the product of ``g^{1/K}``, ``-log Z_K <= K sqrt(E(log g)²/2)`` for
    the minimum. The product without the exponent ``1/K`` falls quadratically.
    """
    n_draws = 4000
    of_pairs = log_g(draws_of_cosine_gram(50_000, 2))[:, 0]
    pairs = log_g(draws_of_cosine_gram(n_draws, n_components))
    assert of_pairs.isfinite().all()

    def minus_log_mean(value: Tensor) -> tuple[Tensor, Tensor]:
        """``-log E`` of the value, and its standard error."""
        assert 0 < value.mean() < 1
        return -value.mean().log(), value.std() / value.mean() / math.sqrt(n_draws)

    product, product_error = minus_log_mean((pairs.sum(-1) / n_components).exp())
    minimum, minimum_error = minus_log_mean(pairs.min(-1).values.exp())
    assert product < (n_components - 1) / 2 * of_pairs.abs().mean() + 4 * product_error
    assert minimum < n_components * (of_pairs.square().mean() / 2).sqrt() + 4 * minimum_error

    plain = -(pairs.sum(-1).logsumexp(0) - math.log(n_draws))
    # g <= 2/3 because t <= 2
    assert plain >= n_components * (n_components - 1) / 2 * math.log(1.5)
    if n_components >= 4:
        assert plain > (n_components - 1) / 2 * of_pairs.abs().mean()


# --- Lemma 5: the determinant ---------------------------------------------------------------------------


def test_lemma5_determinant(random_mixture):
    """Lemma 5: ``det rho`` is zero if two components coincide and positive otherwise, at equal means too."""
    _, mean, var = random_mixture(4, 2)
    equal_means = torch.zeros_like(mean)
    copy = torch.tensor([0, 1, 2, 1])
    for location in (mean, equal_means):
        distinct = torch.linalg.det(cosine_gram(location, var, BANDWIDTH_SQ))
        coincident = torch.linalg.det(cosine_gram(location[copy], var[copy], BANDWIDTH_SQ))
        assert 1e-10 < distinct < 1
        assert coincident.abs() < 1e-16


@pytest.mark.parametrize("n_components", [2, 3, 6])
@pytest.mark.parametrize("spread", [0.3, 3.0])
def test_determinant_below_trace(random_mixture, n_components, spread):
    """``pdet(C^½ rho C^½)^{1/(K-1)} <= HSIC/(K-1)`` with ``C = diag(w) - w w'``: the volume is below the trace."""
    weights, mean, var = random_mixture(n_components, 3, spread=spread)
    rho = cosine_gram(mean, var, BANDWIDTH_SQ)
    values, vectors = torch.linalg.eigh(weights.diag() - torch.outer(weights, weights))
    root = vectors @ values.clamp_min(0).sqrt().diag() @ vectors.T
    spectrum = torch.linalg.eigvalsh(root @ rho @ root)
    assert spectrum[0].abs() < 1e-14
    hsic = hsic_trace(weights, rho)
    torch.testing.assert_close(spectrum.sum(), hsic)
    geometric, arithmetic = spectrum[1:].log().mean().exp(), hsic / (n_components - 1)
    if n_components == 2:  # one eigenvalue: equality
        torch.testing.assert_close(geometric, arithmetic)
    else:
        assert geometric < arithmetic


def test_positive_hsic_does_not_exclude_duplicates(duplicated):
    """The converse fails: with one pair of duplicates HSIC is positive while the determinant is zero."""
    weights, mean, var = duplicated
    rho = cosine_gram(mean, var, BANDWIDTH_SQ)
    assert hsic_trace(weights, rho) > 0.05
    assert torch.linalg.det(rho).abs() < 1e-16
