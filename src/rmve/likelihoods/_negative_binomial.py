"""Counts with a dispersion of their own for each gene."""

from __future__ import annotations

from scvi.distributions import NegativeBinomial as NegativeBinomialDistribution
from torch import Tensor

from rmve.likelihoods._counts import CountLikelihood
from rmve.maths import count_likelihoods, likelihoods
from rmve.maths.sparse_rows import SparseRows


class NegativeBinomial(CountLikelihood):
    """Negative-binomial counts; ``log_dispersion`` is the log of the inverse dispersion ``theta``."""

    name = "nb"
    has_dispersion = True
    splits = ("binomial", "negative_binomial", None)

    def log_prob_dense(self, x: Tensor, parameters: dict[str, Tensor]) -> Tensor:
        """``log p(x|z)`` of a tensor of counts."""
        return likelihoods.negative_binomial(x, self.log_mean(parameters), parameters["log_dispersion"])

    def log_prob_sparse(self, x: SparseRows, parameters: dict[str, Tensor]) -> Tensor:
        """``log p(x|z)`` of sparse counts."""
        return count_likelihoods.negative_binomial(
            x, parameters["location"], parameters["library"], parameters["log_dispersion"]
        )

    def distribution(self, parameters: dict[str, Tensor]) -> NegativeBinomialDistribution:
        """``p(x|z)`` as a distribution of scvi-tools."""
        mean, share = self.mean_and_share(parameters)
        return NegativeBinomialDistribution(mu=mean, theta=parameters["log_dispersion"].exp(), scale=share)
