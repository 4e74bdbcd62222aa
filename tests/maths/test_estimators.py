"""What the three estimators of an expectation over components are unbiased for, and the best assignment."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rmve.maths.estimators import (
    ESTIMATORS,
    assignment_term,
    expectation_over_y,
    nodes_over_y,
    optimal_assignment,
    sample_one_hot,
)

N_DRAWS = 20_000


@pytest.fixture
def logits():
    """Unnormalised log-probabilities of one cell on four components."""
    return torch.tensor([[0.5, -0.3, 1.0, -1.0]])


@pytest.fixture
def table():
    """The value of each component, for a function that is linear in the weights."""
    return torch.tensor([1.0, -2.0, 0.5, 4.0])


def per_draw(values: Tensor, parameter: Tensor) -> Tensor:
    """Gradient of each of the values by its own row of the parameter."""
    return torch.autograd.grad(values.sum(), parameter)[0]


def assert_mean_is(draws: Tensor, expected: Tensor) -> None:
    """The mean over the draws (first axis) is the expected one within four standard errors."""
    error = (draws.mean(0) - expected).abs()
    assert (error < 4 * draws.std(0) / math.sqrt(draws.shape[0]) + 1e-12).all()


def test_exact_is_weighted_sum():
    """``exact`` is ``Σ_k q_k f(k)`` for each cell, for a function that is not linear in the weights."""
    logits = torch.randn(6, 3)
    offset = torch.randn(6, 3)

    def function(weights: Tensor) -> Tensor:
        return (weights @ torch.tensor([1.0, 2.0, -1.0]) + (weights * offset).sum(-1)).exp()

    expected = sum(
        logits.softmax(-1)[:, k] * (torch.tensor([1.0, 2.0, -1.0])[k] + offset[:, k]).exp() for k in range(3)
    )
    torch.testing.assert_close(expectation_over_y(function, logits, "exact"), expected)


def test_exact_gradient_matches_finite_differences(table):
    """``exact`` differentiates through both ``q(y|x)`` and the function."""
    logits = torch.randn(2, 4, requires_grad=True)
    values = table.clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda q, v: expectation_over_y(lambda w: (w @ v).square(), q, "exact"), (logits, values)
    )


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_nodes_are_a_rule_on_the_simplex(kind):
    """Points lie on the simplex and weights sum to one: ``K`` corners weighted by ``q(y|x)``, or one point."""
    logits = torch.randn(6, 4, requires_grad=True)
    y, weights = nodes_over_y(logits, kind)
    n_nodes = 4 if kind == "exact" else 1
    assert y.shape == (n_nodes, 6, 4)
    assert weights.shape == (n_nodes, 6)
    assert y.min() >= 0
    torch.testing.assert_close(y.sum(-1), torch.ones(n_nodes, 6))
    torch.testing.assert_close(weights.sum(0), torch.ones(6))
    if kind == "exact":
        torch.testing.assert_close((weights[..., None] * y).sum(0), logits.softmax(-1))


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_nodes_and_expectation_are_one_estimate(kind, table):
    """From the same random state the weighted sum over the points is ``expectation_over_y``."""
    logits = torch.randn(6, 4)
    torch.manual_seed(1)
    y, weights = nodes_over_y(logits, kind, temperature=0.3)
    torch.manual_seed(1)
    expected = expectation_over_y(lambda w: (w @ table).sin(), logits, kind, temperature=0.3)
    torch.testing.assert_close((weights * (y @ table).sin()).sum(0), expected)


@pytest.mark.parametrize("kind", ["sample", "gumbel"])
def test_one_evaluation_per_cell(logits, kind):
    """The two estimators evaluate the function once, at weights on the simplex; ``sample`` at a corner of it."""
    seen = []

    def function(weights: Tensor) -> Tensor:
        seen.append(weights)
        return weights[:, 0]

    value = expectation_over_y(function, logits.expand(50, 4), kind)
    assert value.shape == (50,)
    assert len(seen) == 1
    torch.testing.assert_close(seen[0].sum(-1), torch.ones(50))
    assert seen[0].min() >= 0
    assert (seen[0].max(-1).values == 1).all() == (kind == "sample")


def test_sample_value_is_unbiased(logits, table):
    """The mean of ``sample`` over many draws is the exact value, for a non-linear function."""

    def function(weights: Tensor) -> Tensor:
        return (weights @ table).exp()

    draws = expectation_over_y(function, logits.expand(N_DRAWS, 4), "sample")
    assert_mean_is(draws, expectation_over_y(function, logits, "exact")[0])


def test_sample_gradient_is_unbiased_for_function_parameters(logits, table):
    """The mean gradient of ``sample`` by the function's parameters is the exact one."""

    def gradient(kind: str, n: int) -> Tensor:
        parameter = table.expand(n, 4).clone().requires_grad_()
        values = expectation_over_y(lambda w: ((w * parameter).sum(-1)).exp(), logits.expand(n, 4), kind)
        return per_draw(values, parameter)

    exact = gradient("exact", 1)[0]
    assert exact.abs().min() > 0.01
    assert_mean_is(gradient("sample", N_DRAWS), exact)


def test_sample_gives_no_gradient_to_q(logits, table):
    """The value of ``sample`` is constant in ``q(y|x)``; ``exact`` and ``gumbel`` are not."""
    for kind in ESTIMATORS:
        leaf = logits.clone().requires_grad_()
        value = expectation_over_y(lambda w: w @ table, leaf, kind)
        assert value.requires_grad == (kind != "sample")
        if kind != "sample":
            assert per_draw(value, leaf).abs().max() > 1e-3


