"""Log-likelihoods of sparse counts straight from the decoder's logits, with gradients derived by hand.

The values and gradients are those of :mod:`rmve.maths.likelihoods` at ``log_mu = log_softmax(logits) + log_library``,
in fewer passes over the ``(B, G)`` matrices: softmax and likelihood share their exponentials, the special functions
are read off a table for small counts, and nothing is searched for non-zeros.

With ``p = softmax(logits)``, ``mu = l p`` and ``u = mu / theta``, a negative binomial is

``log p(x) = Σ_g -theta log(1 + u) + Σ_{x > 0} [x (log u - log(1 + u)) + log binom(x + theta - 1, x)]``,

and with ``a = log mu``: ``d/da = x - (x + theta) u / (1 + u)``, ``d/dlogits = d/da - p Σ_g d/da``.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rmve.maths.rising import log_rising, log_rising_derivative
from rmve.maths.sparse_rows import SparseRows

#: Counts up to this one are looked up; most are 1, 2 or 3.
TABLE = 16


def _at(matrix: Tensor, places: Tensor) -> Tensor:
    """Entries of a flattened tensor (``index_select``: several times faster than indexing)."""
    return matrix.reshape(-1).index_select(0, places)


def _log_binomial(counts: SparseRows, log_theta: Tensor) -> tuple[Tensor, Tensor]:
    """``log binom(x + theta - 1, x)`` at the stored counts, and its derivative by ``log_theta``.

    For small counts it is the sum of ``log((theta + j) / (j + 1))`` over ``j < x``, which loses no digits.
    """
    theta = log_theta.exp()
    small = counts.values <= TABLE
    step = torch.arange(TABLE, dtype=theta.dtype, device=theta.device)[:, None]
    # entries beyond the table are overwritten below
    place = (counts.values.clamp(1, TABLE).long() - 1) * counts.n_cols + counts.cols
    value = _at(((theta + step) / (step + 1.0)).log().cumsum(0), place)
    derivative = _at((theta / (theta + step)).cumsum(0), place)
    if not bool(small.all()):
        large = (~small).nonzero()[:, 0]
        x, cols = counts.values[large], counts.cols[large]
        value[large] = log_rising(x, theta[cols], log_theta[cols]) - (x + 1.0).lgamma()
        derivative[large] = log_rising_derivative(x, theta[cols])
    return value, derivative


def _scaled_softmax(logits: Tensor, log_library: Tensor, log_theta: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """``softmax(logits)``, that times ``l / theta``, and ``log l`` less the log of softmax's normaliser, ``(B, 1)``."""
    p = logits.softmax(-1)
    # log p = logits - normaliser, read off where p is largest: no logarithm of what may have underflowed
    log_scale = log_library + p.amax(-1, keepdim=True).log() - logits.amax(-1, keepdim=True)
    u = p * log_library.exp()
    if log_theta is not None:
        u *= (-log_theta).exp()
    return p, u, log_scale


def _through_softmax(d_log_mu: Tensor, p: Tensor, grad: Tensor) -> Tensor:
    """Gradient by the logits, in place of that by ``log_mu``."""
    return d_log_mu.addcmul_(p, d_log_mu.sum(-1, keepdim=True), value=-1.0).mul_(grad[:, None])


class _NegativeBinomial(torch.autograd.Function):
    """Softmax and negative binomial in one."""

    @staticmethod
    def forward(ctx, logits: Tensor, log_library: Tensor, log_theta: Tensor, counts: SparseRows) -> Tensor:
        p, u, log_scale = _scaled_softmax(logits, log_library, log_theta)
        log1p_u = u.log1p()
        rows, places, theta = counts.rows, counts.places, log_theta.exp()
        binomial, d_binomial = _log_binomial(counts, log_theta)
        log_u_at = _at(logits, places) + _at(log_scale, rows) - _at(log_theta, counts.cols)
        at_nonzero = counts.values * (log_u_at - _at(log1p_u, places)) + binomial
        ctx.counts, ctx.rows, ctx.places = counts, rows, places
        ctx.save_for_backward(p, u, log1p_u, theta, d_binomial)
        return counts.row_sums(at_nonzero) - log1p_u @ theta

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        p, u, log1p_u, theta, d_binomial = ctx.saved_tensors
        counts, rows, places = ctx.counts, ctx.rows, ctx.places
        d_log_mu = u / (u + 1.0)
        at_nonzero = counts.values * (1.0 - _at(d_log_mu, places))
        d_log_mu.mul_(-theta)
        d_log_mu.view(-1).scatter_add_(0, places, at_nonzero)
        d_log_theta = None
        if ctx.needs_input_grad[2]:
            d_log_theta = -(grad @ d_log_mu) - theta * (grad @ log1p_u)
            d_log_theta.scatter_add_(0, counts.cols, d_binomial * _at(grad, rows))
        return _through_softmax(d_log_mu, p, grad), None, d_log_theta, None


