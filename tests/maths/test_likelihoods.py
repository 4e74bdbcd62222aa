"""Likelihoods evaluated at the non-zero counts only, against reference densities and the dense formulas."""

from __future__ import annotations

import pytest
import scvi.distributions
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Bernoulli, NegativeBinomial, Normal, Poisson

from rmve.maths import likelihoods

N_CELLS, N_GENES = 12, 30


@pytest.fixture(params=["per gene", "per cell"])
def parameters(request):
    """Counts, log means, zero logits, and log inverse dispersions per gene or per cell and gene."""
    x = torch.poisson((2.0 * torch.randn(N_CELLS, N_GENES)).exp())
    x[0] = 0.0  # a cell without counts
    x[:, 0] = 0.0  # a gene without counts
    x[1, 1] = 1e5
    log_mu = torch.randn(N_CELLS, N_GENES)
    log_theta = 2.0 * torch.randn(N_GENES) if request.param == "per gene" else 2.0 * torch.randn(N_CELLS, N_GENES)
    return x, log_mu, log_theta, torch.randn(N_CELLS, N_GENES)


def dense_negative_binomial(x: Tensor, log_mu: Tensor, log_theta: Tensor) -> Tensor:
    """The textbook log-density of each entry."""
    mu, theta = log_mu.exp(), log_theta.exp()
    return (
        (x + theta).lgamma()
        - theta.lgamma()
        - (x + 1).lgamma()
        + theta * (theta / (theta + mu)).log()
        + x * (mu / (theta + mu)).log()
    )


def dense_zero_inflated(x: Tensor, log_mu: Tensor, log_theta: Tensor, zero_logits: Tensor) -> Tensor:
    """``log(pi 1[x = 0] + (1 - pi) NB(x))`` of each entry."""
    log_nb = dense_negative_binomial(x, log_mu, log_theta) + F.logsigmoid(-zero_logits)
    return torch.where(x == 0, torch.logaddexp(F.logsigmoid(zero_logits), log_nb), log_nb)


def dense_poisson(x: Tensor, log_mu: Tensor) -> Tensor:
    """The textbook log-density of each entry."""
    return x * log_mu - log_mu.exp() - (x + 1).lgamma()