def test_gumbel_approaches_exact(logits, table):
    """The bias of ``gumbel`` falls with the temperature and vanishes, even for a linear function."""
    exact = expectation_over_y(lambda w: w @ table, logits, "exact")[0]
    biases, errors = [], []
    for temperature in (2.0, 1.0, 0.5, 0.05):
        torch.manual_seed(0)
        draws = expectation_over_y(lambda w: w @ table, logits.expand(5 * N_DRAWS, 4), "gumbel", temperature)
        biases.append((draws.mean() - exact).abs())
        errors.append(draws.std() / math.sqrt(draws.shape[0]))
    assert all(b < a for a, b in zip(biases[:3], biases[1:3], strict=False))
    assert biases[0] > 8 * errors[0]
    assert biases[1] > 8 * errors[1]
    assert biases[-1] < 4 * errors[-1]


def test_gumbel_gradient_is_close_to_exact(logits, table):
    """At a moderate temperature the mean gradient of ``gumbel`` points along the exact one, with some bias."""

    def gradients(kind: str, n: int) -> tuple[Tensor, Tensor]:
        leaf, parameter = logits.expand(n, 4).clone().requires_grad_(), table.expand(n, 4).clone().requires_grad_()
        values = expectation_over_y(lambda w: (w * parameter).sum(-1), leaf, kind, 0.5)
        return torch.autograd.grad(values.sum(), (leaf, parameter))

    for mean, exact in zip(gradients("gumbel", N_DRAWS), gradients("exact", 1), strict=True):
        mean = mean.mean(0)
        assert F.cosine_similarity(mean, exact[0], dim=0) > 0.98
        assert 0.7 < mean.norm() / exact.norm() < 1.3


def test_gumbel_gradient_bias_vanishes(logits, table):
    """The bias of the gradient of ``gumbel`` by ``q(y|x)`` falls with the temperature, while its variance rises."""
    leaf = logits.clone().requires_grad_()
    exact = per_draw(expectation_over_y(lambda w: w @ table, leaf, "exact"), leaf)[0]
    bias, spread = [], []
    for temperature in (2.0, 0.7, 0.2):
        torch.manual_seed(0)
        leaf = logits.expand(5 * N_DRAWS, 4).clone().requires_grad_()
        draws = per_draw(expectation_over_y(lambda w: w @ table, leaf, "gumbel", temperature), leaf)
        bias.append((draws.mean(0) - exact).norm())
        spread.append(draws.std(0).norm())
    assert bias[0] > 2 * bias[1]
    assert bias[1] > 2 * bias[2]
    assert spread[0] < spread[1] < spread[2]


def test_unknown_kind_is_refused(logits, table):
    """Any other name raises a ``ValueError`` that lists the three."""
    with pytest.raises(ValueError, match="'exact', 'gumbel'"):
        expectation_over_y(lambda w: w @ table, logits, "reinforce")
    with pytest.raises(ValueError, match="'exact', 'gumbel'"):
        nodes_over_y(logits, "reinforce")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sample_one_hot_has_softmax_frequencies(logits, dtype):
    """Draws are one-hot rows without gradient whose frequencies are ``softmax(logits)``."""
    leaf = logits.to(dtype).expand(N_DRAWS, 4).clone().requires_grad_()
    draws = sample_one_hot(leaf)
    assert draws.dtype == dtype
    assert not draws.requires_grad
    assert torch.equal(draws.sort(-1).values, torch.tensor([0, 0, 0, 1], dtype=dtype).expand(N_DRAWS, 4))
    probs = logits.softmax(-1)[0]
    error = (draws.double().mean(0) - probs).abs()
    assert (error < 4 * (probs * (1 - probs) / N_DRAWS).sqrt()).all()


@pytest.mark.parametrize("prior_per_cell", [False, True])
def test_optimal_assignment_is_optimal(prior_per_cell):
    """``q*_k ∝ pi_k exp(-KL_k)`` beats any other assignment and attains ``log Σ_k pi_k exp(-KL_k)``."""
    kl = 2.0 * torch.rand(7, 5)
    log_prior = torch.randn(*((7, 5) if prior_per_cell else (5,))).log_softmax(-1)
    log_q, value = optimal_assignment(log_prior, kl)
    closed_form = log_prior.exp() * (-kl).exp()
    torch.testing.assert_close(log_q.exp(), closed_form / closed_form.sum(-1, keepdim=True))
    torch.testing.assert_close(value, closed_form.sum(-1).log())
    torch.testing.assert_close(value, -assignment_term(log_q, log_prior, kl))
    for scale in (0.01, 1.0, 5.0):
        other = (log_q + scale * torch.randn(200, 7, 5)).log_softmax(-1)
        gap = value + assignment_term(other, log_prior, kl)
        # the gap is the divergence of the other assignment from the best one
        torch.testing.assert_close(gap, (other.exp() * (other - log_q)).sum(-1))
        assert gap.min() > 0


def test_optimal_assignment_is_stationary():
    """The gradient of the assignment term by the logits is zero at the best assignment."""
    kl, log_prior = 3.0 * torch.rand(4, 3), torch.randn(3).log_softmax(-1)
    logits = optimal_assignment(log_prior, kl)[0].requires_grad_()
    (gradient,) = torch.autograd.grad(assignment_term(logits.log_softmax(-1), log_prior, kl).sum(), logits)
    assert gradient.abs().max() < 1e-14


def test_optimal_assignment_is_finite_for_large_divergences():
    """Divergences of thousands of nats do not underflow."""
    log_q, value = optimal_assignment(torch.full((2,), math.log(0.5)), torch.tensor([[5000.0, 5001.0]]))
    torch.testing.assert_close(log_q.exp()[0], torch.tensor([1.0, 0.0]).softmax(-1))
    assert value.item() == pytest.approx(math.log(0.5) - 5000 + math.log1p(math.exp(-1)))
