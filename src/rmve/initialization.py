"""What training starts from: input statistics, principal components, a partition, a neighbour graph.

A mixture VAE that starts from random assignments collapses onto few components, so a run starts from a partition of
principal components (labelled cells keep their label). All functions are plain NumPy; labels used for *scoring*
never enter here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from rmve.backed import read_rows
from rmve.components import agreement_matrix, cut_tree, graph_overlap, merge_tree, n_overlapping_merges

#: Cells that principal components are computed from; more are projected, not fitted.
MAX_PCA_CELLS = 20_000
#: Above this number of cells, neighbours are approximate (pynndescent).
MAX_EXACT_NEIGHBORS = 20_000
#: Above this one, they are looked for in a sample of this size, :data:`QUERY` cells at a time.
MAX_INDEXED_NEIGHBORS, QUERY = 200_000, 50_000
CHUNK = 4096
#: Small clusters that the starting partition is merged from, and the least number of cells in one, on average.
N_SMALL_CLUSTERS, MIN_SMALL_CELLS = 50, 10
#: Partitions made from different small clusters, of which the most typical is taken, and cells that they are compared on.
N_CANDIDATES, MAX_COMPARED_CELLS = 60, 2000
#: Any overlap on the graph counts: :func:`~rmve.components.graph_overlap` is 0 for clusters of different kinds.
ANY_OVERLAP = float(np.finfo(float).tiny)
#: Cells that overlap is measured on: in a graph of more, clusters have less of a border, at the same overlap.
MAX_OVERLAP_CELLS = 10_000
#: Neighbours of a cell.
N_NEIGHBORS = 15
MAX_LLOYD_STEPS = 50


@dataclass(frozen=True)
class InputStatistics:
    """Constants of the encoder's input and the decoder's start; see ``RMVEModule.set_input_statistics``."""

    mean: np.ndarray
    sd: np.ndarray
    target_sum: float
    size_factor_scale: float
    output_bias: np.ndarray


def row_chunks(x, rows: np.ndarray | None = None, size: int = CHUNK) -> Iterator[np.ndarray]:
    """Rows of a dense, sparse or backed matrix as dense ``float32`` blocks of at most ``size`` rows; ``rows`` ascend."""
    for block in stored_chunks(x, rows, size):
        yield np.ascontiguousarray(block.toarray() if sp.issparse(block) else block, dtype=np.float32)


def stored_chunks(x, rows: np.ndarray | None = None, size: int = CHUNK) -> Iterator:
    """The same blocks as they are stored, dense or sparse."""
    rows = np.arange(x.shape[0]) if rows is None else rows
    for start in range(0, len(rows), size):
        yield read_rows(x, rows[start : start + size])


def row_sums(x) -> np.ndarray:
    """Total of each row of a dense, sparse or backed matrix, shape ``(n,)``."""
    blocks = [x] if sp.issparse(x) else stored_chunks(x)
    return np.concatenate([np.asarray(block.sum(axis=1), dtype=np.float64).ravel() for block in blocks])


def share_of_zeros(x, max_cells: int = 2000) -> float:
    """Share of zeros among the values of the first cells.

    Parameters
    ----------
    x
        Data in memory or on disk, shape ``(n, G)``.
    max_cells
        Number of cells that are looked at.
    """
    n_cells = min(x.shape[0], max_cells)
    n_nonzero = sum(int((block != 0).sum()) for block in stored_chunks(x, np.arange(n_cells)))
    return 1.0 - n_nonzero / (n_cells * x.shape[1])


def log_normalize(counts: np.ndarray, size_factor: np.ndarray, target_sum: float) -> np.ndarray:
    """``log1p`` of counts scaled to a common total, as the encoder sees them before standardisation."""
    return np.log1p(counts * (target_sum / size_factor[:, None]).astype(np.float32))


def input_statistics(x, likelihood: str, size_factor: np.ndarray | None = None) -> InputStatistics:
    """Per-gene mean and standard deviation of the encoder's input, in one pass over the data.

    Parameters
    ----------
    x
        Data, shape ``(n, G)``, dense, sparse or backed.
    likelihood
        ``gene_likelihood`` of the model.
    size_factor
        Registered size factors, shape ``(n,)``; ``None`` for total counts.
    """
    counts = likelihood in ("nb", "zinb", "poisson")
    n, target_sum, scale, library = x.shape[0], 1.0, 1.0, None
    if counts:
        totals = row_sums(x)
        target_sum = float(np.median(totals))
        if size_factor is None:
            library = totals
        else:
            scale = float(np.median(totals / size_factor))
            library = size_factor * scale
    total, square, raw = np.zeros(x.shape[1]), np.zeros(x.shape[1]), np.zeros(x.shape[1])
    for i, block in enumerate(row_chunks(x)):
        if counts:
            raw += block.sum(0, dtype=np.float64)
            block = log_normalize(block, library[i * CHUNK : (i + 1) * CHUNK], target_sum)
        total += block.sum(0, dtype=np.float64)
        square += np.square(block, dtype=np.float64).sum(0)
    mean = total / n
    sd = np.sqrt(np.maximum(square / n - mean**2, 0.0))
    sd[sd < 1e-6] = 1.0  # a constant gene stays at 0
    if counts:
        bias = np.log((raw + 0.1) / (raw + 0.1).sum())
    elif likelihood == "bernoulli":
        p = np.clip(mean, 1e-3, 1 - 1e-3)
        bias = np.log(p) - np.log1p(-p)
    else:
        bias = mean
    return InputStatistics(mean, sd, target_sum, scale, bias)


def principal_components(standardize, x, n_components: int, seed: int, max_cells: int = MAX_PCA_CELLS) -> np.ndarray:
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
        for start, block in zip(range(0, len(rows), CHUNK), row_chunks(x, rows), strict=True):
            yield standardize(block, rows[start : start + CHUNK])

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


def starting_partition(
    points: np.ndarray,
    graph: sp.csr_matrix,
    n_clusters: int | None,
    seed: int,
    labels: np.ndarray | None = None,
) -> np.ndarray:
    """Partition of the cells to start from: many small k-means clusters, merged where they overlap.

    k-means with ``n_clusters`` centres splits large types and overlooks small ones, and differs from seed to seed. Small
    clusters of one type share neighbours, those of different types do not: they are merged by their
    :func:`~rmve.components.graph_overlap`, the most overlapping first. With ``n_clusters`` the merges end there (and go
    on by Ward's criterion if need be); without, when no two overlap. This is done from several sets of small clusters,
    and the partition that agrees most with the others is taken. Labelled cells stay in the cluster of their label.

    Parameters
    ----------
    points
        Principal components, shape ``(n, p)``.
    graph
        Neighbour graph whose rows sum to one, shape ``(n, n)``.
    n_clusters
        ``K``; ``None`` finds it.
    seed
        Of k-means.
    labels
        Cluster that each cell belongs to, ``-1`` for unlabelled, shape ``(n,)``; or ``None``. Needs ``n_clusters``.

    Returns
    -------
    Integers in ``[0, K)``, shape ``(n,)``.
    """
    if labels is None or (labels < 0).all():
        return _merged_kmeans(points, graph, n_clusters, seed)
    if (labels >= 0).all():
        return labels.copy()
    free = labels < 0
    known = np.unique(labels[~free])
    centers = np.zeros((n_clusters, points.shape[1]))
    for k in known:
        centers[k] = points[labels == k].mean(0)
    new = np.setdiff1d(np.arange(n_clusters), known)
    n_free = min(len(new), int(free.sum()))
    if n_free:
        found = _merged_kmeans(points[free], graph[free][:, free], n_free, seed)
        for i, k in enumerate(new[:n_free]):
            centers[k] = points[free][found == i].mean(0)
    used = np.concatenate([known, new[:n_free]])
    partition = labels.copy()
    for _ in range(MAX_LLOYD_STEPS):
        squared = (centers[used] ** 2).sum(1) - 2.0 * points[free] @ centers[used].T
        assigned = used[squared.argmin(1)]
        if (assigned == partition[free]).all():
            break
        partition[free] = assigned
        for k in np.unique(partition):
            centers[k] = points[partition == k].mean(0)
    return partition


def small_clusters(points: np.ndarray, n_clusters: int, seed: int) -> KMeans:
    """k-means with many more centres than clusters are wanted."""
    n_small = min(max(N_SMALL_CLUSTERS, 3 * n_clusters), len(points) // MIN_SMALL_CELLS)
    return KMeans(max(n_clusters, n_small), n_init=1, random_state=seed).fit(points)


def overlap_tree(points: np.ndarray, graph: sp.csr_matrix, small: np.ndarray, seed: int) -> np.ndarray:
    """Merge tree of small clusters, overlapping ones first; of more than :data:`MAX_OVERLAP_CELLS` cells, a sample."""
    n_small = small.max() + 1
    rows, graph = _overlap_sample(points, graph, np.random.default_rng(seed), seed)
    around = graph @ np.eye(n_small, dtype=np.float32)[small[rows]]
    return merge_tree(small[rows], around, points[rows], graph_overlap, ANY_OVERLAP)


def _overlap_sample(
    points: np.ndarray, graph: sp.csr_matrix, rng: np.random.Generator, seed: int
) -> tuple[np.ndarray | slice, sp.csr_matrix]:
    """Rows of at most :data:`MAX_OVERLAP_CELLS` cells, and their neighbour graph."""
    if len(points) <= MAX_OVERLAP_CELLS:
        return slice(None), graph
    rows = np.sort(rng.choice(len(points), MAX_OVERLAP_CELLS, replace=False))
    return rows, nearest_neighbors(points[rows], N_NEIGHBORS, seed)


def _merged_kmeans(points: np.ndarray, graph: sp.csr_matrix, n_clusters: int | None, seed: int) -> np.ndarray:
    """Of several merged partitions the one that agrees most with the others."""
    rng = np.random.default_rng(seed)
    rows, graph = _overlap_sample(points, graph, rng, seed)
    sample = points[rows]
    candidates = []
    for _ in range(N_CANDIDATES):
        small = small_clusters(sample, n_clusters or 1, int(rng.integers(2**31 - 1)))
        tree = overlap_tree(sample, graph, small.labels_, seed)
        n_merges = n_overlapping_merges(tree, ANY_OVERLAP) if n_clusters is None else len(tree) + 1 - n_clusters
        candidates.append((small, cut_tree(tree, small.n_clusters, max(n_merges, 0))))
    compared = rng.permutation(len(sample))[:MAX_COMPARED_CELLS]
    agreement = agreement_matrix([belongs[small.labels_[compared]] for small, belongs in candidates])
    small, belongs = candidates[agreement.sum(0).argmax()]
    return np.unique(belongs[small.predict(points)], return_inverse=True)[1]


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
    sample = np.sort(np.random.default_rng(seed).choice(n, MAX_INDEXED_NEIGHBORS, replace=False)).astype(np.int32)
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
