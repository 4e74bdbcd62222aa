"""How unlike all training cells a cell is: a share of the training cells, each compared with the others.

Two things are compared with the nearest training cells in the latent space: how far away they are, and how much the cell's
expression differs from theirs, since the encoder maps what it has never seen to places that it knows. A training cell is never
its own neighbour, so that training cells are judged as new ones are. Both are standardised for the cluster and the
depth of a cell and combined by Fisher's method; the training cells say how large the result is by chance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree
from sklearn.decomposition import PCA

#: Nearest training cells that a cell is compared with, and principal components that expression is compared in: the
#: numbers that training starts from.
N_NEIGHBORS, N_PCS = 15, 20
#: A cell is unknown if it is less like the training cells than this share of them: of cells of known types, at most one in
#: twenty is expected to be.
UNKNOWN = 0.95
#: A training cell this near, as a share of the median distance of neighbours, is the cell itself.
ITSELF = 1e-3
#: Cells that are compared at once.
BLOCK = 1024


@dataclass(frozen=True)
class Standard:
    """Location and scale of a statistic as functions of depth and cluster.

    Attributes
    ----------
    location, log_scale
        Coefficients of 1, depth and its square, shape ``(3,)``.
    offset
        Of each cluster, shape ``(C,)``; 0 for one without cells.
    """

    location: np.ndarray
    log_scale: np.ndarray
    offset: np.ndarray

    @classmethod
    def fit(cls, values: np.ndarray, depth: np.ndarray, cluster: np.ndarray, n_clusters: int) -> Standard:
        """Least squares for the location, the median for each cluster, least squares for the log of what is left.

        Parameters
        ----------
        values
            The statistic of each cell, shape ``(n,)``.
        depth
            Log of the total of each cell, shape ``(n,)``.
        cluster
            Integers in ``[0, n_clusters)``, shape ``(n,)``.
        n_clusters
            Number of clusters.
        """
        design = _design(depth)
        location = np.linalg.lstsq(design, values, rcond=None)[0]
        rest = values - design @ location
        present = np.isin(np.arange(n_clusters), cluster)
        offset = np.array([np.median(rest[cluster == c]) if there else 0.0 for c, there in enumerate(present)])
        rest = np.abs(rest - offset[cluster])
        floor = max(1e-3 * rest.mean(), 1e-9)
        log_scale = np.linalg.lstsq(design, np.log(rest + floor), rcond=None)[0]
        return cls(location, log_scale, offset)

    def apply(self, values: np.ndarray, depth: np.ndarray, cluster: np.ndarray) -> np.ndarray:
        """Standardised values, shape ``(n,)``."""
        design = _design(depth)
        return (values - design @ self.location - self.offset[cluster]) / np.exp(design @ self.log_scale)


def _design(depth: np.ndarray) -> np.ndarray:
    return np.stack([np.ones_like(depth), depth, depth**2], axis=1)


@dataclass(frozen=True)
class KnownCells:
    """Training cells as novelty is measured against them.

    Attributes
    ----------
    latent
        Latent means, shape ``(n, d)``.
    scores
        Principal components of expression, shape ``(n, p)``.
    center, axes
        Mean of the genes, shape ``(G,)``, and directions of the components, shape ``(p, G)``.
    precision
        Inverse covariance of the differences between a cell and its neighbours, shape ``(p, p)``.
    depth_range
        Least and greatest log total.
    nearest
        Median distance of neighbours.
    standards
        Of the two statistics.
    null
        Standardised statistics of the training cells, each sorted, and their combination, shape ``(3, n)``.
    """

    latent: np.ndarray
    scores: np.ndarray
    center: np.ndarray
    axes: np.ndarray
    precision: np.ndarray
    depth_range: tuple[float, float]
    nearest: float
    standards: tuple[Standard, Standard]
    null: np.ndarray

    @classmethod
    def fit(
        cls, expression: np.ndarray, latent: np.ndarray, total: np.ndarray, cluster: np.ndarray, n_clusters: int
    ) -> KnownCells:
        """Compare each training cell with the others.

        Parameters
        ----------
        expression
            Log-normalised expression, or values of another likelihood, shape ``(n, G)``, of at least two cells.
        latent
            Latent means, shape ``(n, d)``.
        total
            Molecules of each cell, shape ``(n,)``; all equal for data without molecules.
        cluster
            Integers in ``[0, n_clusters)``, shape ``(n,)``.
        n_clusters
            Number of clusters.
        """
        pca = PCA(min(N_PCS, len(expression) - 1, expression.shape[1]), random_state=0)
        scores, latent = pca.fit_transform(expression), np.asarray(latent, dtype=float)
        depth = np.log(np.maximum(total, 1.0))
        distances, neighbors = _neighbors(latent, latent, nearest=None)
        nearest = float(np.median(distances))
        distances, neighbors = _neighbors(latent, latent, nearest)
        difference = scores - scores[neighbors].mean(1)
        precision = np.linalg.pinv(difference.T @ difference / len(difference), hermitian=True)
        statistics = _statistics(distances, difference, precision)
        first, second = (Standard.fit(values, depth, cluster, n_clusters) for values in statistics)
        z = [s.apply(values, depth, cluster) for s, values in zip((first, second), statistics, strict=True)]
        both = sum(-np.log(_share_above(np.sort(values), values)) for values in z)
        return cls(
            latent,
            scores,
            pca.mean_,
            pca.components_,
            precision,
            (float(depth.min()), float(depth.max())),
            nearest,
            (first, second),
            np.sort(np.stack([*z, both]), axis=1),
        )

    def novelty(self, expression: np.ndarray, latent: np.ndarray, total: np.ndarray, cluster: np.ndarray) -> np.ndarray:
        """One minus a p-value for "this cell is like the training cells", shape ``(n,)``.

        Parameters
        ----------
        expression, latent, total, cluster
            As in :meth:`fit`. A cell that is itself among the training cells is compared with the others.

        Returns
        -------
        Values in [0, 1]: about uniform for cells like the training cells, close to 1 for others.
        """
        depth = np.clip(np.log(np.maximum(total, 1.0)), *self.depth_range)
        distances, neighbors = _neighbors(self.latent, np.asarray(latent, dtype=float), self.nearest)
        difference = (expression - self.center) @ self.axes.T - self.scores[neighbors].mean(1)
        statistics = _statistics(distances, difference, self.precision)
        z = [s.apply(values, depth, cluster) for s, values in zip(self.standards, statistics, strict=True)]
        both = sum(-np.log(_share_above(null, values)) for null, values in zip(self.null, z, strict=False))
        return 1.0 - _share_above(self.null[2], both)


def novelty_in_blocks(
    known: KnownCells,
    read: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    latent: np.ndarray,
    cluster: np.ndarray,
) -> np.ndarray:
    """:meth:`KnownCells.novelty` of many cells, a block at a time.

    Parameters
    ----------
    known
        The training cells.
    read
        From row numbers to the expression and the total of these cells.
    latent, cluster
        Of all cells, ``n`` rows.
    """
    found = np.empty(len(latent))
    for start in range(0, len(latent), BLOCK):
        rows = np.arange(start, min(start + BLOCK, len(latent)))
        expression, total = read(rows)
        found[rows] = known.novelty(expression, latent[rows], total, cluster[rows])
    return found


def _neighbors(among: np.ndarray, of: np.ndarray, nearest: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Distance and row of the nearest of some points to others, without the point itself.

    A point is itself if it is the nearest and nearer than ``ITSELF * nearest``; of ``None``, the nearest always is.
    """
    n_neighbors = min(N_NEIGHBORS, len(among) - 1)
    distances, rows = cKDTree(among).query(of, n_neighbors + 1)
    skip = np.ones(len(of), dtype=int) if nearest is None else (distances[:, 0] <= ITSELF * nearest).astype(int)
    columns = skip[:, None] + np.arange(n_neighbors)
    return np.take_along_axis(distances, columns, 1), np.take_along_axis(rows, columns, 1)


def _statistics(distances: np.ndarray, difference: np.ndarray, precision: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log mean distance to the neighbours, and log squared Mahalanobis length of the difference from their mean."""
    squared = np.einsum("ij,jk,ik->i", difference, precision, difference)
    return tuple(np.log(np.maximum(values, 1e-9)) for values in (distances.mean(1), squared))


def _share_above(null: np.ndarray, values: np.ndarray) -> np.ndarray:
    """P-value of each value: the share of ``null``, sorted, that is at least as large, with the value itself."""
    return (1.0 + len(null) - np.searchsorted(null, values, side="left")) / (1.0 + len(null))
