"""From a trained model and its cells to :mod:`rmve.novelty`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData

from rmve import _validation as check
from rmve.backed import read_rows
from rmve.gene_likelihoods import COUNT_LIKELIHOODS
from rmve.initialization import MAX_FITTED_CELLS, row_sums
from rmve.novelty import UNKNOWN, KnownCells, log_normalize, novelty_in_blocks

if TYPE_CHECKING:
    from rmve.model import RMVE


class Reader:
    """Expression and totals of rows of the cells of a model.

    Parameters
    ----------
    model
        Says which layer, and whether it holds counts.
    adata
        The cells.
    target_sum
        Common total; ``None`` is the median of the cells.
    """

    def __init__(self, model: RMVE, adata: AnnData, target_sum: float | None = None):
        self.matrix = check.get_matrix(adata, model._setup_arg("layer"))
        self.counts = model.gene_likelihood in COUNT_LIKELIHOODS
        if self.counts and target_sum is None:
            target_sum = float(np.median(row_sums(self.matrix)))
        self.target_sum = target_sum

    def __call__(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Expression, shape ``(n, G)``, and total, shape ``(n,)``, of rows, ascending."""
        block = read_rows(self.matrix, rows)
        if self.counts:
            return log_normalize(block, self.target_sum), np.asarray(block.sum(axis=1), dtype=float).ravel()
        block = block.toarray() if hasattr(block, "toarray") else np.asarray(block)
        return block, np.ones(len(block))


def known_cells(model: RMVE) -> tuple[KnownCells, np.ndarray, float | None] | None:
    """Training cells of a model, the cluster of each component, and the common total; ``None`` if it has none at hand.

    A model keeps them for as long as its components are the same, and a query has those of its reference.
    """
    if model.is_query_:
        return getattr(model, "_reference_cells", None)
    if model.adata is None:
        return None
    tree = model.tree
    kept = getattr(model, "_known_cells", None)
    if kept is not None and kept[0] is tree:
        return kept[1]
    cluster_of = np.unique(tree.cut(tree.n_default), return_inverse=True)[1].reshape(-1)
    rows = np.arange(model.adata.n_obs)
    if len(rows) > MAX_FITTED_CELLS:
        rows = np.sort(np.random.default_rng(0).choice(rows, MAX_FITTED_CELLS, replace=False))
    assignment, latent = model._posterior(indices=rows)
    reader = Reader(model, model.adata)
    expression, total = reader(rows)
    cluster = cluster_of[assignment.argmax(1)]
    found = KnownCells.fit(expression, latent, total, cluster, cluster_of.max() + 1), cluster_of, reader.target_sum
    model._known_cells = (tree, found)
    return found


def novelty_of(
    model: RMVE,
    cells: AnnData,
    assignment: np.ndarray,
    latent: np.ndarray,
    index: pd.Index,
    rows: np.ndarray | None = None,
) -> pd.Series:
    """Novelty of cells whose posterior is known; see :meth:`rmve.RMVE.get_novelty`.

    Parameters
    ----------
    model
        A trained model.
    cells
        The cells, or more.
    assignment, latent
        Posterior of the cells.
    index
        Their names.
    rows
        Their rows in ``cells``; ``None`` is all.

    Raises
    ------
    RuntimeError
        If the training cells are not at hand.
    """
    known = known_cells(model)
    if known is None:
        raise RuntimeError(
            "Novelty compares cells with the training cells, and the model has none. Load it with them: "
            "`RMVE.load(path, adata=adata)`; for a query, load the reference so."
        )
    training, cluster_of, target_sum = known
    reader = Reader(model, cells, target_sum)

    def read(block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        wanted = block if rows is None else np.arange(cells.n_obs)[rows][block]
        found, back = np.unique(wanted, return_inverse=True)
        return tuple(part[back] for part in reader(found))

    values = novelty_in_blocks(training, read, latent, cluster_of[assignment.argmax(1)])
    return pd.Series(values, index=index, name="novelty")


def name_unknown(
    model: RMVE,
    cells: AnnData,
    rows: np.ndarray | None,
    assignment: np.ndarray,
    latent: np.ndarray,
    labels: pd.Series,
    unknown: str,
) -> pd.Series:
    """Labels with the name ``unknown`` for cells unlike any training cell; the arguments are those of :func:`novelty_of`.

    Raises
    ------
    ValueError
        If a cluster has that name.
    """
    check.check_string("unknown", unknown)
    if unknown in labels.cat.categories:
        raise ValueError(f"`unknown={unknown!r}` is the name of a cluster. Choose another name.")
    novelty = novelty_of(model, cells, assignment, latent, labels.index, rows)
    return labels.cat.add_categories([unknown]).mask((novelty > UNKNOWN).to_numpy(), unknown)
