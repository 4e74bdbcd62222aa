"""Repulsive priors on the components of a Gaussian mixture.

Each function returns a penalty ``R >= 0`` (up to a constant) that enters the loss as ``tau * R``, that is a
prior ``p(theta) ∝ p0(theta) exp(-tau R)``. All share one signature, so that a new one can be put in
:data:`REPULSIONS` under its name:

``penalty(weights, mean, var, bandwidth_sq) -> scalar``, with ``weights`` of shape ``(K,)`` and ``mean``
and ``var`` of shape ``(K, d)``.

Every one is finite with a finite gradient at coinciding components and for ``K = 1``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rmve.maths.gaussians import between_components, cosine_gram, wasserstein2_sq

Repulsion = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

#: Keeps the logarithm of a pairwise distance, and the determinant, finite at coinciding components.
EPSILON = 1e-4


def default_bandwidth(weights: Tensor, var: Tensor) -> Tensor:
    """Squared length scale of the kernel: the mean variance of the occupied components.

    At this scale ``rho_ab`` of two unit spheres at a distance ``D`` is ``exp(-D² / 6)``: 0.85 at one standard
    deviation, 0.02 at five, whatever the dimension. A wider kernel takes distinct clusters for overlapping ones. It
    is a scale, not a parameter: no gradient flows through it.

    Parameters
    ----------
    weights
        Shape ``(K,)``.
    var
        Shape ``(K, d)``.

    Returns
    -------
    Scalar tensor without gradient.
    """
    weights, var = weights.detach(), var.detach()
    return (weights @ var.mean(-1)) / weights.sum()


def expected_overlap(weights: Tensor, mean: Tensor, var: Tensor, bandwidth_sq: Tensor) -> Tensor:
    """Gap of HSIC to its upper bound: ``R = Gini(w) - HSIC = Σ_{a≠b} w_a w_b rho_ab``.

    The probability-weighted overlap of two components drawn independently. It is zero in the limit of
    disjoint occupied components, largest when all coincide, does not see empty components, and falls by
    ``2 w_a w_b`` when two coinciding components are merged.

    Parameters
    ----------
    weights
        Weights of the components, shape ``(K,)``; gradients flow through them.
    mean, var
        Shape ``(K, d)``.
    bandwidth_sq
        Squared length scale of the kernel, scalar or ``(d,)``.

    Returns
    -------
    Scalar tensor in ``[0, 1 - Σ w²]``.
    """
    rho = cosine_gram(mean, var, bandwidth_sq)
    return weights @ (rho - torch.diag_embed(rho.diagonal())) @ weights


def _log_saturating(distance: Tensor, g0: float = 1.0) -> Tensor:
    """``-(1/K) Σ_{a<b} log g(t_ab)`` with ``g(t) = t / (g0 + t)``, from a ``(K, K)`` matrix ``t``."""
    n = distance.shape[0]
    row, col = torch.triu_indices(n, n, offset=1, device=distance.device)
    t = distance[row, col] + EPSILON
    return -(t.log() - (g0 + t).log()).sum() / n


def pairwise_hsic(weights: Tensor, mean: Tensor, var: Tensor, bandwidth_sq: Tensor) -> Tensor:
    """``-log Π_{a<b} g(t_ab)^{1/K}`` with ``t = 2 (1 - rho_ab)``, the two-class HSIC of each pair.

    Parameters as in :func:`expected_overlap`; ``weights`` is not used.
    """
    return _log_saturating(2.0 * (1.0 - cosine_gram(mean, var, bandwidth_sq)))


def wasserstein(weights: Tensor, mean: Tensor, var: Tensor, bandwidth_sq: Tensor) -> Tensor:
    """``-log Π_{a<b} g(t_ab)^{1/K}`` with ``t`` the squared 2-Wasserstein distance over the bandwidth.

    After Huang & Ng (arXiv:2504.21391), who repel location and covariance. The square keeps the gradient
    finite at coinciding components. Parameters as in :func:`expected_overlap`; ``weights`` is not used.
    """
    scale = bandwidth_sq.sqrt()
    return _log_saturating(between_components(wasserstein2_sq, mean / scale, var / bandwidth_sq))


def means_only(weights: Tensor, mean: Tensor, var: Tensor, bandwidth_sq: Tensor) -> Tensor:
    """``-log Π_{a<b} g(t_ab)^{1/K}`` with ``t = |mu_a - mu_b|²`` over the bandwidth: location only.

    After Xie & Xu (arXiv:1703.09061), whose ``g(t) = t / (g0 + t)`` is used here. Parameters as in
    :func:`expected_overlap`; ``weights`` is not used, and ``var`` only through the bandwidth.
    """
    return _log_saturating(((mean[:, None] - mean[None]).square() / bandwidth_sq).sum(-1))


def determinantal(weights: Tensor, mean: Tensor, var: Tensor, bandwidth_sq: Tensor) -> Tensor:
    """``-(1/K) log det(rho + eps I)``: the volume spanned by the unit embeddings (an L-ensemble).

    Zero for orthogonal components, large when any two coincide (Lemma 5). Parameters as in
    :func:`expected_overlap`; ``weights`` is not used.
    """
    rho = cosine_gram(mean, var, bandwidth_sq)
    identity = torch.eye(rho.shape[0], dtype=rho.dtype, device=rho.device)
    return -torch.linalg.slogdet(rho + EPSILON * identity).logabsdet / rho.shape[0]


#: Penalties whose gradient on the weights alone removes redundant components.
WEIGHT_SENSITIVE = ("hsic",)

#: Name, as given to ``RMVE(repulsion=...)``, to penalty.
REPULSIONS: dict[str, Repulsion] = {
    "hsic": expected_overlap,
    "pairwise": pairwise_hsic,
    "dpp": determinantal,
    "wasserstein": wasserstein,
    "means": means_only,
}
