"""Values between 0 and 1: accessibility, presence, grey levels."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rmve.likelihoods._base import Likelihood
from rmve.maths import likelihoods
from rmve.maths.sparse_rows import SparseRows

#: Smallest mean, and distance from 1, that the decoder starts from: the log-odds are finite. Not varied.
MIN_MEAN = 1e-3


class BernoulliDistribution(torch.distributions.Bernoulli):
    """torch's Bernoulli with the accessor that scvi-tools expects of a likelihood."""

    def get_normalized(self, key: str) -> Tensor:
        """Success probability, whichever of scvi-tools' keys is asked for."""
        return self.probs


class Bernoulli(Likelihood):
    """Zeros and ones, or soft observations between them; the location is the log-odds of a one."""

    name = "bernoulli"
    standardizes = False

    def problem(self, values: np.ndarray) -> str | None:
        """Why values are not between 0 and 1, or ``None``."""
        if values.size and (values.min() < 0 or values.max() > 1):
            return "values outside [0, 1], which `gene_likelihood='bernoulli'` needs"
        return None

    def start_location(self, mean: np.ndarray, total: np.ndarray) -> np.ndarray:
        """Log-odds of each gene's mean, shape ``(G,)``."""
        p = np.clip(mean, MIN_MEAN, 1 - MIN_MEAN)
        return np.log(p) - np.log1p(-p)

    def log_prob(self, x: Tensor | SparseRows, parameters: dict[str, Tensor]) -> Tensor:
        """``log p(x|z)`` summed over genes."""
        assert not isinstance(x, SparseRows)  # only counts are loaded sparse
        return likelihoods.bernoulli(x, parameters["location"])

    def distribution(self, parameters: dict[str, Tensor]) -> BernoulliDistribution:
        """``p(x|z)`` as a distribution with scvi-tools' accessor."""
        return BernoulliDistribution(logits=parameters["location"])
