"""``q(z|x,y)`` with one offset per component, without a gradient graph of shape ``(B, K, d)``."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

#: Range of the log-variances of ``q(z|x,y)``.
LOG_VAR_RANGE = (-10.0, 5.0)


class _OffsetKL(torch.autograd.Function):
    """Element by element, ``(B, K, d)``."""

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


class _OffsetKLByProducts(torch.autograd.Function):
    """The same where no log-variance is out of range, as a product of ``(B, 3d)`` and ``(K, 3d)``.

    With ``c = mu - u`` and ``P = exp(-log sigma²)``, twice the divergence is the sum over dimensions of
    ``e^v e^w P + m² P - 2 m c P + c² P - v - w + log sigma² - 1``. In double precision, since the squares cancel.
    """

    @staticmethod
    def forward(ctx, mean, log_var, mean_offset, log_var_offset, prior_mean, prior_log_var) -> Tensor:
        m, v, u, w, mu, log_s = (
            t.double() for t in (mean, log_var, mean_offset, log_var_offset, prior_mean, prior_log_var)
        )
        c, precision, var = mu - u, (-log_s).exp(), v.exp()
        ratio, scaled = w.exp().mul_(precision), c * precision
        of_cells = torch.cat([var, m.square(), m], 1)
        of_components = torch.cat([ratio, precision, -2.0 * scaled], 1)
        ctx.save_for_backward(of_cells, of_components, c, scaled)
        ctx.dtype = mean.dtype
        constant = (c * scaled + (log_s - w)).sum(-1) - c.shape[1]
        return (0.5 * ((of_cells @ of_components.T).sub_(v.sum(-1, keepdim=True)).add_(constant))).to(mean.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        of_cells, of_components, c, scaled = ctx.saved_tensors
        var, _, m = of_cells.chunk(3, 1)
        ratio, precision, _ = of_components.chunk(3, 1)
        grad = 0.5 * grad.double()
        by_cell, by_component = grad.sum(1, keepdim=True), grad.sum(0)[:, None]
        d_var, d_square, d_m = (grad @ of_components).chunk(3, 1)
        d_ratio, d_precision, d_scaled = (grad.T @ of_cells).chunk(3, 1)
        d_ratio = d_ratio * ratio
        d_c = 2.0 * (by_component * scaled - precision * d_scaled)
        d_log_s = by_component - d_ratio - precision * d_precision + scaled * (2.0 * d_scaled - by_component * c)
        parts = 2.0 * m * d_square + d_m, d_var * var - by_cell, -d_c, d_ratio - by_component, d_c, d_log_s
        return tuple(part.to(ctx.dtype) for part in parts)


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
    function = _OffsetKLByProducts if _in_range(log_var, log_var_offset) else _OffsetKL
    return function.apply(mean, log_var, mean_offset, log_var_offset, prior_mean, prior_log_var)


def _in_range(log_var: Tensor, log_var_offset: Tensor) -> bool:
    """Whether all sums are within :data:`LOG_VAR_RANGE`; not looked up where the answer would have to be waited for."""
    if log_var.device.type != "cpu":
        return False
    with torch.no_grad():
        (low, high), (low_offset, high_offset) = log_var.aminmax(), log_var_offset.aminmax()
        return LOG_VAR_RANGE[0] < float(low + low_offset) and float(high + high_offset) < LOG_VAR_RANGE[1]


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