class _ZeroInflatedNegativeBinomial(torch.autograd.Function):
    """Mixture of a zero and a negative binomial.

    With ``t = exp(-zero_logits)`` and ``A = -theta log(1 + u)``, a zero has the log-probability
    ``log((1 + t e^A) / (1 + t))``, and a count ``log NB(x) - log(1 + 1 / t)``.
    """

    #: Zero logits beyond this say nothing more, and their exponential could overflow.
    LIMIT = 60.0

    @staticmethod
    def forward(
        ctx, logits: Tensor, log_library: Tensor, log_theta: Tensor, zero_logits: Tensor, counts: SparseRows
    ) -> Tensor:
        limit = _ZeroInflatedNegativeBinomial.LIMIT
        p, u, log_scale = _scaled_softmax(logits, log_library, log_theta)
        log1p_u = u.log1p()
        rows, places, theta = counts.rows, counts.places, log_theta.exp()
        binomial, d_binomial = _log_binomial(counts, log_theta)
        t = zero_logits.clamp(-limit, limit).neg_().exp_()
        # below -80, e^A is nothing beside one, and denormal numbers are slow
        joint = (log1p_u * -theta).clamp_min_(-80.0).exp_().mul_(t)  # t e^A
        at_zero = joint.log1p() - t.log1p()
        log_u_at = _at(logits, places) + _at(log_scale, rows) - _at(log_theta, counts.cols)
        log1p_u_at = _at(log1p_u, places)
        log_nb = counts.values * (log_u_at - log1p_u_at) - _at(theta, counts.cols) * log1p_u_at + binomial
        log_count = -torch.nn.functional.softplus(_at(zero_logits, places))
        ctx.counts, ctx.rows, ctx.places = counts, rows, places
        ctx.save_for_backward(p, u, log1p_u, theta, d_binomial, t, joint)
        return at_zero.sum(-1) + counts.row_sums(log_nb + log_count - _at(at_zero, places))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        p, u, log1p_u, theta, d_binomial, t, joint = ctx.saved_tensors
        counts, rows, places = ctx.counts, ctx.rows, ctx.places
        nb_share = joint / (joint + 1.0)  # of a zero: the probability that the negative binomial made it
        inflate = t / (t + 1.0)  # 1 - sigmoid(zero_logits)
        d_zero = inflate - nb_share
        d_zero.view(-1).scatter_(0, places, _at(inflate, places) - 1.0)
        s = u / (u + 1.0)
        # a count has all of the negative binomial, a zero its share
        nb_share.view(-1).scatter_(0, places, torch.ones_like(counts.values))
        d_log_mu = (s * nb_share).mul_(-theta)
        at_nonzero = counts.values * (1.0 - _at(s, places))
        d_log_mu.view(-1).scatter_add_(0, places, at_nonzero)
        d_log_theta = None
        if ctx.needs_input_grad[2]:
            d_log_theta = -(grad @ d_log_mu) - theta * (grad @ nb_share.mul_(log1p_u))
            d_log_theta.scatter_add_(0, counts.cols, d_binomial * _at(grad, rows))
        return _through_softmax(d_log_mu, p, grad), None, d_log_theta, d_zero.mul_(grad[:, None]), None


class _Poisson(torch.autograd.Function):
    """Softmax and Poisson in one."""

    @staticmethod
    def forward(ctx, logits: Tensor, log_library: Tensor, counts: SparseRows) -> Tensor:
        p, mu, log_scale = _scaled_softmax(logits, log_library, None)
        log_mu_at = _at(logits, counts.places) + _at(log_scale, counts.rows)
        ctx.counts = counts
        ctx.save_for_backward(p, mu)
        return counts.row_sums(counts.values * log_mu_at - (counts.values + 1.0).lgamma()) - mu.sum(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        p, mu = ctx.saved_tensors
        d_log_mu = -mu
        d_log_mu.view(-1).scatter_add_(0, ctx.counts.places, ctx.counts.values)
        return _through_softmax(d_log_mu, p, grad), None, None


def negative_binomial(counts: SparseRows, logits: Tensor, log_library: Tensor, log_theta: Tensor) -> Tensor:
    """Negative binomial with the mean ``softmax(logits)`` times the library size.

    Parameters
    ----------
    counts
        Shape ``(B, G)``.
    logits
        Shape ``(B, G)``.
    log_library
        Log of the total that the proportions are scaled to, shape ``(B, 1)``, no gradient.
    log_theta
        Log of the inverse dispersion, shape ``(G,)``.

    Returns
    -------
    Tensor of shape ``(B,)``, in nats. First derivatives only.
    """
    return _NegativeBinomial.apply(logits, log_library, log_theta, counts)


def zero_inflated_negative_binomial(
    counts: SparseRows, logits: Tensor, log_library: Tensor, log_theta: Tensor, zero_logits: Tensor
) -> Tensor:
    """:func:`negative_binomial` that is zero with the extra probability ``sigmoid(zero_logits)``, shape ``(B, G)``."""
    return _ZeroInflatedNegativeBinomial.apply(logits, log_library, log_theta, zero_logits, counts)


def poisson(counts: SparseRows, logits: Tensor, log_library: Tensor) -> Tensor:
    """Poisson with the mean ``softmax(logits)`` times the library size; parameters as for :func:`negative_binomial`."""
    return _Poisson.apply(logits, log_library, counts)
