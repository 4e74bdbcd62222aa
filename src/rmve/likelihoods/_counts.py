"""What all likelihoods of counts share: the decoder gives proportions, which are scaled to the cell's total."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from rmve.likelihoods._base import Likelihood
from rmve.maths.regularization import halve_counts
from rmve.maths.sparse_rows import SparseRows

#: Counts that are added to each gene's total, so that a gene without counts has a logarithm. Not varied.
PSEUDOCOUNT = 0.1


class CountLikelihood(Likelihood):
    """Likelihood of raw counts with the mean ``softmax(location)`` times the library size."""

    takes_counts = True
    splits: ClassVar[tuple[str | None, ...]] = ("binomial", None)
    default_view = staticmethod(halve_counts)

    def problem(self, values: np.ndarray) -> str | None:
        """Why values are no counts, or ``None``.

        Parameters
        ----------
        values
            Finite numbers of the data, of any shape.
        """
        bad = values[(values < 0) | (values != np.round(values))]
        if not bad.size:
            return None
        kind = "negative" if bad[0] < 0 else "fractional"
        return f"{kind} values (for example {float(bad[0]):.10g}), but `gene_likelihood={self.name!r}` needs raw counts"

    def start_location(self, mean: np.ndarray, total: np.ndarray) -> np.ndarray:
        """Log of each gene's share of all counts, shape ``(G,)``.

        Parameters
        ----------
        mean
            Not used.
        total
            Sum of each gene's counts, shape ``(G,)``.
        """
        return np.log((total + PSEUDOCOUNT) / (total + PSEUDOCOUNT).sum())

    def log_mean(self, parameters: dict[str, Tensor]) -> Tensor:
        """Log of the expected counts, shape ``(..., B, G)``.

        Parameters
        ----------
        parameters
            What the decoder provides.
        """
        return parameters["location"].log_softmax(-1) + parameters["library"]

    def mean_and_share(self, parameters: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Expected counts, and the expected share of each gene in a cell, both of shape ``(..., B, G)``.

        Parameters
        ----------
        parameters
            What the decoder provides.
        """
        log_mean = self.log_mean(parameters)
        return log_mean.exp(), (log_mean - parameters["library"]).exp()

    def effect(self, parameters: dict[str, Tensor]) -> Tensor:
        """Expected counts in log2 units, shape ``(..., B, G)``.

        Parameters
        ----------
        parameters
            What the decoder provides.
        """
        return self.log_mean(parameters) / math.log(2.0)

    def log_prob(self, x: Tensor | SparseRows, parameters: dict[str, Tensor]) -> Tensor:
        """``log p(x|z)`` summed over genes; sparse counts are several times faster.

        Parameters
        ----------
        x
            Counts, shape ``(B, G)``.
        parameters
            What the decoder provides.

        Returns
        -------
        Tensor of shape ``(..., B)``, in nats.
        """
        if not isinstance(x, SparseRows):
            return self.log_prob_dense(x, parameters)
        if parameters["location"].dim() == 2:
            return self.log_prob_sparse(x, parameters)
        draws = {name: parameters[name] for name in ("location", *self.heads)}
        return torch.stack(
            [
                self.log_prob_sparse(x, parameters | dict(zip(draws, one, strict=True)))
                for one in zip(*draws.values(), strict=True)
            ]
        )

    @abstractmethod
    def log_prob_dense(self, x: Tensor, parameters: dict[str, Tensor]) -> Tensor:
        """:meth:`log_prob` of a tensor of counts."""

    @abstractmethod
    def log_prob_sparse(self, x: SparseRows, parameters: dict[str, Tensor]) -> Tensor:
        """:meth:`log_prob` of sparse counts, for one draw of ``z``."""
