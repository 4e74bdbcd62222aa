"""The partition of the cells that training starts from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from rmve.clusters.initialization import default_n_components, starting_partition
from rmve.clusters.labels import partition_from_labels


@dataclass(frozen=True)
class Start:
    """Partition that training starts from.

    Attributes
    ----------
    partition
        Component of each cell, integers in ``[0, K)``, shape ``(n,)``.
    n_components
        Number of components ``K``; those of known types come first.
    """

    partition: np.ndarray
    n_components: int

    @property
    def assignment(self) -> np.ndarray:
        """The partition as probabilities, shape ``(n, K)``."""
        return np.eye(self.n_components, dtype=np.float32)[self.partition]

    @classmethod
    def of(cls, partition: np.ndarray, labels: np.ndarray, n_labels: int) -> Start:
        """Start from a partition in which labelled cells keep their label.

        Parameters
        ----------
        partition
            Component of each cell, shape ``(n,)``.
        labels
            Component of each labelled cell, -1 for the others, shape ``(n,)``.
        n_labels
            Number of labels.
        """
        return cls(np.where(labels >= 0, labels, partition), max(n_labels, int(partition.max()) + 1))


def find_start(
    points: np.ndarray,
    graph: sp.csr_matrix | None,
    labels: np.ndarray,
    n_labels: int,
    n_clusters: int | None,
    seed: int,
) -> Start:
    """Small clusters to start from; with labels, known types and small clusters of no known type.

    Parameters
    ----------
    points
        Principal components of the cells, shape ``(n, p)``.
    graph
        Neighbour graph, shape ``(n, n)``; it is needed if some cells are labelled and others are not.
    labels
        Component of each labelled cell, -1 for the others, shape ``(n,)``.
    n_labels
        Number of labels.
    n_clusters
        Number of clusters that the user asks for; ``None`` if it is to be found.
    seed
        Random seed.
    """
    if (labels >= 0).all():
        partition = labels
    elif (labels < 0).all():
        partition = starting_partition(points, default_n_components(len(points), n_clusters), seed)
    else:
        partition = partition_from_labels(points, graph, seed, labels, n_labels)
    return Start.of(partition, labels, n_labels)
