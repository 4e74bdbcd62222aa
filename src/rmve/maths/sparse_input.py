"""The encoder's input and first layer from sparse counts, without a logarithm for each zero.

A zero of gene ``g`` is standardised to the constant ``zero_g = clip(-mean_g / sd_g)``, so the standardised matrix is
``zero`` in every row, but for the non-zeros: ``zero`` plus a sparse matrix of differences. The non-zeros are transformed
and clipped one by one: the values are those of the dense formula, the clip included. Dropout acts on the differences, so
that a dropped count is taken for a zero; there is nothing to drop at zeros.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rmve.maths.sparse_rows import SparseRows


def standardized_zero(mean: Tensor, sd: Tensor, clip: float) -> Tensor:
    """What a zero becomes: ``-mean / sd``, clipped, shape ``(G,)``."""
    return (-mean / sd).clamp(-clip, clip)


def differences_from_zero(counts: SparseRows, scale: Tensor, mean: Tensor, sd: Tensor, clip: float) -> SparseRows:
    """``(log1p(scale * x) - mean) / sd``, clipped, less what a zero becomes; shape ``(B, G)``, sparse as the counts.

    Parameters
    ----------
    counts
        Shape ``(B, G)``.
    scale
        Of each cell, shape ``(B, 1)``.
    mean, sd
        Of each gene, shape ``(G,)``.
    clip
        Bound on the absolute value of what is standardised.
    """
    value = torch.log1p(counts.values * scale.reshape(-1).index_select(0, counts.rows))
    constants = torch.stack([mean, sd, standardized_zero(mean, sd, clip)], 1).index_select(0, counts.cols)
    at_mean, at_sd, at_zero = constants.unbind(1)
    return replace(counts, values=value.sub_(at_mean).div_(at_sd).clamp_(-clip, clip).sub_(at_zero))


class _Linear(torch.autograd.Function):
    """``(zero + differences) W' + b``, with products over the stored values alone."""

    @staticmethod
    def forward(ctx, weight: Tensor, bias: Tensor, zero: Tensor, differences: SparseRows) -> Tensor:
        ctx.zero, ctx.differences = zero, differences
        return differences.times(weight.T.contiguous()).add_(torch.addmv(bias, weight, zero))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        d_bias = grad.sum(0)
        d_weight = ctx.differences.transposed().times(grad.contiguous()).addr_(ctx.zero, d_bias)
        return d_weight.T, d_bias, None, None


def first_layer(weight: Tensor, bias: Tensor, zero: Tensor, differences: SparseRows) -> Tensor:
    """A linear layer on a standardised matrix, on the CPU.

    Parameters
    ----------
    weight, bias
        Of the layer, shapes ``(H, G)`` and ``(H,)``.
    zero
        What a zero becomes, shape ``(G,)``; no gradient.
    differences
        From :func:`differences_from_zero`, shape ``(B, G)``; no gradient.

    Returns
    -------
    Tensor of shape ``(B, H)``. First derivatives only.
    """
    return _Linear.apply(weight, bias, zero, differences)