def dense_normal(x: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """Torch's log-density of each entry."""
    return Normal(mean, (0.5 * log_var).exp()).log_prob(x)


def dense_bernoulli(x: Tensor, logits: Tensor) -> Tensor:
    """Log-probability of each entry, linear in ``x``."""
    return x * F.logsigmoid(logits) + (1 - x) * F.logsigmoid(-logits)


def cases(parameters):
    """Name, function, dense formula and arguments (observations first) of each likelihood."""
    x, log_mu, log_theta, zero_logits = parameters
    return {
        "nb": (likelihoods.negative_binomial, dense_negative_binomial, (x, log_mu, log_theta)),
        "zinb": (
            likelihoods.zero_inflated_negative_binomial,
            dense_zero_inflated,
            (x, log_mu, log_theta, zero_logits),
        ),
        "poisson": (likelihoods.poisson, dense_poisson, (x, log_mu)),
        "normal": (likelihoods.normal, dense_normal, (x.log1p(), log_mu, log_theta)),
        "bernoulli": (likelihoods.bernoulli, dense_bernoulli, (x.clamp(max=1.0), log_mu)),
    }


NAMES = ["nb", "zinb", "poisson", "normal", "bernoulli"]


def test_matches_reference_density(parameters):
    """Each likelihood is the sum over genes of the log-density of torch's or scvi-tools' distribution."""
    x, log_mu, log_theta, zero_logits = parameters
    mu, theta = log_mu.exp(), log_theta.exp()
    references = {
        "nb": NegativeBinomial(theta, logits=log_mu - log_theta).log_prob(x),
        "poisson": Poisson(mu).log_prob(x),
        "normal": Normal(log_mu, (0.5 * log_theta).exp()).log_prob(x.log1p()),
        "bernoulli": Bernoulli(logits=log_mu).log_prob(x.clamp(max=1.0)),
    }
    for name, reference in references.items():
        function, _, arguments = cases(parameters)[name]
        torch.testing.assert_close(function(*arguments), reference.sum(-1), rtol=1e-9, atol=1e-9)

    # scvi-tools adds 1e-8 inside its logarithms
    scvi_references = {
        "nb": scvi.distributions.NegativeBinomial(mu=mu, theta=theta),
        "zinb": scvi.distributions.ZeroInflatedNegativeBinomial(mu=mu, theta=theta, zi_logits=zero_logits),
        "poisson": scvi.distributions.Poisson(rate=mu),
    }
    for name, distribution in scvi_references.items():
        function, _, arguments = cases(parameters)[name]
        torch.testing.assert_close(function(*arguments), distribution.log_prob(x).sum(-1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_gradient_matches_dense_formula(parameters, name):
    """Values and gradients by every parameter are those of autograd on the dense formula."""
    function, dense, (x, *arguments) = cases(parameters)[name]
    arguments = [a.clone().requires_grad_() for a in arguments]
    cell_weights = torch.randn(N_CELLS)
    value, expected = function(x, *arguments), dense(x, *arguments).sum(-1)
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9)
    gradients = torch.autograd.grad(cell_weights @ value, arguments)
    expected_gradients = torch.autograd.grad(cell_weights @ expected, arguments)
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_gradient_matches_finite_differences(parameters, name):
    """Autograd's check of the gradient by finite differences passes in double precision."""
    function, _, (x, *arguments) = cases(parameters)[name]
    x = x[:3, :4].clamp(max=50.0)
    arguments = [(a[:4] if a.dim() == 1 else a[:3, :4]).clone().requires_grad_() for a in arguments]
    assert torch.autograd.gradcheck(lambda *a: function(x, *a), arguments)


@pytest.mark.parametrize("name", ["nb", "zinb"])
@pytest.mark.parametrize("log_theta", [-20.0, -5.0, 4.59, 4.61, 8.0, 12.0])
def test_gradient_matches_finite_differences_at_extreme_dispersion(name, log_theta):
    """The same holds for large and small ``theta``, and on both sides of the switch to the series."""
    x = torch.tensor([[0.0, 1.0, 3.0, 40.0]])
    log_mu = torch.tensor([[0.3, -1.0, 1.0, 3.0]], requires_grad=True)
    log_theta = torch.full((4,), log_theta, requires_grad=True)
    zero_logits = torch.zeros(1, 4, requires_grad=True)
    function, arguments = {
        "nb": (likelihoods.negative_binomial, (log_mu, log_theta)),
        "zinb": (likelihoods.zero_inflated_negative_binomial, (log_mu, log_theta, zero_logits)),
    }[name]
    assert torch.autograd.gradcheck(lambda *a: function(x, *a), arguments)


@pytest.mark.parametrize("name", NAMES)
def test_only_zeros(parameters, name):
    """A matrix without any non-zero count has the dense formula's value and finite gradients."""
    function, dense, (x, *arguments) = cases(parameters)[name]
    arguments = [a.clone().requires_grad_() for a in arguments]
    value = function(torch.zeros_like(x), *arguments)
    torch.testing.assert_close(value, dense(torch.zeros_like(x), *arguments).sum(-1))
    for gradient in torch.autograd.grad(value.sum(), arguments):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("name", ["nb", "zinb"])
@pytest.mark.parametrize("log_theta", [-80.0, -30.0, -10.0, 0.0, 5.0, 10.0, 15.0, 20.0, 40.0, 60.0])
@pytest.mark.parametrize("per_gene", [True, False])
def test_single_precision_at_extremes(name, log_theta, per_gene):
    """In single precision values and gradients stay close to double precision, for any ``theta`` and big counts."""
    x = torch.tensor([[0.0, 0.0, 1.0, 2.0, 100.0, 1e5], [0.0] * 6])
    log_mu = torch.tensor([[-80.0, 1.0, 0.3, 0.5, 5.0, 11.0]]).repeat(2, 1)
    log_theta = torch.full((6,) if per_gene else (2, 6), log_theta)
    arguments = [log_mu, log_theta] + ([torch.tensor([[2.0, -30.0, 30.0] * 2] * 2)] if name == "zinb" else [])
    function = {
        "nb": likelihoods.negative_binomial,
        "zinb": likelihoods.zero_inflated_negative_binomial,
    }[name]

    def evaluate(dtype: torch.dtype) -> list[Tensor]:
        leaves = [a.to(dtype).requires_grad_() for a in arguments]
        value = function(x.to(dtype), *leaves)
        return [value.detach().double(), *(g.double() for g in torch.autograd.grad(value.sum(), leaves))]

    single, double = evaluate(torch.float32), evaluate(torch.float64)
    # the count of 1e5 alone has terms of up to 6e6 that cancel, each with seven digits
    torch.testing.assert_close(single[0], double[0], rtol=1e-5, atol=2.0)
    for gradient, expected in zip(single[1:], double[1:], strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=0.2)


@pytest.mark.parametrize("log_theta", [10.0, 20.0, 60.0])
def test_negative_binomial_tends_to_poisson(log_theta):
    """For ``theta → ∞`` the negative binomial is the Poisson distribution, in single precision too."""
    mu = torch.tensor([0.1, 2.0, 30.0, 0.5], dtype=torch.float32)
    x = torch.tensor([[1.0, 3.0, 25.0, 0.0]], dtype=torch.float32)
    log_theta = torch.full((4,), log_theta, dtype=torch.float32)
    value = likelihoods.negative_binomial(x, mu.log()[None], log_theta)
    torch.testing.assert_close(value, likelihoods.poisson(x, mu.log()[None]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("log_theta", [-1.0, 0.0, 3.0, 6.0])
@pytest.mark.parametrize("name", ["nb", "zinb", "poisson"])
def test_probabilities_sum_to_one(name, log_theta):
    """The densities of counts sum to one over the counts."""
    x = torch.arange(3000.0)[:, None]
    log_mu, log_theta = torch.full_like(x, 2.0), torch.full((1,), log_theta)
    log_density = {
        "nb": likelihoods.negative_binomial(x, log_mu, log_theta),
        "zinb": likelihoods.zero_inflated_negative_binomial(x, log_mu, log_theta, torch.full_like(x, -0.5)),
        "poisson": likelihoods.poisson(x, log_mu),
    }[name]
    assert log_density.logsumexp(0).item() == pytest.approx(0.0, abs=1e-10)
    mean = (log_density.exp() * x[:, 0]).sum().item()
    kept = torch.sigmoid(torch.tensor(0.5)) if name == "zinb" else 1.0
    assert mean == pytest.approx(torch.tensor(2.0).exp().item() * float(kept), rel=1e-8)


def test_zero_inflation_vanishes(parameters):
    """With zero logits of ``-∞`` the zero-inflated density is the negative binomial."""
    x, log_mu, log_theta, zero_logits = parameters
    value = likelihoods.zero_inflated_negative_binomial(x, log_mu, log_theta, torch.full_like(zero_logits, -50.0))
    torch.testing.assert_close(value, likelihoods.negative_binomial(x, log_mu, log_theta))


def test_bernoulli_takes_soft_observations():
    """A value between 0 and 1 weighs the two outcomes' log-probabilities."""
    logits = torch.randn(4, 5)
    x = torch.rand(4, 5)
    torch.testing.assert_close(likelihoods.bernoulli(x, logits), dense_bernoulli(x, logits).sum(-1))
