"""The part of a negative binomial that depends on the count and the dispersion alone."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

#: From this ``theta`` on, ``lgamma(x + theta) - lgamma(theta)`` would lose its digits to cancellation. The error of
#: Stirling's series is below 1e-9 there.
LARGE_THETA = 100.0


def log_rising(value: Tensor, theta: Tensor, log_theta: Tensor) -> Tensor:
    """``lgamma(x + theta) - lgamma(theta)`` for ``x > 0``, by Stirling's series where ``theta`` is large.

    Parameters
    ----------
    value, theta, log_theta
        Counts, inverse dispersion and its logarithm, of one shape.
    """
    small = (value + theta).lgamma() - (theta + 1.0).lgamma() + log_theta
    if bool((theta < LARGE_THETA).all()):
        return small
    t = theta.clamp_min(LARGE_THETA)
    n = value + t
    p, q = 1.0 / n, 1.0 / t
    large = (n - 0.5) * (value * q).log1p() - value + (p - q) / 12.0 - (p * p * p - q * q * q) / 360.0
    return torch.where(theta < LARGE_THETA, small, large + value * log_theta)


def log_rising_derivative(value: Tensor, theta: Tensor) -> Tensor:
    """Derivative of :func:`log_rising` by ``log_theta``, ``theta (digamma(x + theta) - digamma(theta))``.

    Parameters
    ----------
    value, theta
        Counts and inverse dispersion, of one shape.
    """
    small = theta * ((value + theta).digamma() - (theta + 1.0).digamma()) + 1.0
    if bool((theta < LARGE_THETA).all()):
        return small
    t = theta.clamp_min(LARGE_THETA)
    p, q = 1.0 / (value + t), 1.0 / t
    p2, q2 = p * p, q * q
    large = (value * q).log1p() - (p - q) / 2.0 - (p2 - q2) / 12.0 + (p2 * p2 - q2 * q2) / 120.0
    return torch.where(theta < LARGE_THETA, small, t * large)


class _LogRising(torch.autograd.Function):
    """:func:`log_rising` as a function of ``log_theta``; autograd would differentiate the series' cancelling terms."""

    @staticmethod
    def forward(ctx, value: Tensor, log_theta: Tensor) -> Tensor:
        theta = log_theta.exp()
        ctx.save_for_backward(value, theta)
        return log_rising(value, theta, log_theta)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        return None, grad * log_rising_derivative(*ctx.saved_tensors)


def log_binomial(x: Tensor, log_theta: Tensor) -> Tensor:
    """``log binom(x + theta - 1, x)``, 0 for a count of zero.

    The special functions are evaluated at the non-zero counts only: most counts of single cells are zero.

    Parameters
    ----------
    x
        Counts, shape ``(B, G)``, no gradient.
    log_theta
        Log of the inverse dispersion, shape ``(G,)`` or ``(B, G)``.

    Returns
    -------
    Tensor of shape ``(B, G)``. First derivatives only.
    """
    places = x.nonzero(as_tuple=True)
    value = x[places]
    at_nonzero = _LogRising.apply(value, log_theta.expand_as(x)[places]) - (value + 1.0).lgamma()
    return torch.zeros_like(x).index_put(places, at_nonzero)
