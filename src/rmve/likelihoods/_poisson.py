"""Counts without more variance than sampling gives."""

from __future__ import annotations

from scvi.distributions import Poisson as PoissonDistribution
from torch import Tensor

from rmve.likelihoods._counts import CountLikelihood
from rmve.maths import count_likelihoods, likelihoods
from rmve.maths.sparse_rows import SparseRows


class Poisson(CountLikelihood):
    """Poisson counts."""

    name = "poisson"

    def log_prob_dense(self, x: Tensor, parameters: dict[str, Tensor]) -> Tensor:
        """``log p(x|z)`` of a tensor of counts."""
        return likelihoods.poisson(x, self.log_mean(parameters))

    def log_prob_sparse(self, x: SparseRows, parameters: dict[str, Tensor]) -> Tensor:
        """``log p(x|z)`` of sparse counts."""
        return count_likelihoods.poisson(x, parameters["location"], parameters["library"])

    def distribution(self, parameters: dict[str, Tensor]) -> PoissonDistribution:
        """``p(x|z)`` as a distribution of scvi-tools."""
        mean, share = self.mean_and_share(parameters)
        return PoissonDistribution(rate=mean, scale=share)
