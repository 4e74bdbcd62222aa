"""What RMVE asks of a likelihood of genes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import numpy as np
from torch import Tensor
from torch.distributions import Distribution

from rmve.maths.sparse_rows import SparseRows


class Likelihood(ABC):
    """Distribution ``p(x|z)`` of a cell's values, given the decoder's output.

    A subclass is one likelihood: it declares what the decoder must provide, and computes with it. It holds no parameters
    and no data. Its methods get the ``parameters`` of a mini-batch, a dictionary of

    ``location``
        Output of the decoder's main head, shape ``(..., B, G)``; leading axes are several draws of ``z``.
    ``library``
        Log total of each cell, shape ``(B, 1)``, if it :attr:`takes_counts`.
    ``log_dispersion``
        Learned number for each gene, shape ``(G,)``, if it :attr:`has_dispersion`.
    one entry for each name in :attr:`heads`
        Output of one more linear head, shape ``(..., B, G)``.
    """

    #: ``gene_likelihood`` in :class:`rmve.RMVE`.
    name: ClassVar[str]
    #: Whether values are raw counts. They are normalised by the library size and log-transformed for the encoder, and
    #: loaded sparse.
    takes_counts: ClassVar[bool] = False
    #: Whether the encoder's input is centred and scaled, gene by gene; always so for counts.
    standardizes: ClassVar[bool] = True
    #: Whether there is a learned ``log_dispersion`` for each gene.
    has_dispersion: ClassVar[bool] = False
    #: Names of heads of the decoder beside the location.
    heads: ClassVar[tuple[str, ...]] = ()
    #: Ways to split a cell for the predictive bound (:func:`rmve.predictive.split_batch`), the default first; ``None`` is
    #: the plain bound.
    splits: ClassVar[tuple[str | None, ...]] = (None,)
    #: Function that makes another view of a mini-batch, shape ``(B, G)``; ``None`` if the user has to give one.
    default_view: Callable[[Tensor], Tensor] | None = None  # as a ClassVar it would be taken for a method

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        if cls.takes_counts and not cls.standardizes:
            raise TypeError(f"{cls.__name__}: the encoder reads counts standardised. Leave `standardizes` True.")

    def problem(self, values: np.ndarray) -> str | None:
        """Why values cannot be of this likelihood, or ``None``.

        Parameters
        ----------
        values
            Finite numbers of the data, of any shape; zeros of sparse data may be left out.

        Returns
        -------
        A phrase that follows "the data has", such as ``"negative values"``.
        """
        return None

    def start_location(self, mean: np.ndarray, total: np.ndarray) -> np.ndarray:
        """Location that the decoder starts from, shape ``(G,)``: that of an average cell.

        Parameters
        ----------
        mean
            Mean of each gene, shape ``(G,)``, of log-normalised values for counts.
        total
            Sum of each gene's counts, shape ``(G,)``; zeros if values are no counts.
        """
        return mean

    def start_log_dispersion(self, sd: Tensor) -> Tensor | None:
        """Log dispersion that training starts from, shape ``(G,)``, or ``None`` for 1.

        Parameters
        ----------
        sd
            Standard deviation of each gene, shape ``(G,)``.
        """
        return None

    @abstractmethod
    def log_prob(self, x: Tensor | SparseRows, parameters: dict[str, Tensor]) -> Tensor:
        """``log p(x|z)`` summed over genes.

        Parameters
        ----------
        x
            Data, shape ``(B, G)``; sparse only if the likelihood takes counts.
        parameters
            What the decoder provides.

        Returns
        -------
        Tensor of shape ``(..., B)``, in nats.
        """

    @abstractmethod
    def distribution(self, parameters: dict[str, Tensor]) -> Distribution:
        """``p(x|z)`` as a distribution with the accessor ``get_normalized`` of those of scvi-tools.

        Parameters
        ----------
        parameters
            What the decoder provides.
        """

    def effect(self, parameters: dict[str, Tensor]) -> Tensor:
        """Expected value of each gene on the scale that changes are reported on, shape ``(..., B, G)``.

        Parameters
        ----------
        parameters
            What the decoder provides.
        """
        return parameters["location"]
