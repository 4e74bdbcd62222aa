"""The Gaussian mixture prior against torch's own mixture distribution."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal, kl_divergence

from rmve.module._mixture import LOG_VAR_RANGE, GaussianMixture

K, D = 4, 3


@pytest.fixture
def mixture() -> GaussianMixture:
    """A mixture with random parameters, in double precision."""
    generator = torch.Generator().manual_seed(0)
    mixture = GaussianMixture(K, D).double()
    with torch.no_grad():
        for parameter in mixture.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return mixture


@pytest.fixture
def reference(mixture) -> MixtureSameFamily:
    """The same mixture as a distribution of torch."""
    return MixtureSameFamily(
        Categorical(logits=mixture.logits), Independent(Normal(mixture.mean, mixture.log_var.exp().sqrt()), 1)
    )


@pytest.fixture
def z() -> torch.Tensor:
    """Latent points with two leading axes."""
    return 2.0 * torch.randn(5, 6, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_log_prob(mixture, reference, z):
    """The density is that of torch's mixture, whatever the leading axes."""
    torch.testing.assert_close(mixture.log_prob(z), reference.log_prob(z))
    assert mixture.log_prob(z[0, 0]).shape == ()


def test_responsibilities(mixture, reference, z):
    """``p(y|z)`` is the joint density over the marginal one, and sums to one."""
    joint = reference.mixture_distribution.logits + reference.component_distribution.log_prob(z[..., None, :])
    log_r = mixture.log_responsibilities(z)
    torch.testing.assert_close(log_r, joint - reference.log_prob(z)[..., None])
    torch.testing.assert_close(log_r.exp().sum(-1), torch.ones(5, 6, dtype=torch.float64))


@pytest.mark.parametrize("n_own", [K, 1], ids=["full", "factorized"])
def test_kl(mixture, n_own):
    """The divergence of each cell from each component, for a posterior with and without its own component axis."""
    generator = torch.Generator().manual_seed(2)
    mean = torch.randn(7, n_own, D, generator=generator, dtype=torch.float64)
    var = torch.randn(7, n_own, D, generator=generator, dtype=torch.float64).exp()
    expected = kl_divergence(Normal(mean, var.sqrt()), Normal(mixture.mean, mixture.var.sqrt())).sum(-1)
    kl = mixture.kl(mean, var)
    assert kl.shape == (7, K)
    torch.testing.assert_close(kl, expected.expand(7, K))


def test_weights_sum_to_one(mixture):
    """The log-weights are normalised."""
    torch.testing.assert_close(mixture.log_weights.exp().sum(), torch.tensor(1.0, dtype=torch.float64))


def test_set_components(mixture):
    """A starting partition's moments are taken over; variances outside the allowed range are clamped to it."""
    mean = torch.arange(K * D, dtype=torch.float64).reshape(K, D)
    var = torch.full((K, D), 0.5, dtype=torch.float64)
    var[0], var[1] = 1e-9, 1e9
    weights = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    mixture.set_components(mean, var, weights)
    torch.testing.assert_close(mixture.mean.detach(), mean)
    torch.testing.assert_close(mixture.log_weights.exp().detach(), weights)
    low, high = torch.tensor(LOG_VAR_RANGE, dtype=torch.float64).exp()
    torch.testing.assert_close(mixture.var[0].detach(), low.expand(D))
    torch.testing.assert_close(mixture.var[1].detach(), high.expand(D))
    torch.testing.assert_close(mixture.var[2:].detach(), var[2:])


def test_variance_stays_in_range(mixture):
    """However far the parameter runs, the variance stays between its limits."""
    with torch.no_grad():
        mixture.log_var[0], mixture.log_var[1] = 100.0, -100.0
    low, high = torch.tensor(LOG_VAR_RANGE, dtype=torch.float64).exp()
    assert mixture.var.max() == high
    assert mixture.var.min() == low
