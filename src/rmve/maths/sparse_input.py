"""The encoder's input and first layer from sparse counts, without a logarithm for each zero.

A zero of gene ``g`` is standardised to the constant ``zero_g = clip(-mean_g / sd_g)``, so the standardised matrix is
``zero`` in every row, but for the non-zeros. These are transformed and clipped one by one: the values are those of the
dense formula, the clip included.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from rmve.maths.sparse_rows import SparseRows


def standardized_zero(mean: Tensor, sd: Tensor, clip: float) -> Tensor:
    """What a zero becomes: ``-mean / sd``, clipped, shape ``(G,)``."""
    return (-mean / sd).clamp(-clip, clip)


def standardized_nonzero(counts: SparseRows, scale: Tensor, mean: Tensor, sd: Tensor, clip: float) -> Tensor:
    """``(log1p(scale * x) - mean) / sd``, clipped, at the stored counts.

    Parameters
    ----------
    counts
        Shape ``(B, G)``, ``n`` stored values.
    scale
        Of each cell, shape ``(B, 1)``.
    mean, sd
        Of each gene, shape ``(G,)``.
    clip
        Bound on the absolute value.

    Returns
    -------
    Tensor of shape ``(n,)``.
    """
    value = torch.log1p(counts.values * scale.reshape(-1).index_select(0, counts.rows))
    at_mean, at_sd = mean.index_select(0, counts.cols), sd.index_select(0, counts.cols)
    return value.sub_(at_mean).div_(at_sd).clamp_(-clip, clip)


def standardized(counts: SparseRows, scale: Tensor, mean: Tensor, sd: Tensor, clip: float) -> Tensor:
    """The standardised matrix, shape ``(B, G)``; parameters as for :func:`standardized_nonzero`."""
    x = standardized_zero(mean, sd, clip).repeat(counts.shape[0], 1)
    x.view(-1).scatter_(0, counts.places, standardized_nonzero(counts, scale, mean, sd, clip))
    return x


def first_layer(
    counts: SparseRows, scale: Tensor, mean: Tensor, sd: Tensor, clip: float, weight: Tensor, bias: Tensor
) -> Tensor:
    """A linear layer on the standardised matrix, as a product over the stored counts only.

    With ``v`` the standardised values, ``v W' + b = (v - zero) W' + (zero W' + b)``, where ``v - zero`` is sparse.

    Parameters
    ----------
    counts, scale, mean, sd, clip
        As for :func:`standardized_nonzero`.
    weight, bias
        Of the layer, shapes ``(H, G)`` and ``(H,)``. The product is for inference: no gradient flows.

    Returns
    -------
    Tensor of shape ``(B, H)``.
    """
    with torch.no_grad():
        zero = standardized_zero(mean, sd, clip)
        value = standardized_nonzero(counts, scale, mean, sd, clip) - zero.index_select(0, counts.cols)
        product = replace(counts, values=value).times(weight.T.contiguous())
        return product + F.linear(zero, weight, bias)
