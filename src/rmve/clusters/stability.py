"""Agreement between runs on the same cells: pairwise scores, a consensus, a score for each cell, and a resolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment

from rmve.clusters.components import agreement_matrix
from rmve.clusters.levels import MergeTree

#: Share of the best agreement that a number of clusters must reach to be recommended.
MIN_SHARE = 0.9
#: Agreement that the best number of clusters must reach, for more than one to be recommended.
MIN_AGREEMENT = 0.5


@dataclass(frozen=True)
class Run:
    """What is compared of a run.

    Attributes
    ----------
    assigned
        Component of each cell, shape ``(n,)``.
    cluster_of
        Cluster of each component, shape ``(K,)``.
    tree
        Merges of the components.
    """

    assigned: np.ndarray
    cluster_of: np.ndarray
    tree: MergeTree

    @property
    def partition(self) -> np.ndarray:
        """Cluster of each cell, shape ``(n,)``."""
        return np.asarray(self.cluster_of)[self.assigned]


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
    resolutions
        Agreement at each number of clusters that the runs' merge trees can be cut to; see :func:`agreement_by_number`.
    recommended
        Recommended number of clusters; see :func:`recommend_number`.
    """

    agreement: pd.DataFrame
    labels: pd.DataFrame
    consensus: pd.Series
    cell_stability: pd.Series
    reference: int
    resolutions: pd.DataFrame
    recommended: int

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


def count_pairs(first: np.ndarray, second: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Contingency table of two partitions of the same cells.

    Parameters
    ----------
    first, second
        Cluster numbers, shape ``(n,)``.
    shape
        Number of clusters of each.
    """
    return np.bincount(np.asarray(first) * shape[1] + second, minlength=shape[0] * shape[1]).reshape(shape)


def rand_index(table: np.ndarray) -> float:
    """Adjusted Rand index of two partitions from their contingency table; 1 for equal ones."""

    def pairs(counts: np.ndarray) -> float:
        counts = counts.astype(float)
        return float((counts * (counts - 1) / 2).sum())

    together, first, second, everything = (pairs(x) for x in (table, table.sum(1), table.sum(0), table.sum()))
    if first == second == together:
        return 1.0
    expected = first * second / everything
    return (together - expected) / ((first + second) / 2 - expected)


def agreement_by_number(runs: Sequence[Run]) -> pd.DataFrame:
    """Agreement between runs at each number of clusters that their merge trees can be cut to.

    Parameters
    ----------
    runs
        Runs on the same cells.

    Returns
    -------
    Data frame with a row for each number from 2 to the most active components of a run:

    - ``n_clusters``;
    - ``agreement``, ``sd``, ``lowest``: mean, standard deviation and minimum of the adjusted Rand index over pairs of
      runs that reach the number (NaN where no pair does; ``sd`` is NaN for one pair);
    - ``n_pairs``: how many pairs do;
    - ``n_found``: runs whose default level has this number.
    """
    tables = {
        (i, j): count_pairs(runs[i].assigned, runs[j].assigned, (len(runs[i].cluster_of), len(runs[j].cluster_of)))
        for i in range(len(runs))
        for j in range(i)
    }
    found = [run.tree.n_default for run in runs]
    rows = []
    for number in range(2, max(run.tree.n_finest for run in runs) + 1):
        # indicators of the clusters, (K, K): merging clusters adds up rows and columns of the contingency table
        cuts = [
            np.eye(len(run.cluster_of))[run.tree.cut(number)]
            if run.tree.n_coarsest <= number <= run.tree.n_finest
            else None
            for run in runs
        ]
        scores = np.array(
            [
                rand_index(first.T @ table @ second)
                for (i, j), table in tables.items()
                if (first := cuts[i]) is not None and (second := cuts[j]) is not None
            ]
        )
        some, several = len(scores) > 0, len(scores) > 1
        rows.append(
            {
                "n_clusters": number,
                "agreement": scores.mean() if some else np.nan,
                "sd": scores.std(ddof=1) if several else np.nan,
                "lowest": scores.min() if some else np.nan,
                "n_pairs": len(scores),
                "n_found": found.count(number),
            }
        )
    types = {"n_clusters": int, "agreement": float, "sd": float, "lowest": float, "n_pairs": int, "n_found": int}
    return pd.DataFrame(rows, columns=list(types)).astype(types)  # there may be no row


def recommend_number(resolutions: pd.DataFrame, found: Sequence[int]) -> int:
    """Number of clusters to recommend, from runs alone, without labels.

    Among the numbers that at least half of the runs find, or exceed, the largest whose agreement is at least 0.9 of the
    best among them; 1 if the best is below 0.5 (:data:`MIN_SHARE` and :data:`MIN_AGREEMENT`).

    Parameters
    ----------
    resolutions
        From :func:`agreement_by_number`.
    found
        Number of clusters that each run finds (the default level of its tree).

    Notes
    -----
    Agreement alone cannot tell a number: it is often best at two clusters, where little can differ, and says nothing of
    whether clusters are apart. Confusion alone can: clusters that share cells are parts of one. But it is one run's
    opinion. So the default level bounds the number, and agreement lowers it where runs split the cells differently.

    It fails where the runs are wrong together. A type that no run keeps apart is not found again, whatever the
    agreement: compare with runs from more components. A continuum that all runs cut alike counts as clusters. Where
    runs find very different numbers, the clusters hardly stand apart, and the number recommended means little.
    """
    limit = sorted(found)[len(found) // 2]
    possible = resolutions[(resolutions["n_clusters"] <= limit) & (resolutions["n_pairs"] > 0)]
    best = possible["agreement"].max()
    if possible.empty or best < MIN_AGREEMENT:
        return 1
    return int(possible.loc[possible["agreement"] >= MIN_SHARE * best, "n_clusters"].max())


def compare_runs(runs: Sequence[Run], index: pd.Index) -> Stability:
    """Compare runs on the same cells.

    Parameters
    ----------
    runs
        At least two.
    index
        Names of the cells.

    Raises
    ------
    ValueError
        If there are fewer than two runs.
    """
    n_runs = len(runs)
    if n_runs < 2:
        raise ValueError("At least two runs are needed to compare them.")
    partitions = [run.partition for run in runs]
    agreement = agreement_matrix(partitions)
    reference = int(agreement.sum(0).argmax())
    matched = np.stack([match_labels(p, partitions[reference]) for p in partitions], axis=1)
    clusters = np.unique(matched)
    votes = np.stack([(matched == cluster).sum(1) for cluster in clusters], axis=1)
    # ties go to the cluster of the reference run
    votes = votes + 0.5 * (matched[:, [reference]] == clusters[None])
    consensus = clusters[votes.argmax(1)]
    resolutions = agreement_by_number(runs)
    names = pd.RangeIndex(n_runs, name="run")
    return Stability(
        agreement=pd.DataFrame(agreement, index=names, columns=names),
        labels=pd.DataFrame(matched, index=index, columns=names),
        consensus=pd.Series(consensus.astype(str), index=index, dtype="category", name="consensus"),
        cell_stability=pd.Series((matched == consensus[:, None]).mean(1), index=index, name="stability"),
        reference=reference,
        resolutions=resolutions,
        recommended=recommend_number(resolutions, [run.tree.n_default for run in runs]),
    )
