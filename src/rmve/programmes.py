"""Gene programmes: which genes change as a cell moves along a dimension of the latent space."""

from __future__ import annotations

import numpy as np
import pandas as pd

#: Most cells that a change is averaged over.
MAX_CELLS = 500


def programme_table(change: np.ndarray, genes: np.ndarray, n: int, weight: np.ndarray | None = None) -> pd.DataFrame:
    """The ``n`` genes that rise most, and the ``n`` that fall most, along each dimension.

    Parameters
    ----------
    change
        Change of each gene over one standard deviation of each dimension, shape ``(d, G)``.
    genes
        Names of the genes.
    n
        Number of genes for each direction.
    weight
        Weight of each gene in the ranking, shape ``(G,)``; ``None`` is 1. With the root of a gene's mean count, genes are
        ranked by the change of the root of their count, whose noise is the same for all.

    Returns
    -------
    Data frame with the columns ``dimension`` (``"0"``, ``"1"``, ...), ``direction`` (``"up"`` or ``"down"``), ``gene`` and
    ``change``, the largest weighted change first; a gene is in the direction of its change only.
    """
    parts = []
    weight = np.ones(change.shape[1]) if weight is None else weight
    for dimension, values in enumerate(change):
        for direction, sign in (("up", 1.0), ("down", -1.0)):
            best = np.argsort(-sign * values * weight, kind="stable")[:n]
            best = best[sign * values[best] > 0]
            columns = {"dimension": str(dimension), "direction": direction, "gene": genes[best], "change": values[best]}
            parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)
