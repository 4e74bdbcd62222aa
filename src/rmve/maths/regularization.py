"""Terms that keep ``q(y|x)`` from collapsing onto few components (section 4.3 of the design of the model)."""

from __future__ import annotations

import torch
from torch import Tensor


def potts_log_prior(log_weights: Tensor, neighbor_mean: Tensor, strength: float | Tensor) -> Tensor:
    """Mean-field Potts prior of a cell's label given its neighbours' assignments.

    ``p(y_i = k | neighbours) ∝ pi_k exp(strength * mean_j q(y_j = k))``.

    Parameters
    ----------
    log_weights
        ``log pi``, shape ``(K,)``.
    neighbor_mean
        Mean of ``q(y|x)`` over the neighbours of each cell, shape ``(B, K)``, no gradient.
    strength
        ``eta``; 0 gives back ``log_weights``.

    Returns
    -------
    Normalised log-probabilities, shape ``(B, K)``.
    """
    return (log_weights + strength * neighbor_mean).log_softmax(-1)


def agreement(log_q: Tensor, log_q_view: Tensor) -> Tensor:
    """Cross-entropy ``-Σ_k q_k log q_k(view)`` between a cell's assignment and that of another view of it.

    The first argument is the target and gets no gradient.

    Parameters
    ----------
    log_q, log_q_view
        Log assignments of the cell and of its view, shape ``(B, K)``.

    Returns
    -------
    Tensor of shape ``(B,)``, in nats.
    """
    return -(log_q.detach().exp() * log_q_view).sum(-1)


def balance(weights: Tensor) -> Tensor:
    """Negative entropy of the average assignment; lowest, ``-log K``, for equally used components.

    Parameters
    ----------
    weights
        Mean of ``q(y|x)`` over cells, shape ``(K,)``.

    Returns
    -------
    Scalar tensor, in nats.
    """
    return torch.xlogy(weights, weights.clamp_min(1e-12)).sum()


def entropy(log_q: Tensor) -> Tensor:
    """Entropy of each cell's assignment, shape ``(B, K)`` to ``(B,)``, in nats."""
    return -(log_q.exp() * log_q).sum(-1)


def thin_counts(counts: Tensor, keep: float) -> Tensor:
    """Binomial thinning: keep each molecule with probability ``keep``; a second view of a cell.

    Parameters
    ----------
    counts
        Non-negative integers, any shape.
    keep
        Probability in ``(0, 1]``.

    Returns
    -------
    Thinned counts of the same shape and dtype.

    Raises
    ------
    ValueError
        If ``keep`` is not in ``(0, 1]``.
    """
    if not 0.0 < keep <= 1.0:
        raise ValueError(f"`keep` must be in (0, 1], not {keep}.")
    thinned = counts.clone()
    positive = counts > 0
    present = counts[positive]
    trials = present if present.is_floating_point() else present.double()
    thinned[positive] = torch.binomial(trials, torch.full_like(trials, keep)).to(counts.dtype)
    return thinned


def halve_counts(x: Tensor) -> Tensor:
    """Half of the molecules of each cell; a cell that would lose all of them is left as it is."""
    thinned = thin_counts(x, 0.5)
    return torch.where(thinned.sum(-1, keepdim=True) > 0, thinned, x)
