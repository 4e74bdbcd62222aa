"""The Potts prior, the agreement and balance of assignments, the Dirichlet prior and binomial thinning."""

from __future__ import annotations

import math

import pytest
import torch

from rmve.maths.regularization import agreement, balance, entropy, potts_log_prior, thin_counts


@pytest.fixture
def log_weights():
    """Log-weights of four components."""
    return torch.tensor([0.4, 0.3, 0.2, 0.1]).log()


@pytest.mark.parametrize("strength", [0.0, 1.0, 8.0])
def test_potts_prior_is_normalised_closed_form(log_weights, strength):
    """``p(y_i = k) = pi_k exp(eta m_ik) / Σ_l pi_l exp(eta m_il)``, and ``pi`` for ``eta = 0``."""
    neighbors = torch.randn(6, 4).softmax(-1)
    prior = potts_log_prior(log_weights, neighbors, strength)
    unnormalised = log_weights.exp() * (strength * neighbors).exp()
    torch.testing.assert_close(prior.exp(), unnormalised / unnormalised.sum(-1, keepdim=True))
    torch.testing.assert_close(prior.logsumexp(-1), torch.zeros(6), atol=1e-14, rtol=0)
    if strength == 0:
        torch.testing.assert_close(prior, log_weights.expand(6, 4))


def test_potts_prior_favours_the_label_of_the_neighbours(log_weights):
    """A label is more probable the more neighbours carry it and the larger the strength."""
    neighbors = torch.tensor([[0.0, 0.0, 0.0, 1.0], [0.5, 0.0, 0.0, 0.5], [0.25] * 4])
    last = [potts_log_prior(log_weights, neighbors, strength)[:, 3] for strength in (1.0, 3.0)]
    assert (last[0][:2] > log_weights[3]).all()
    assert last[0][0] > last[0][1] > last[0][2]
    assert (last[1][:2] > last[0][:2]).all()
    torch.testing.assert_close(last[1][2], log_weights[3])


def test_potts_fixed_point_below_and_above_the_transition():
    """The mean-field iteration ``q = p(. | q)`` is uniform for a weak strength and breaks symmetry for a strong one.

    For ``K`` equal weights the uniform point is stable iff ``eta < K``, the derivative of the map there being
    ``eta / K``.
    """
    n_components = 4
    log_weights = torch.full((n_components,), -math.log(n_components))
    start = torch.tensor([[0.28, 0.24, 0.24, 0.24]])
    limits = {}
    for strength in (0.5 * n_components, 2.0 * n_components):
        q = start
        for _ in range(200):
            q = potts_log_prior(log_weights, q, strength).exp()
        torch.testing.assert_close(potts_log_prior(log_weights, q, strength).exp(), q)
        limits[strength] = q[0, 0].item()
    assert limits[2.0] == pytest.approx(1 / n_components)
    assert limits[8.0] > 0.9


def test_agreement_is_least_at_equality():
    """The cross-entropy is the entropy of the target if the views agree, and larger otherwise."""
    log_q = torch.randn(6, 4).log_softmax(-1)
    other = torch.randn(6, 4).log_softmax(-1)
    torch.testing.assert_close(agreement(log_q, log_q), entropy(log_q))
    excess = agreement(log_q, other) - entropy(log_q)
    torch.testing.assert_close(excess, (log_q.exp() * (log_q - other)).sum(-1))
    assert excess.min() > 0


def test_agreement_gives_gradient_to_the_view_only():
    """The target gets no gradient; the view's logits get ``q(view) - q``."""
    logits, view = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4, requires_grad=True)
    by_target, by_view = torch.autograd.grad(
        agreement(logits.log_softmax(-1), view.log_softmax(-1)).sum(), (logits, view), allow_unused=True
    )
    assert by_target is None
    torch.testing.assert_close(by_view, (view.softmax(-1) - logits.softmax(-1)).detach())


def test_balance_is_least_for_equal_weights(log_weights):
    """The negative entropy is ``-log K`` for equal weights, higher for others, zero for a single component."""
    assert balance(torch.full((4,), 0.25)).item() == pytest.approx(-math.log(4))
    torch.testing.assert_close(balance(log_weights.exp()), -entropy(log_weights))
    assert -math.log(4) < balance(log_weights.exp()) < 0
    assert balance(torch.tensor([0.0, 1.0, 0.0, 0.0])) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_balance_is_finite_at_zero_weights(dtype):
    """Empty components leave the value and the gradient finite, and the gradient fills them."""
    weights = torch.tensor([0.0, 0.0, 0.3, 0.7], dtype=dtype, requires_grad=True)
    value = balance(weights)
    (gradient,) = torch.autograd.grad(value, weights)
    assert value.item() == pytest.approx(0.3 * math.log(0.3) + 0.7 * math.log(0.7), rel=1e-6)
    assert gradient.isfinite().all()
    assert gradient[:2].max() < gradient[2:].min()
    torch.testing.assert_close(gradient[2:], (weights[2:].log() + 1).detach())


def test_entropy_matches_torch():
    """Each cell's entropy is that of the categorical distribution, between 0 and ``log K``."""
    log_q = (3.0 * torch.randn(8, 5)).log_softmax(-1)
    torch.testing.assert_close(entropy(log_q), torch.distributions.Categorical(logits=log_q).entropy())
    assert entropy(torch.full((1, 5), -math.log(5.0))).item() == pytest.approx(math.log(5))
    assert entropy(torch.tensor([[0.0, -800.0]])).item() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int32, torch.int64])
@pytest.mark.parametrize("keep", [0.2, 0.7])
def test_thinned_counts_are_binomial(dtype, keep):
    """Thinning keeps shape and dtype, stays within the counts, and has the binomial mean and variance."""
    n, size = 20_000, 12
    counts = torch.full((n, 2), size, dtype=dtype)
    counts[:, 1] = 0
    thinned = thin_counts(counts, keep)
    assert thinned.shape == counts.shape
    assert thinned.dtype == dtype
    assert (counts == torch.tensor([size, 0])).all()
    assert (thinned[:, 1] == 0).all()
    draws = thinned[:, 0].double()
    assert torch.equal(draws, draws.round())
    assert 0 <= draws.min()
    assert draws.max() <= size
    variance = size * keep * (1 - keep)
    assert (draws.mean() - size * keep).abs() < 4 * math.sqrt(variance / n)
    fourth = (draws - draws.mean()).pow(4).mean()
    assert (draws.var() - variance).abs() < 4 * ((fourth - variance**2) / n).sqrt()


def test_thinning_with_keep_one_is_identity():
    """Keeping every molecule returns the counts."""
    counts = torch.poisson(torch.full((50, 20), 3.0))
    assert torch.equal(thin_counts(counts, 1.0), counts)


def test_thinned_and_removed_counts_are_independent():
    """Of Poisson counts the kept and the removed molecules are uncorrelated, so a thinned cell is a fresh view."""
    counts = torch.poisson(torch.full((40_000,), 5.0))
    kept = thin_counts(counts, 0.5)
    correlation = torch.corrcoef(torch.stack([kept, counts - kept]))[0, 1]
    assert correlation.abs() < 4 / math.sqrt(40_000)


@pytest.mark.parametrize("keep", [0.0, -0.1, 1.1, math.nan])
def test_thinning_refuses_impossible_probabilities(keep):
    """A probability outside ``(0, 1]`` raises a ``ValueError``."""
    with pytest.raises(ValueError, match="keep"):
        thin_counts(torch.ones(2, 2), keep)
