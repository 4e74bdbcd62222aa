"""What novelty compares cells with: the training cells of a model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from rmve import _validation as check
from rmve.clusters.initialization import log_normalize
from rmve.clusters.levels import MergeTree
from rmve.data.on_disk import read_rows, to_dense
from rmve.model._encode import Posterior
from rmve.novelty import UNKNOWN, KnownCells, novelty_in_blocks


def read_expression(matrix, rows: np.ndarray, target_sum: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Expression of cells, shape ``(m, G)``, and their totals, shape ``(m,)``.

    Parameters
    ----------
    matrix
        Values, shape ``(n, G)``, in memory or on disk.
    rows
        Rows to read, ascending.
    target_sum
        Common total that counts are normalised to; ``None`` for other values, whose totals are 1.
    """
    block = to_dense(read_rows(matrix, rows))
    if target_sum is None:
        return block, np.ones(len(block))
    total = block.sum(axis=1, dtype=float)
    return log_normalize(block, np.maximum(total, 1.0), target_sum), total


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
    def fit(
        cls, matrix, rows: np.ndarray, posterior: Posterior, target_sum: float | None, tree: MergeTree
    ) -> Reference:
        """Compare training cells with each other.

        Parameters
        ----------
        matrix
            Values of all training cells.
        rows
            Rows of those to compare, ascending.
        posterior
            Posterior of these.
        target_sum
            Common total that counts are normalised to; ``None`` for other values.
        tree
            Merges of the components.
        """
        cluster_of = np.unique(tree.cut(tree.n_default), return_inverse=True)[1].reshape(-1)
        values, total = read_expression(matrix, rows, target_sum)
        cluster = cluster_of[posterior.assigned]
        cells = KnownCells.fit(values, posterior.latent, total, cluster, cluster_of.max() + 1)
        return cls(cells, cluster_of, target_sum)

    def novelty(self, matrix, posterior: Posterior, index: pd.Index, rows: np.ndarray | None = None) -> pd.Series:
        """Novelty of cells; see :meth:`rmve.RMVE.get_novelty`.

        Parameters
        ----------
        matrix
            Values of the cells, or of more.
        posterior
            Posterior of the cells.
        index
            Names of the cells.
        rows
            Their rows in ``matrix``, or a mask; ``None`` is all.
        """
        wanted = np.arange(matrix.shape[0]) if rows is None else np.arange(matrix.shape[0])[rows]

        def read(block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            found, back = np.unique(wanted[block], return_inverse=True)
            values, total = read_expression(matrix, found, self.target_sum)
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
