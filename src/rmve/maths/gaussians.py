"""Closed forms for Gaussians with diagonal covariance.

Every function takes means and variances whose last axis is the latent dimension ``d``, broadcasts over
the axes before it, and sums over ``d``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LOG_2PI = math.log(2.0 * math.pi)


def log_normal(z: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    """Log-density of ``N(mean, diag var)`` at ``z``.

    Parameters
    ----------
    z, mean, var
        Tensors of shape ``(..., d)``, broadcast against each other.

    Returns
    -------
    Tensor of shape ``(...)``, in nats.
    """
    return -0.5 * (LOG_2PI + var.log() + (z - mean).square() / var).sum(-1)


def kl_normal(mean_q: Tensor, var_q: Tensor, mean_p: Tensor, var_p: Tensor) -> Tensor:
    """Kullback-Leibler divergence ``KL[N(mean_q, var_q) || N(mean_p, var_p)]``.

    Parameters
    ----------
    mean_q, var_q, mean_p, var_p
        Tensors of shape ``(..., d)``, broadcast against each other.

    Returns
    -------
    Tensor of shape ``(...)``, in nats, never negative.
    """
    ratio = var_q / var_p
    return 0.5 * (ratio - 1.0 - ratio.log() + (mean_q - mean_p).square() / var_p).sum(-1)


def bhattacharyya(mean_a: Tensor, var_a: Tensor, mean_b: Tensor, var_b: Tensor) -> Tensor:
    """Bhattacharyya distance ``-log ∫ sqrt(p_a p_b)``: 0 for equal Gaussians, without upper bound.

    Parameters
    ----------
    mean_a, var_a, mean_b, var_b
        Tensors of shape ``(..., d)``, broadcast against each other.

    Returns
    -------
    Tensor of shape ``(...)``, in nats.
    """
    mid = 0.5 * (var_a + var_b)
    location = 0.125 * (mean_a - mean_b).square() / mid
    difference = var_a - var_b
    # 0.5 log(mid / sqrt(var_a var_b)), written so that rounding cannot make it negative
    shape = 0.25 * torch.log1p(0.25 * (difference / var_a) * (difference / var_b))
    return (location + shape).sum(-1)


def wasserstein2_sq(mean_a: Tensor, var_a: Tensor, mean_b: Tensor, var_b: Tensor) -> Tensor:
    """Squared 2-Wasserstein distance; for diagonal covariances ``|mean_a - mean_b|² + |sd_a - sd_b|²``.

    Parameters
    ----------
    mean_a, var_a, mean_b, var_b
        Tensors of shape ``(..., d)``, broadcast against each other.

    Returns
    -------
    Tensor of shape ``(...)``, in squared latent units.
    """
    return ((mean_a - mean_b).square() + (var_a.sqrt() - var_b.sqrt()).square()).sum(-1)


def log_expected_rbf(
    mean_a: Tensor, var_a: Tensor, mean_b: Tensor, var_b: Tensor, bandwidth_sq: Tensor | float
) -> Tensor:
    """Log of the expected RBF kernel between two Gaussians.

    With ``k(z, z') = exp(-½ |z - z'|² / l²)`` and ``z ~ N(mean_a, var_a)``, ``z' ~ N(mean_b, var_b)``,
    ``E k(z, z')`` is the inner product of the two kernel mean embeddings and equals
    ``Π_j sqrt(l² / A_j) exp(-½ (mean_a - mean_b)_j² / A_j)`` with ``A = var_a + var_b + l²``
    (the general form, for any bandwidth matrix ``G``, is in the theory pages).

    Parameters
    ----------
    mean_a, var_a, mean_b, var_b
        Tensors of shape ``(..., d)``, broadcast against each other.
    bandwidth_sq
        Squared length scale ``l²`` of the kernel: a scalar, or one value per dimension, shape ``(d,)``.

    Returns
    -------
    Tensor of shape ``(...)``, at most 0.
    """
    total = var_a + var_b + bandwidth_sq
    log_scale = torch.log(torch.as_tensor(bandwidth_sq, dtype=total.dtype, device=total.device))
    return 0.5 * (log_scale - total.log() - (mean_a - mean_b).square() / total).sum(-1)


def expected_rbf(mean_a: Tensor, var_a: Tensor, mean_b: Tensor, var_b: Tensor, bandwidth_sq: Tensor | float) -> Tensor:
    """Expected RBF kernel ``E k(z, z')`` of two Gaussians; see :func:`log_expected_rbf`."""
    return log_expected_rbf(mean_a, var_a, mean_b, var_b, bandwidth_sq).exp()


def between_components(function, mean: Tensor, var: Tensor, *args) -> Tensor:
    """Evaluate a function of two Gaussians for each pair of ``K`` components.

    Parameters
    ----------
    function
        One of the functions above that take ``(mean_a, var_a, mean_b, var_b, *args)``.
    mean, var
        Shape ``(K, d)``.

    Returns
    -------
    Tensor of shape ``(K, K)``.
    """
    return function(mean[:, None], var[:, None], mean[None], var[None], *args)


def gram(mean: Tensor, var: Tensor, bandwidth_sq: Tensor | float) -> Tensor:
    """Gram matrix ``K_ab`` of the components' kernel mean embeddings, shape ``(K, K)``."""
    return between_components(log_expected_rbf, mean, var, bandwidth_sq).exp()


def cosine_gram(mean: Tensor, var: Tensor, bandwidth_sq: Tensor | float) -> Tensor:
    """Gram matrix of the embeddings scaled to unit norm, ``rho_ab = K_ab / sqrt(K_aa K_bb)``.

    Parameters
    ----------
    mean, var
        Shape ``(K, d)``.
    bandwidth_sq
        Squared length scale of the kernel, scalar or ``(d,)``.

    Returns
    -------
    Tensor of shape ``(K, K)`` with ones on the diagonal; off it ``0 < rho_ab <= 1``, and 1 only for two
    components with the same mean and the same variances.
    """
    # rho_ab is the Bhattacharyya coefficient of N(2 mean, 2 var + l²): no cancellation between K_ab and K_aa
    return between_components(bhattacharyya, 2.0 * mean, 2.0 * var + bandwidth_sq).neg().exp()
