"""The Gaussian mixture prior ``p(y) p(z|y)`` of the latent space."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rmve.maths.gaussians import kl_normal, log_normal

#: Range of the log-variances: keeps a component from shrinking to a point or spreading over the whole space.
LOG_VAR_RANGE = (-4.0, 3.0)


class GaussianMixture(nn.Module):
    """``K`` Gaussians with free means and diagonal covariances, and their weights.

    Parameters
    ----------
    n_components
        ``K``.
    n_latent
        ``d``.
    """

    def __init__(self, n_components: int, n_latent: int):
        super().__init__()
        self.mean = nn.Parameter(torch.randn(n_components, n_latent))
        self.log_var = nn.Parameter(torch.zeros(n_components, n_latent))
        self.logits = nn.Parameter(torch.zeros(n_components))

    @property
    def n_components(self) -> int:
        """Number of components ``K``, used or not."""
        return self.mean.shape[0]

    @property
    def var(self) -> Tensor:
        """Variances, shape ``(K, d)``."""
        return self.bounded_log_var.exp()

    @property
    def bounded_log_var(self) -> Tensor:
        """Log-variances in their range, shape ``(K, d)``."""
        return self.log_var.clamp(*LOG_VAR_RANGE)

    @property
    def log_weights(self) -> Tensor:
        """``log p(y)``, shape ``(K,)``."""
        return self.logits.log_softmax(-1)

    def kl(self, mean: Tensor, var: Tensor) -> Tensor:
        """``KL[q(z|x,y = k) || p(z|y = k)]`` of every cell and component.

        Parameters
        ----------
        mean, var
            Of ``q(z|x,y)``, shape ``(B, K, d)``, or ``(B, 1, d)`` when ``q`` does not depend on ``y``.

        Returns
        -------
        Tensor of shape ``(B, K)``, in nats.
        """
        return kl_normal(mean, var, self.mean, self.var)

    def log_joint(self, z: Tensor) -> Tensor:
        """``log p(z, y = k)`` at latent points of shape ``(..., d)``; the result has shape ``(..., K)``."""
        return log_normal(z[..., None, :], self.mean, self.var) + self.log_weights

    def log_prob(self, z: Tensor) -> Tensor:
        """``log p(z)`` of the mixture at points of shape ``(..., d)``; the result has shape ``(...)``."""
        return self.log_joint(z).logsumexp(-1)

    def log_responsibilities(self, z: Tensor) -> Tensor:
        """``log p(y|z)`` at points of shape ``(..., d)``; the result has shape ``(..., K)``."""
        return self.log_joint(z).log_softmax(-1)

    @torch.no_grad()
    def set_components(self, mean: Tensor, var: Tensor, weights: Tensor) -> None:
        """Overwrite the components, as a starting partition does.

        Parameters
        ----------
        mean, var
            Shape ``(K, d)``.
        weights
            Shape ``(K,)``, positive.
        """
        self.mean.copy_(mean)
        self.log_var.copy_(var.log().clamp(*LOG_VAR_RANGE))
        self.logits.copy_(weights.log())
