"""Expectations over the component ``y`` and over the assignments derived from the bound.

``q(y|x)`` is categorical, so an expectation over it can be summed exactly (``K`` decoder passes), estimated
with one categorical sample, or with one Gumbel-softmax relaxation (Jang et al. 2017, Maddison et al. 2017).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

ESTIMATORS = ("sample", "exact", "gumbel")


def expectation_over_y(
    function: Callable[[Tensor], Tensor], logits: Tensor, kind: str = "sample", temperature: float = 0.5
) -> Tensor:
    """Estimate ``E_{q(y|x)} f(y)`` for each cell.

    ========  ==============  =======================================  ====================================
    kind      calls of ``f``  value                                    gradient
    ========  ==============  =======================================  ====================================
    exact     ``K``           exact                                    exact
    sample    1               unbiased                                 unbiased for the parameters of ``f``;
                                                                       none to ``q(y|x)``
    gumbel    1               biased, exact as ``temperature`` → 0      biased, to both, low variance
    ========  ==============  =======================================  ====================================

    Parameters
    ----------
    function
        Maps weights on the components, shape ``(B, K)`` with rows on the simplex, to values ``(B,)``.
    logits
        Unnormalised ``log q(y|x)``, shape ``(B, K)``.
    kind
        ``"exact"``, ``"sample"`` or ``"gumbel"``.
    temperature
        Of the Gumbel-softmax.

    Returns
    -------
    Tensor of shape ``(B,)``.

    Raises
    ------
    ValueError
        If ``kind`` is none of the three.
    """
    y, weights = nodes_over_y(logits, kind, temperature)
    return (weights * torch.stack([function(node) for node in y])).sum(0)


def nodes_over_y(logits: Tensor, kind: str = "sample", temperature: float = 0.5) -> tuple[Tensor, Tensor]:
    """Points and weights with ``E_{q(y|x)} f(y) ≈ Σ_s weights_s f(y_s)``, one rule for each estimator.

    Parameters
    ----------
    logits, kind, temperature
        As in :func:`expectation_over_y`.

    Returns
    -------
    ``y`` of shape ``(S, B, K)`` with rows on the simplex, and ``weights`` of shape ``(S, B)``. ``S`` is ``K``
    for ``"exact"`` (all one-hot vectors, weighted by ``q(y|x)``) and 1 for the others (weight 1).

    Raises
    ------
    ValueError
        If ``kind`` is not a known estimator.
    """
    n_cells, n_components = logits.shape
    if kind == "exact":
        one_hot = torch.eye(n_components, dtype=logits.dtype, device=logits.device)
        return one_hot[:, None].expand(n_components, n_cells, n_components), logits.softmax(-1).T
    if kind == "sample":
        y = sample_one_hot(logits)
    elif kind == "gumbel":
        y = F.gumbel_softmax(logits, tau=temperature)
    else:
        raise ValueError(f"`kind` must be one of {ESTIMATORS}, not {kind!r}.")
    return y[None], logits.new_ones(1, n_cells)


def sample_one_hot(logits: Tensor) -> Tensor:
    """One draw of ``y`` per cell as a one-hot matrix without gradient, shape ``(B, K)``."""
    gumbel = -torch.empty_like(logits).exponential_().log()
    index = (logits.detach() + gumbel).argmax(-1)
    return F.one_hot(index, logits.shape[-1]).to(logits.dtype)


def optimal_assignment(log_prior: Tensor, kl: Tensor) -> tuple[Tensor, Tensor]:
    """The assignment that maximises the factorised bound (Remark 2), and its value.

    For ``q(y, z|x) = q(y|x) q(z|x)`` the bound depends on ``q(y|x)`` through
    ``-Σ_k q_k (KL_k + log q_k - log pi_k)``, which is largest at ``q*_k ∝ pi_k exp(-KL_k)``, where it
    is ``log Σ_k pi_k exp(-KL_k)``.

    Parameters
    ----------
    log_prior
        ``log p(y)``, shape ``(K,)`` or ``(B, K)``.
    kl
        ``KL[q(z|x) || p(z|y = k)]``, shape ``(B, K)``.

    Returns
    -------
    ``log q*(y|x)`` of shape ``(B, K)`` and the maximum, shape ``(B,)``.
    """
    score = log_prior - kl
    value = score.logsumexp(-1)
    return score - value[:, None], value


def assignment_term(log_q: Tensor, log_prior: Tensor, kl: Tensor) -> Tensor:
    """``Σ_k q_k (KL_k + log q_k - log pi_k)``: the latent part of the negative bound, summed exactly.

    Parameters
    ----------
    log_q
        ``log q(y|x)``, shape ``(B, K)``.
    log_prior
        ``log p(y)``, shape ``(K,)`` or ``(B, K)``.
    kl
        ``KL[q(z|x,y = k) || p(z|y = k)]``, shape ``(B, K)``.

    Returns
    -------
    Tensor of shape ``(B,)``, in nats.
    """
    return (log_q.exp() * (kl + log_q - log_prior)).sum(-1)
