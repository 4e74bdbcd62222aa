"""Two parts of a cell that are independent given its mean: one for the encoder, one to score the decoder on.

Each function takes the value of an entry and returns one part; the other is the rest. What a model knows of the noise of
one part does not help it to predict the other (see "The predictive bound" in the documentation).
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Largest count whose molecules are the bits of one integer.
MAX_BITS = 62
#: Masks and shifts of the population count of a 64-bit integer (Warren, Hacker's Delight, section 5-1).
_PAIRS, _NIBBLES, _BYTES = 0x5555555555555555, 0x3333333333333333, 0x0F0F0F0F0F0F0F0F
_SUM_OF_BYTES = 0x0101010101010101


def _count_bits(x: Tensor) -> Tensor:
    """Number of ones of non-negative 64-bit integers."""
    x = x - ((x >> 1) & _PAIRS)
    x = (x & _NIBBLES) + ((x >> 2) & _NIBBLES)
    x = (x + (x >> 4)) & _BYTES
    return (x * _SUM_OF_BYTES) >> 56


def _binomial(counts: Tensor, share: Tensor) -> Tensor:
    """Binomial draws; on the CPU for Apple's GPUs, which have none."""
    if counts.device.type == "mps":
        return torch.binomial(counts.cpu(), share.cpu()).to(counts.device)
    return torch.binomial(counts, share)


def split_binomial(counts: Tensor) -> Tensor:
    """Half of the molecules: each is drawn with probability 1/2.

    If ``x`` is Poisson with mean ``mu``, the drawn molecules and the others are independent Poisson counts with mean
    ``mu / 2``. A draw is the number of ones among ``x`` random bits, so it costs a few integer operations.

    Parameters
    ----------
    counts
        Non-negative integers of a floating-point type, any shape.

    Returns
    -------
    The drawn molecules, integers of the same shape and type.

    Notes
    -----
    Source: Neufeld et al., *Inference after latent variable estimation for single-cell RNA sequencing data*, Biostatistics (2022).
    """
    trials = counts.long()
    bits = torch.empty_like(trials).random_()  # 63 random bits
    drawn = _count_bits(bits & ((1 << trials.clamp_max(MAX_BITS)) - 1)).to(counts.dtype)
    large = trials > MAX_BITS
    if large.any():
        many = counts[large]
        drawn[large] = _binomial(many, torch.full_like(many, 0.5))
    return drawn


def halve(counts: Tensor, times: Tensor) -> Tensor:
    """Some of the molecules: each is kept with probability ``2^-times``.

    Parameters
    ----------
    counts
        Non-negative integers of a floating-point type, any shape.
    times
        Non-negative integer of each entry, same shape.

    Returns
    -------
    The molecules that are kept, integers of the same shape and type.
    """
    for n in range(int(times.max()) if times.numel() else 0):
        counts = torch.where(times > n, split_binomial(counts), counts)
    return counts


def thin(counts: Tensor, share: Tensor) -> Tensor:
    """Some of the molecules: each is kept with a probability of its own entry.

    Parameters
    ----------
    counts
        Non-negative integers of a floating-point type, any shape.
    share
        Probability of each entry, in ``[0, 1]``, same shape.

    Returns
    -------
    The molecules that are kept, integers of the same shape and type.
    """
    return torch.where(share < 1.0, _binomial(counts, share), counts)


def split_negative_binomial(counts: Tensor, theta: Tensor) -> Tensor:
    """Part of the molecules of overdispersed counts: each entry draws its own probability first.

    If ``x`` is negative binomial with mean ``mu`` and inverse dispersion ``theta``, ``f ~ Beta(theta/2, theta/2)`` and
    ``x' ~ Binomial(x, f)``, then ``x'`` and ``x - x'`` are independent and negative binomial with mean ``mu / 2`` and
    inverse dispersion ``theta / 2``.

    Parameters
    ----------
    counts
        Non-negative integers of a floating-point type, any shape.
    theta
        Inverse dispersion of each entry, positive, same shape.

    Returns
    -------
    The drawn molecules, integers of the same shape and type.

    Notes
    -----
    Source: Neufeld et al., *Negative binomial count splitting for single-cell RNA sequencing data*, arXiv:2307.12985.
    """
    drawn = split_binomial(counts)  # a single molecule is drawn with probability 1/2, whatever theta
    several = counts > 1
    many = counts[several]
    half = 0.5 * theta[several]
    share = (_log_gamma_variate(half) - _log_gamma_variate(half)).sigmoid().nan_to_num(0.5)
    drawn[several] = _binomial(many, share)
    return drawn


def _log_gamma_variate(shape: Tensor) -> Tensor:
    """Logarithm of a gamma variate: of a small shape, the variate itself underflows (Marsaglia and Tsang 2000)."""
    return torch._standard_gamma(shape + 1.0).log() - torch.empty_like(shape).exponential_() / shape


def split_normal(x: Tensor, sd: Tensor) -> Tensor:
    """One of two noisy copies of normal values: ``x + sd * eps``; the other is ``x - sd * eps``.

    If ``x`` is normal with standard deviation ``sd``, the two are independent with the same mean and the variance
    ``2 sd²``.

    Parameters
    ----------
    x
        Values, shape ``(B, G)``.
    sd
        Standard deviation of each column, shape ``(G,)``.

    Returns
    -------
    Tensor of shape ``(B, G)``; the other copy is ``2 x`` minus this one.

    Notes
    -----
    Source: Neufeld et al., *Data thinning for convolution-closed distributions*, arXiv:2301.07276.
    """
    return x + sd * torch.randn_like(x)
