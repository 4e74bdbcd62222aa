"""Log-normalised or other continuous values."""

from __future__ import annotations

from scvi.distributions import Normal as NormalDistribution
from torch import Tensor

from rmve.likelihoods._base import Likelihood
from rmve.maths import likelihoods
from rmve.maths.sparse_rows import SparseRows


class Normal(Likelihood):
    """Normal values; ``log_dispersion`` is the log variance of each gene."""

    name = "normal"
    has_dispersion = True
    splits = (None, "normal")

    def start_log_dispersion(self, sd: Tensor) -> Tensor:
        """Log variance of each gene, shape ``(G,)``."""
        return 2.0 * sd.log()

    def log_prob(self, x: Tensor | SparseRows, parameters: dict[str, Tensor]) -> Tensor:
        """``log p(x|z)`` summed over genes."""
        assert not isinstance(x, SparseRows)  # only counts are loaded sparse
        return likelihoods.normal(x, parameters["location"], parameters["log_dispersion"])

    def distribution(self, parameters: dict[str, Tensor]) -> NormalDistribution:
        """``p(x|z)`` as a distribution of scvi-tools."""
        mean = parameters["location"]
        return NormalDistribution(mean, (0.5 * parameters["log_dispersion"]).exp(), normal_mu=mean)
