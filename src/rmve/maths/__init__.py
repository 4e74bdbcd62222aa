"""Pure functions on tensors: no state, no networks, no AnnData.

Shapes are given as ``(B, K, d)``: ``B`` cells, ``K`` components, ``d`` latent dimensions, ``G`` genes.
All covariances are diagonal and given as variances.
"""

from rmve.maths import estimators, gaussians, hsic, likelihoods, regularization, repulsion

__all__ = ["estimators", "gaussians", "hsic", "likelihoods", "regularization", "repulsion"]
