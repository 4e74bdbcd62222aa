"""What training starts from: input statistics, principal components, a partition, a neighbour graph.

A mixture VAE that starts from random assignments collapses onto few components, so a run starts from many small clusters
of the principal components; training decides which of them stay. All functions are plain NumPy.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.neighbors import NearestNeighbors

from rmve.data.on_disk import row_chunks, row_sums
from rmve.likelihoods import Likelihood

#: Cells that principal components and k-means are fitted to; more are projected and assigned.
MAX_FITTED_CELLS = 20_000
#: Above this number of cells, neighbours are approximate (pynndescent).
MAX_EXACT_NEIGHBORS = 20_000
#: Above this one, they are looked for in a sample of this size, :data:`QUERY` cells at a time.
MAX_INDEXED_NEIGHBORS, QUERY = 200_000, 50_000
#: Components that a run starts from, and the least number of cells in one, on average.
N_START_COMPONENTS, MIN_START_CELLS = 40, 10
#: Neighbours of a cell.
N_NEIGHBORS = 15


@dataclass(frozen=True)
class InputStatistics:
    """Constants of the encoder's input and the decoder's start; see ``RMVEModule.set_input_statistics``."""

    mean: np.ndarray
    sd: np.ndarray
    target_sum: float
    size_factor_scale: float
    output_bias: np.ndarray


def sample_rows(n_cells: int, most: int = MAX_FITTED_CELLS, seed: int = 0) -> np.ndarray:
    """Rows of at most so many cells, drawn at random, ascending."""
    if n_cells <= most:
        return np.arange(n_cells)
    return np.sort(np.random.default_rng(seed).choice(n_cells, most, replace=False))


def log_normalize(counts: np.ndarray, size_factor: np.ndarray, target_sum: float) -> np.ndarray:
    """``log1p`` of counts scaled to a common total, as the encoder sees them before standardisation."""
    return np.log1p(counts * (target_sum / size_factor[:, None]).astype(np.float32))


def input_statistics(
    x,
    likelihood: Likelihood,
    size_factor: np.ndarray | None = None,
    totals: np.ndarray | None = None,
    watch: Callable[[np.ndarray], None] | None = None,
) -> InputStatistics:
    """Per-gene mean and standard deviation of the encoder's input, in one pass over the data.

    Parameters
    ----------
    x
        Data, shape ``(n, G)``, dense, sparse or backed.
    likelihood
        Likelihood of the model.
    size_factor
        Registered size factors, shape ``(n,)``; ``None`` for total counts.
    totals
        Total of each cell, shape ``(n,)``; ``None`` reads the data once more for them.
    watch
        Function that sees each block of rows, too.
    """
    counts = likelihood.takes_counts
    n, target_sum, scale, library = x.shape[0], 1.0, 1.0, None
    if counts:
        totals = row_sums(x) if totals is None else totals
        target_sum = float(np.median(totals))
        if size_factor is None:
            library = totals
        else:
            scale = float(np.median(totals / size_factor))
            library = size_factor * scale
    total, square, raw = np.zeros(x.shape[1]), np.zeros(x.shape[1]), np.zeros(x.shape[1])
    done = 0
    for block in row_chunks(x):
        if watch is not None:
            watch(block)
        if library is not None:
            raw += block.sum(0, dtype=np.float64)
            block = log_normalize(block, library[done : done + len(block)], target_sum)
        done += len(block)
        total += block.sum(0, dtype=np.float64)
        square += np.square(block, dtype=np.float64).sum(0)
    mean = total / n
    sd = np.sqrt(np.maximum(square / n - mean**2, 0.0))
    sd[sd < 1e-6] = 1.0  # a constant gene stays at 0
    return InputStatistics(mean, sd, target_sum, scale, likelihood.start_location(mean, raw))


def principal_components(standardize, x, n_components: int, seed: int, max_cells: int = MAX_FITTED_CELLS) -> np.ndarray:
    """Principal components of the encoder's input.

    Parameters
    ----------
    standardize
        Maps a block of rows and their indices to the encoder's input.
    x
        Data, shape ``(n, G)``.
    n_components
        Number of components; less if the data has fewer rows or columns.
    seed
        Of the random solver and of the choice of cells to fit on.
    max_cells
        Fit on at most this many cells and project the others.

    Returns
    -------
    Array of shape ``(n, n_components)``.
    """
    rng = np.random.default_rng(seed)
    n = x.shape[0]
    fit_rows = np.arange(n) if n <= max_cells else np.sort(rng.choice(n, max_cells, replace=False))
    n_components = max(1, min(n_components, len(fit_rows) - 1, x.shape[1]))

    def blocks(rows):
        done = 0
        for block in row_chunks(x, rows):
            yield standardize(block, rows[done : done + len(block)])
            done += len(block)

    fitted_on = np.concatenate(list(blocks(fit_rows)))
    pca = PCA(n_components, svd_solver="auto", random_state=int(rng.integers(2**31 - 1))).fit(fitted_on)
    if len(fit_rows) == n:
        return pca.transform(fitted_on)
    return np.concatenate([pca.transform(block) for block in blocks(np.arange(n))])


def center_batches(points: np.ndarray, batch: np.ndarray) -> np.ndarray:
    """Move the batches onto each other: subtract from each its own mean.

    Crude, and enough for a start: cells of one type, far apart in two batches, would start in two components.

    Parameters
    ----------
    points
        Shape ``(n, p)``.
    batch
        Integers, shape ``(n,)``.
    """
    centered = np.empty_like(points)
    for b in np.unique(batch):
        centered[batch == b] = points[batch == b] - points[batch == b].mean(0)
    return centered


def default_n_components(n_cells: int, n_clusters: int | None = None) -> int:
    """Components that a run starts from: :data:`N_START_COMPONENTS`, more than there are types to find.

    Parameters
    ----------
    n_cells
        Number of cells; a component starts from at least :data:`MIN_START_CELLS` of them on average.
    n_clusters
        Number of clusters that are wanted; there are at least as many components, and one cluster has one.
    """
    if n_clusters == 1:
        return 1
    n_components = max(N_START_COMPONENTS, 2 * (n_clusters or 0))
    return max(min(n_components, n_cells // MIN_START_CELLS), n_clusters or min(2, n_cells))


def starting_partition(points: np.ndarray, n_clusters: int, seed: int, max_cells: int = MAX_FITTED_CELLS) -> np.ndarray:
    """Partition of the cells by k-means, to start from.

    Parameters
    ----------
    points
        Principal components, shape ``(n, p)``.
    n_clusters
        Number of centres.
    seed
        Of k-means and of the choice of cells to fit on.
    max_cells
        Fit on at most this many cells and assign the others.

    Returns
    -------
    Integers in ``[0, n_clusters)``, shape ``(n,)``.
    """
    points = np.ascontiguousarray(points, dtype=np.float64)
    sample = points[sample_rows(len(points), max_cells, seed)]
    with warnings.catch_warnings():  # fewer distinct cells than centres: some stay empty
        warnings.simplefilter("ignore", ConvergenceWarning)
        return KMeans(n_clusters, n_init=1, random_state=seed).fit(sample).predict(points)


def partition_moments(points: np.ndarray, partition: np.ndarray, n_clusters: int) -> tuple[np.ndarray, ...]:
    """Mean, variance and weight of each cluster of a partition.

    Parameters
    ----------
    points
        Shape ``(n, d)``.
    partition
        Shape ``(n,)``.
    n_clusters
        ``K``; an empty cluster gets the moments of all points and a weight of one cell.

    Returns
    -------
    Means and variances of shape ``(K, d)``, weights of shape ``(K,)`` summing to one.
    """
    mean = np.tile(points.mean(0), (n_clusters, 1))
    var = np.tile(points.var(0), (n_clusters, 1))
    size = np.bincount(partition, minlength=n_clusters)
    for k in np.flatnonzero(size):
        members = points[partition == k]
        mean[k] = members.mean(0)
        if size[k] > 1:
            var[k] = members.var(0)
    weight = np.maximum(size, 1.0)
    return mean, np.maximum(var, 1e-3), weight / weight.sum()


def nearest_neighbors(points: np.ndarray, n_neighbors: int, seed: int) -> sp.csr_matrix:
    """Graph with the weight ``1 / n_neighbors`` on each cell's nearest neighbours, itself excluded.

    Parameters
    ----------
    points
        Shape ``(n, p)``.
    n_neighbors
        Neighbours of each cell; less if there are fewer cells.
    seed
        Of the approximate search.

    Returns
    -------
    Matrix of shape ``(n, n)`` whose rows sum to one.
    """
    n = points.shape[0]
    n_neighbors = min(n_neighbors, n - 1)
    if n_neighbors < 1:
        return sp.csr_matrix((n, n), dtype=np.float32)
    if n > MAX_INDEXED_NEIGHBORS:
        neighbors = _neighbors_in_a_sample(points, n_neighbors, seed)
    elif n > MAX_EXACT_NEIGHBORS:
        from pynndescent import NNDescent

        found = NNDescent(points, n_neighbors=n_neighbors + 1, random_state=seed).neighbor_graph[0]
        neighbors = _without_self(found, np.arange(n))
    else:  # asked about the points it was fitted on, scikit-learn leaves out each point itself
        neighbors = NearestNeighbors(n_neighbors=n_neighbors).fit(points).kneighbors(return_distance=False)
    indptr = np.arange(0, n * n_neighbors + 1, n_neighbors)
    weight = np.full(n * n_neighbors, 1.0 / n_neighbors, dtype=np.float32)
    return sp.csr_matrix((weight, neighbors.ravel(), indptr), shape=(n, n))


def _without_self(found: np.ndarray, itself: np.ndarray) -> np.ndarray:
    """Neighbours without the cell itself, wherever it stands (duplicates of a cell may come before it)."""
    is_self = found == itself[:, None]
    is_self[~is_self.any(1), -1] = True
    return found[~is_self].reshape(len(found), -1)


def _neighbors_in_a_sample(points: np.ndarray, n_neighbors: int, seed: int) -> np.ndarray:
    """Neighbours of every cell among :data:`MAX_INDEXED_NEIGHBORS` of them: memory does not grow with the cells.

    The prior on a cell's component reads the mean assignment of its neighbours, which a sample gives as well.
    """
    from pynndescent import NNDescent

    n = points.shape[0]
    sample = sample_rows(n, MAX_INDEXED_NEIGHBORS, seed).astype(np.int32)
    index = NNDescent(points[sample], n_neighbors=n_neighbors + 1, random_state=seed)
    index.prepare()
    neighbors = np.empty((n, n_neighbors), dtype=np.int32)
    for start in range(0, n, QUERY):
        stop = min(start + QUERY, n)
        found = sample[index.query(points[start:stop], k=n_neighbors + 1)[0]]
        neighbors[start:stop] = _without_self(found, np.arange(start, stop))
    return neighbors


def normalize_graph(graph) -> sp.csr_matrix:
    """Copy of a non-negative neighbour graph without its diagonal and with rows that sum to one.

    Rows of cells without neighbours stay zero: they get no neighbour information.
    """
    graph = sp.csr_matrix(graph, dtype=np.float32, copy=True)
    graph.setdiag(0.0)
    graph.eliminate_zeros()
    total = np.asarray(graph.sum(1)).ravel()
    return sp.csr_matrix(sp.diags(1.0 / np.where(total > 0, total, 1.0)) @ graph, dtype=np.float32)
