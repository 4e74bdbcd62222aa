"""What novelty compares cells with: the training cells of a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from rmve import _validation as check
from rmve.backed import read_rows, row_sums
from rmve.clusters.initialization import MAX_FITTED_CELLS
from rmve.clusters.levels import MergeTree
from rmve.model._encode import Posterior
from rmve.novelty import UNKNOWN, KnownCells, log_normalize, novelty_in_blocks


class Expression:
    """Expression and totals of cells, read by rows.

    Parameters
    ----------
    matrix
        Values, shape ``(n, G)``, in memory or on disk.
    counts
        Whether the values are counts, which are normalised.
    target_sum
        Common total of counts; ``None`` is the median of the cells.
    """

    def __init__(self, matrix, counts: bool, target_sum: float | None = None):
        self.matrix, self.counts = matrix, counts
        if counts and target_sum is None:
            target_sum = float(np.median(row_sums(matrix)))
        self.target_sum = target_sum

    def __call__(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Expression, shape ``(m, G)``, and total, shape ``(m,)``, of rows, ascending."""
        block = read_rows(self.matrix, rows)
        if self.counts:
            return log_normalize(block, self.target_sum), np.asarray(block.sum(axis=1), dtype=float).ravel()
        block = block.toarray() if hasattr(block, "toarray") else np.asarray(block)
        return block, np.ones(len(block))


def some_rows(n_cells: int, most: int = MAX_FITTED_CELLS, seed: int = 0) -> np.ndarray:
    """Rows of at most so many cells, drawn at random, ascending."""
    if n_cells <= most:
        return np.arange(n_cells)
    return np.sort(np.random.default_rng(seed).choice(n_cells, most, replace=False))


@dataclass(frozen=True)
class Reference:
    """Training cells of a model, as new ones are compared with them.

    Attributes
    ----------
    cells
        The training cells.
    cluster_of
        Cluster of each component at the default level, shape ``(K,)``.
    target_sum
        Common total that counts are normalised to; ``None`` for other values.
    """

    cells: KnownCells
    cluster_of: np.ndarray
    target_sum: float | None

    @classmethod
    def fit(cls, expression: Expression, n_cells: int, tree: MergeTree, encode: Callable) -> Reference:
        """Compare the training cells with each other.

        Parameters
        ----------
        expression
            Expression of the training cells.
        n_cells
            Number of training cells.
        tree
            Merges of the components.
        encode
            From rows to their :class:`~rmve.model._encode.Posterior`.
        """
        cluster_of = np.unique(tree.cut(tree.n_default), return_inverse=True)[1].reshape(-1)
        rows = some_rows(n_cells)
        posterior, (values, total) = encode(rows), expression(rows)
        cluster = cluster_of[posterior.assigned]
        cells = KnownCells.fit(values, posterior.latent, total, cluster, cluster_of.max() + 1)
        return cls(cells, cluster_of, expression.target_sum)

    def novelty(
        self, matrix, counts: bool, posterior: Posterior, index: pd.Index, rows: np.ndarray | None = None
    ) -> pd.Series:
        """Novelty of cells; see :meth:`rmve.RMVE.get_novelty`.

        Parameters
        ----------
        matrix
            Values of the cells, or of more.
        counts
            Whether they are counts.
        posterior
            Posterior of the cells.
        index
            Names of the cells.
        rows
            Their rows in ``matrix``, or a mask; ``None`` is all.
        """
        expression = Expression(matrix, counts, self.target_sum)
        wanted = np.arange(matrix.shape[0]) if rows is None else np.arange(matrix.shape[0])[rows]

        def read(block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            found, back = np.unique(wanted[block], return_inverse=True)
            values, total = expression(found)
            return values[back], total[back]

        values = novelty_in_blocks(self.cells, read, posterior.latent, self.cluster_of[posterior.assigned])
        return pd.Series(values, index=index, name="novelty")


def require_reference(reference: Reference | None) -> Reference:
    """The training cells of a model; RuntimeError if it has none."""
    if reference is None:
        raise RuntimeError(
            "Novelty compares cells with the training cells, and the model has none. Load it with them: "
            "`RMVE.load(path, adata=adata)`; for a query, load the reference so."
        )
    return reference


def name_unknown(labels: pd.Series, novelty: pd.Series, unknown: str) -> pd.Series:
    """Labels with the name ``unknown`` for cells unlike any training cell.

    Parameters
    ----------
    labels
        Cluster of each cell.
    novelty
        Novelty of each cell.
    unknown
        Name of the cells above :data:`rmve.novelty.UNKNOWN`.
    """
    return labels.cat.add_categories([unknown]).mask((novelty > UNKNOWN).to_numpy(), unknown)


def check_unknown(unknown: str, names: tuple[str, ...]) -> None:
    """Raise ValueError if a cluster has the name for unknown cells."""
    check.check_string("unknown", unknown)
    if unknown in names:
        raise ValueError(f"`unknown={unknown!r}` is the name of a cluster. Choose another name.")
