"""``q(z|x,y)`` with one offset per component, without a gradient graph of shape ``(B, K, d)``."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

#: Range of the log-variances of ``q(z|x,y)``.
LOG_VAR_RANGE = (-10.0, 5.0)


class _OffsetKL(torch.autograd.Function):
    @staticmethod
    def forward(ctx, mean, log_var, mean_offset, log_var_offset, prior_mean, prior_log_var) -> Tensor:
        precision = (-prior_log_var).exp()
        difference = mean[:, None] + (mean_offset - prior_mean)
        scaled = difference * precision
        free = log_var[:, None] + log_var_offset
        bounded = free.clamp(*LOG_VAR_RANGE)
        ratio = bounded.exp().mul_(precision)
        square = difference.mul_(scaled)
        ctx.save_for_backward(scaled, ratio, square, free == bounded)
        return 0.5 * ((ratio + square).sub_(bounded).sum(-1) + (prior_log_var - 1.0).sum(-1))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        scaled, ratio, square, inside = ctx.saved_tensors
        grad = grad[..., None]
        d_difference = scaled * grad
        excess = (ratio - 1.0).mul_(0.5 * grad)  # by the log-variance
        d_prior_log_var = -(excess + square.mul(0.5 * grad)).sum(0)
        excess.mul_(inside)
        d_offset = d_difference.sum(0)
        return d_difference.sum(1), excess.sum(1), d_offset, excess.sum(0), -d_offset, d_prior_log_var


def offset_kl(
    mean: Tensor,
    log_var: Tensor,
    mean_offset: Tensor,
    log_var_offset: Tensor,
    prior_mean: Tensor,
    prior_log_var: Tensor,
) -> Tensor:
    """``KL[N(m + u_k, exp(v + w_k)) || N(mu_k, sigma_k²)]`` of every cell and component.

    The same as :func:`rmve.maths.gaussians.kl_normal` of the offset moments, with ``v + w_k`` bounded by
    :data:`LOG_VAR_RANGE`, and its gradient derived by hand.

    Parameters
    ----------
    mean, log_var
        ``m`` and ``v``, shape ``(B, d)``.
    mean_offset, log_var_offset
        ``u`` and ``w``, shape ``(K, d)``.
    prior_mean, prior_log_var
        ``mu`` and ``log sigma²``, shape ``(K, d)``.

    Returns
    -------
    Tensor of shape ``(B, K)``, in nats. First derivatives only.
    """
    return _OffsetKL.apply(mean, log_var, mean_offset, log_var_offset, prior_mean, prior_log_var)


def draw_of_component(
    mean: Tensor, log_var: Tensor, mean_offset: Tensor, log_var_offset: Tensor, component: Tensor
) -> Tensor:
    """One reparameterised draw from ``q(z|x, y = component)`` per cell.

    Parameters
    ----------
    mean, log_var, mean_offset, log_var_offset
        As for :func:`offset_kl`.
    component
        Integers, shape ``(B,)``.

    Returns
    -------
    Tensor of shape ``(B, d)``.
    """
    bounded = (log_var + log_var_offset.index_select(0, component)).clamp(*LOG_VAR_RANGE)
    return mean + mean_offset.index_select(0, component) + (0.5 * bounded).exp() * torch.randn_like(mean)
