"""Divergences and draws of component posteriors with offsets: those of the plain formulas."""

from __future__ import annotations

import pytest
import torch

from rmve.maths.gaussians import kl_normal
from rmve.maths.latent import LOG_VAR_RANGE, draw_of_component, offset_kl


@pytest.fixture(params=["in range", "out of range"])
def parameters(request) -> list[torch.Tensor]:
    """Parameters of six cells and four components; some log-variances are out of range, or none."""
    mean, log_var = torch.randn(6, 3), torch.randn(6, 3).clamp(-3.0, 1.0)
    if request.param == "out of range":
        log_var[0, 0], log_var[1, 1] = 30.0, -30.0
    offsets, prior = [torch.randn(4, 3).clamp(-3.0, 3.0) for _ in range(2)], [torch.randn(4, 3) for _ in range(2)]
    return [tensor.requires_grad_() for tensor in (mean, log_var, *offsets, *prior)]


def plain(mean, log_var, mean_offset, log_var_offset, prior_mean, prior_log_var):
    """The divergence of the offset moments."""
    bounded = (log_var[:, None] + log_var_offset).clamp(*LOG_VAR_RANGE)
    return kl_normal(mean[:, None] + mean_offset, bounded.exp(), prior_mean, prior_log_var.exp())


def test_divergence(parameters):
    """Values and gradients are those of autograd on the plain formula."""
    weights = torch.randn(6, 4)
    fast, expected = offset_kl(*parameters), plain(*parameters)
    torch.testing.assert_close(fast, expected)
    gradients = [torch.autograd.grad((weights * value).sum(), parameters) for value in (fast, expected)]
    for gradient, expected_gradient in zip(*gradients, strict=True):
        torch.testing.assert_close(gradient, expected_gradient)


def test_draw(parameters):
    """A draw has the mean and variance of its component, and both are differentiable."""
    mean, log_var, *offsets = parameters[:4]
    component = torch.tensor([3, 0, 1, 1, 2, 3])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        noise = torch.randn(6, 3)
        torch.manual_seed(0)
        z = draw_of_component(mean, log_var, *offsets, component)
    bounded = (log_var + offsets[1][component]).clamp(*LOG_VAR_RANGE)
    expected = mean + offsets[0][component] + (0.5 * bounded).exp() * noise
    torch.testing.assert_close(z, expected)
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(z.sum(), parameters[:4]))


def test_divergence_of_distant_components(parameters):
    """Squares that cancel cost no digits, far from the origin."""
    far = [tensor.detach().float() for tensor in parameters]
    far[0], far[4] = far[0] + 1e3, far[4] + 1e3
    exact = plain(*(tensor.double() for tensor in far)).float()
    torch.testing.assert_close(offset_kl(*far), exact, rtol=1e-3, atol=1e-3)
