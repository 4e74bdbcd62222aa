"""Log-likelihoods ``log p(x | z)`` of a cell, summed over genes.

Single-cell counts are mostly zero. The costly special functions (``lgamma`` and ``digamma``) vanish from the
negative-binomial density at zero, so they are evaluated at the non-zero counts only; the values and the
gradients are those of the dense formula.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from rmve.maths.gaussians import LOG_2PI


def _nonzero(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, columns and values of the non-zero counts of ``x`` with shape ``(B, G)``."""
    rows, cols = x.nonzero(as_tuple=True)
    return rows, cols, x[rows, cols]


def _pick(parameter: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    """Entries of a per-gene ``(G,)`` or per-cell ``(B, G)`` parameter at the given places."""
    return parameter[cols] if parameter.dim() == 1 else parameter[rows, cols]


#: From this ``theta`` on, ``lgamma(x + theta) - lgamma(theta)`` would lose its digits to cancellation.
LARGE_THETA = 100.0


def _log_rising(value: Tensor, theta: Tensor, log_theta: Tensor) -> Tensor:
    """``lgamma(x + theta) - lgamma(theta)`` for ``x > 0``, by Stirling's series where ``theta`` is large."""
    small = (value + theta).lgamma() - (theta + 1.0).lgamma() + log_theta
    if bool((theta < LARGE_THETA).all()):
        return small
    t = theta.clamp_min(LARGE_THETA)
    n = value + t
    p, q = 1.0 / n, 1.0 / t
    large = (n - 0.5) * (value * q).log1p() - value + (p - q) / 12.0 - (p * p * p - q * q * q) / 360.0
    return torch.where(theta < LARGE_THETA, small, large + value * log_theta)


def _theta_rising_derivative(value: Tensor, theta: Tensor) -> Tensor:
    """Derivative of :func:`_log_rising` by ``log_theta``, ``theta (digamma(x + theta) - digamma(theta))``."""
    small = theta * ((value + theta).digamma() - (theta + 1.0).digamma()) + 1.0
    if bool((theta < LARGE_THETA).all()):
        return small
    t = theta.clamp_min(LARGE_THETA)
    p, q = 1.0 / (value + t), 1.0 / t
    p2, q2 = p * p, q * q
    large = (value * q).log1p() - (p - q) / 2.0 - (p2 - q2) / 12.0 + (p2 * p2 - q2 * q2) / 120.0
    return torch.where(theta < LARGE_THETA, small, t * large)


class _LogRising(torch.autograd.Function):
    """:func:`_log_rising` as a function of ``log_theta``, with its gradient derived by hand."""

    @staticmethod
    def forward(ctx, value: Tensor, log_theta: Tensor) -> Tensor:
        theta = log_theta.exp()
        ctx.save_for_backward(value, theta)
        return _log_rising(value, theta, log_theta)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        return None, grad * _theta_rising_derivative(*ctx.saved_tensors)


def _log1p_exp(a: Tensor) -> Tensor:
    """``log(1 + exp(a))`` without overflow, and in one pass."""
    return torch.logaddexp(a, a.new_zeros(()))


class _NegativeBinomial(torch.autograd.Function):
    """Negative-binomial log-density with its gradient derived by hand, twice as fast as autograd's."""

    @staticmethod
    def forward(ctx, x: Tensor, log_mu: Tensor, log_theta: Tensor) -> Tensor:
        log_u = log_mu - log_theta  # u = mu / theta
        log1p_u = _log1p_exp(log_u)
        theta = log_theta.exp()
        rows, cols, value = _nonzero(x)
        theta_at = _pick(theta, rows, cols)
        # zeros contribute only -theta log(1 + mu / theta)
        dense = (x * (log_u - log1p_u) - theta * log1p_u).sum(-1)
        at_nonzero = _log_rising(value, theta_at, _pick(log_theta, rows, cols)) - (value + 1.0).lgamma()
        ctx.save_for_backward(x, log_u, log1p_u, theta, rows, cols, value, theta_at)
        return dense.index_add(0, rows, at_nonzero)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        x, log_u, log1p_u, theta, rows, cols, value, theta_at = ctx.saved_tensors
        grad = grad[:, None]
        d_log_mu = x - (x + theta) * log_u.sigmoid()
        d_log_theta = None
        if ctx.needs_input_grad[2]:
            per_entry = -grad * (d_log_mu + theta * log1p_u)
            at_nonzero = _theta_rising_derivative(value, theta_at) * grad[rows, 0]
            if theta.dim() == 1:
                d_log_theta = per_entry.sum(0).index_add(0, cols, at_nonzero)
            else:
                d_log_theta = per_entry.index_put((rows, cols), at_nonzero, accumulate=True)
        return None, grad * d_log_mu, d_log_theta


def negative_binomial(x: Tensor, log_mu: Tensor, log_theta: Tensor) -> Tensor:
    """Negative binomial with mean ``mu`` and inverse dispersion ``theta`` (variance ``mu + mu² / theta``).

    Parameters
    ----------
    x
        Counts, shape ``(B, G)``, no gradient.
    log_mu
        Log of the mean, shape ``(B, G)``.
    log_theta
        Log of the inverse dispersion, shape ``(G,)`` or ``(B, G)``.

    Returns
    -------
    Tensor of shape ``(B,)``, in nats. First derivatives only.
    """
    return _NegativeBinomial.apply(x, log_mu, log_theta)


def zero_inflated_negative_binomial(x: Tensor, log_mu: Tensor, log_theta: Tensor, zero_logits: Tensor) -> Tensor:
    """Negative binomial that is zero with the extra probability ``sigmoid(zero_logits)``.

    Parameters
    ----------
    x, log_mu, log_theta
        As in :func:`negative_binomial`.
    zero_logits
        Logits of the extra zeros, shape ``(B, G)``.

    Returns
    -------
    Tensor of shape ``(B,)``, in nats. First derivatives only.
    """
    theta = log_theta.exp()
    log1p_u = _log1p_exp(log_mu - log_theta)
    at_zero = F.softplus(-theta * log1p_u - zero_logits)
    rows, cols, value = _nonzero(x)
    log_theta_at, u_at = _pick(log_theta, rows, cols), log1p_u[rows, cols]
    log_nb = (
        _LogRising.apply(value, log_theta_at)
        - (value + 1.0).lgamma()
        - _pick(theta, rows, cols) * u_at
        + value * (log_mu[rows, cols] - log_theta_at - u_at)
    )
    replace = log_nb - zero_logits[rows, cols] - at_zero[rows, cols]
    return (at_zero - F.softplus(-zero_logits)).sum(-1).index_add(0, rows, replace)


def poisson(x: Tensor, log_mu: Tensor) -> Tensor:
    """Poisson with mean ``mu``.

    Parameters
    ----------
    x, log_mu
        Counts and log mean, shape ``(B, G)``.

    Returns
    -------
    Tensor of shape ``(B,)``, in nats.
    """
    rows, _, value = _nonzero(x)
    return (x * log_mu - log_mu.exp()).sum(-1).index_add(0, rows, -(value + 1.0).lgamma())


def normal(x: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """Independent normals, for log-normalised or other continuous values.

    Parameters
    ----------
    x, mean
        Shape ``(B, G)``.
    log_var
        Log variance, shape ``(G,)`` or ``(B, G)``.

    Returns
    -------
    Tensor of shape ``(B,)``, in nats.
    """
    return -0.5 * (LOG_2PI + log_var + (x - mean).square() * (-log_var).exp()).sum(-1)


def bernoulli(x: Tensor, logits: Tensor) -> Tensor:
    """Independent Bernoulli variables; values between 0 and 1 are taken as soft observations.

    Parameters
    ----------
    x
        Values in ``[0, 1]``, shape ``(B, G)``.
    logits
        Log-odds of a one, shape ``(B, G)``.

    Returns
    -------
    Tensor of shape ``(B,)``, in nats.
    """
    return (x * logits - F.softplus(logits)).sum(-1)
