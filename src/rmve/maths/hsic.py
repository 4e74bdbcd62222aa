"""The Hilbert-Schmidt independence criterion between a mixture's label and its latent variable.

With ``P(y = k) = w_k``, ``z | y = k`` embedded as ``m_k`` in the kernel's feature space, the Gram matrix
``K_ab = <m_a, m_b>`` and the label kernel ``1[y = y'] / w_y``, the three functions below are one number
(Lemma 3 of the theory pages).
"""

from __future__ import annotations

from torch import Tensor


def gini(weights: Tensor) -> Tensor:
    """Gini index ``1 - Σ w_k²``, the upper bound of HSIC for embeddings of at most unit norm.

    Parameters
    ----------
    weights
        Component probabilities, shape ``(K,)``, summing to one.

    Returns
    -------
    Scalar tensor in ``[0, 1 - 1/K]``.
    """
    return 1.0 - weights.square().sum()


def hsic_trace(weights: Tensor, gram: Tensor) -> Tensor:
    """HSIC as ``tr(K (diag w - w w')) = Σ_k w_k K_kk - w' K w``.

    Parameters
    ----------
    weights
        Shape ``(K,)``.
    gram
        Gram matrix of the component embeddings, shape ``(K, K)``.

    Returns
    -------
    Scalar tensor, not negative.
    """
    return weights @ gram.diagonal() - weights @ gram @ weights


def hsic_pairs(weights: Tensor, gram: Tensor) -> Tensor:
    """HSIC as the weighted sum of squared distances, ``Σ_{a<b} w_a w_b |m_a - m_b|²``.

    Parameters
    ----------
    weights, gram
        As in :func:`hsic_trace`.
    """
    diagonal = gram.diagonal()
    mmd_sq = diagonal[:, None] + diagonal[None] - 2.0 * gram
    return 0.5 * weights @ mmd_sq @ weights


def hsic_scatter(weights: Tensor, gram: Tensor) -> Tensor:
    """HSIC as the between-component scatter ``Σ_k w_k |m_k - m̄|²`` around ``m̄ = Σ_k w_k m_k``.

    Parameters
    ----------
    weights, gram
        As in :func:`hsic_trace`.
    """
    to_mean = gram @ weights
    return weights @ (gram.diagonal() - 2.0 * to_mean + weights @ to_mean)
