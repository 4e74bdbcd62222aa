"""Log-likelihoods ``log p(x | z)`` of a cell, summed over genes.

These are the plain formulas, with gradients by autograd. Leading axes of the parameters are several draws of ``z``.
:mod:`rmve.maths.count_likelihoods` computes the same for sparse counts, several times faster.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rmve.maths.gaussians import LOG_2PI
from rmve.maths.rising import log_binomial


def _log1p_exp(a: Tensor) -> Tensor:
    """``log(1 + exp(a))`` without overflow, and in one pass."""
    return torch.logaddexp(a, a.new_zeros(()))


def negative_binomial(x: Tensor, log_mu: Tensor, log_theta: Tensor) -> Tensor:
    """Negative binomial with mean ``mu`` and inverse dispersion ``theta`` (variance ``mu + mu² / theta``).

    Parameters
    ----------
    x
        Counts, shape ``(B, G)``, no gradient.
    log_mu
        Log of the mean, shape ``(..., B, G)``.
    log_theta
        Log of the inverse dispersion, shape ``(G,)`` or ``(B, G)``.

    Returns
    -------
    Tensor of shape ``(..., B)``, in nats. First derivatives only.
    """
    log_u = log_mu - log_theta  # u = mu / theta
    log1p_u = _log1p_exp(log_u)
    return (x * (log_u - log1p_u) - log_theta.exp() * log1p_u + log_binomial(x, log_theta)).sum(-1)


def zero_inflated_negative_binomial(x: Tensor, log_mu: Tensor, log_theta: Tensor, zero_logits: Tensor) -> Tensor:
    """Negative binomial that is zero with the extra probability ``sigmoid(zero_logits)``.

    Parameters
    ----------
    x, log_mu, log_theta
        As in :func:`negative_binomial`.
    zero_logits
        Logits of the extra zeros, shape ``(..., B, G)``.

    Returns
    -------
    Tensor of shape ``(..., B)``, in nats. First derivatives only.
    """
    log_u = log_mu - log_theta
    log1p_u = _log1p_exp(log_u)
    log_no_count = -log_theta.exp() * log1p_u
    zero = F.softplus(log_no_count - zero_logits) - F.softplus(-zero_logits)
    count = x * (log_u - log1p_u) + log_no_count + log_binomial(x, log_theta) - F.softplus(zero_logits)
    return torch.where(x > 0, count, zero).sum(-1)


def poisson(x: Tensor, log_mu: Tensor) -> Tensor:
    """Poisson with mean ``mu``.

    Parameters
    ----------
    x
        Counts, shape ``(B, G)``.
    log_mu
        Log of the mean, shape ``(..., B, G)``.

    Returns
    -------
    Tensor of shape ``(..., B)``, in nats.
    """
    return (x * log_mu - log_mu.exp() - (x + 1.0).lgamma()).sum(-1)


def normal(x: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """Independent normals, for log-normalised or other continuous values.

    Parameters
    ----------
    x
        Values, shape ``(B, G)``.
    mean
        Means, shape ``(..., B, G)``.
    log_var
        Log variance, shape ``(G,)`` or ``(B, G)``.

    Returns
    -------
    Tensor of shape ``(..., B)``, in nats.
    """
    return -0.5 * (LOG_2PI + log_var + (x - mean).square() * (-log_var).exp()).sum(-1)


def bernoulli(x: Tensor, logits: Tensor) -> Tensor:
    """Independent Bernoulli variables; values between 0 and 1 are taken as soft observations.

    Parameters
    ----------
    x
        Values in ``[0, 1]``, shape ``(B, G)``.
    logits
        Log-odds of a one, shape ``(..., B, G)``.

    Returns
    -------
    Tensor of shape ``(..., B)``, in nats.
    """
    return (x * logits - F.softplus(logits)).sum(-1)
