"""Counts with more zeros than a negative binomial has."""

from __future__ import annotations

from scvi.distributions import ZeroInflatedNegativeBinomial as ZeroInflatedDistribution
from torch import Tensor

from rmve.likelihoods._counts import CountLikelihood
from rmve.maths import count_likelihoods, likelihoods
from rmve.maths.sparse_rows import SparseRows


class ZeroInflatedNegativeBinomial(CountLikelihood):
    """Negative-binomial counts that are zero with an extra probability; the head ``zero`` gives its log-odds."""

    name = "zinb"
    has_dispersion = True
    heads = ("zero",)
    splits = ("binomial", "negative_binomial", None)

    def log_prob_dense(self, x: Tensor, parameters: dict[str, Tensor]) -> Tensor:
        """``log p(x|z)`` of a tensor of counts."""
        return likelihoods.zero_inflated_negative_binomial(
            x, self.log_mean(parameters), parameters["log_dispersion"], parameters["zero"]
        )

    def log_prob_sparse(self, x: SparseRows, parameters: dict[str, Tensor]) -> Tensor:
        """``log p(x|z)`` of sparse counts."""
        return count_likelihoods.zero_inflated_negative_binomial(
            x, parameters["location"], parameters["library"], parameters["log_dispersion"], parameters["zero"]
        )

    def distribution(self, parameters: dict[str, Tensor]) -> ZeroInflatedDistribution:
        """``p(x|z)`` as a distribution of scvi-tools."""
        mean, share = self.mean_and_share(parameters)
        theta = parameters["log_dispersion"].exp()
        return ZeroInflatedDistribution(mu=mean, theta=theta, zi_logits=parameters["zero"], scale=share)
