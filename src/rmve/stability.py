"""Agreement between partitions of the same cells: pairwise scores, a consensus, and a score for each cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score


@dataclass(frozen=True)
class Stability:
    """How well several runs agree.

    Attributes
    ----------
    agreement
        Adjusted Rand index of each pair of runs, ``(n_runs, n_runs)``.
    labels
        Clusters of each run, a column a run, renamed to match the reference run.
    consensus
        Most frequent cluster of each cell.
    cell_stability
        Share of the runs that put the cell in its consensus cluster.
    reference
        Run that agrees most with the others; its cluster names are the consensus' names.
    """

    agreement: pd.DataFrame
    labels: pd.DataFrame
    consensus: pd.Series
    cell_stability: pd.Series
    reference: int

    @property
    def mean_agreement(self) -> float:
        """Mean adjusted Rand index over pairs of runs."""
        values = self.agreement.to_numpy()
        return float(values[np.triu_indices_from(values, 1)].mean())


def match_labels(labels: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Rename clusters so that they share as many cells as possible with those of a reference.

    Parameters
    ----------
    labels, reference
        Cluster numbers of the same cells, shape ``(n,)``.

    Returns
    -------
    ``labels`` renamed one to one; clusters without a partner get numbers above those of the reference.
    """
    table = pd.crosstab(labels, reference)
    rows, cols = linear_sum_assignment(-table.to_numpy())
    names = dict(zip(table.index[rows], table.columns[cols], strict=True))
    fresh = int(max(reference.max(), labels.max())) + 1
    for label in table.index:
        if label not in names:
            names[label] = fresh
            fresh += 1
    return np.array([names[label] for label in labels])


def compare_partitions(partitions: Sequence[np.ndarray], index: pd.Index) -> Stability:
    """Compare partitions of the same cells.

    Parameters
    ----------
    partitions
        Cluster numbers, each of shape ``(n,)``; at least two.
    index
        Names of the cells.

    Raises
    ------
    ValueError
        If there are fewer than two partitions.
    """
    n_runs = len(partitions)
    if n_runs < 2:
        raise ValueError("At least two partitions are needed to compare them.")
    agreement = np.eye(n_runs)
    for i in range(n_runs):
        for j in range(i):
            agreement[i, j] = agreement[j, i] = adjusted_rand_score(partitions[i], partitions[j])
    reference = int(agreement.sum(0).argmax())
    matched = np.stack([match_labels(p, partitions[reference]) for p in partitions], axis=1)
    clusters = np.unique(matched)
    votes = np.stack([(matched == cluster).sum(1) for cluster in clusters], axis=1)
    # ties go to the cluster of the reference run
    votes = votes + 0.5 * (matched[:, [reference]] == clusters[None])
    consensus = clusters[votes.argmax(1)]
    runs = pd.RangeIndex(n_runs, name="run")
    return Stability(
        agreement=pd.DataFrame(agreement, index=runs, columns=runs),
        labels=pd.DataFrame(matched, index=index, columns=runs),
        consensus=pd.Series(consensus.astype(str), index=index, dtype="category", name="consensus"),
        cell_stability=pd.Series((matched == consensus[:, None]).mean(1), index=index, name="stability"),
        reference=reference,
    )
