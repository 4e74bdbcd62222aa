"""What training knows of each cell."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp


@dataclass(frozen=True)
class TrainingData:
    """What the training plan knows of each cell; rows are those of the registered AnnData.

    Parameters
    ----------
    start
        Starting assignment ``r``, shape ``(n, K)``, rows on the simplex.
    labelled
        Cells whose assignment is given, shape ``(n,)``.
    graph
        Neighbour graph whose rows sum to one (or to zero), shape ``(n, n)``; ``None`` for no Potts prior.
    positions
        Standardised coordinates, shape ``(n, p)``, rows of NaN where unknown; ``None`` for no spatial term.
    held_out
        Cells whose position is not to be learned, shape ``(n,)``.
    """

    start: np.ndarray
    labelled: np.ndarray
    graph: sp.csr_matrix | None = None
    positions: np.ndarray | None = None
    held_out: np.ndarray | None = None
