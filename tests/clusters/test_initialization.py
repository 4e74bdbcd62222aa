"""What training starts from, against scanpy, scikit-learn and counts by hand."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
import scipy.sparse as sp
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from rmve.clusters import initialization as init
from rmve.data import on_disk
from rmve.likelihoods import get_likelihood


@pytest.fixture
def counts(make_cells) -> np.ndarray:
    """Dense counts of 100 cells."""
    return make_cells(n_cells=100).X.toarray()


@pytest.fixture(params=["csr", "csc", "csr_array", "dense", "backed dense", "backed sparse"])
def matrix(request, counts, tmp_path):
    """The same counts in each form that AnnData may hold them in."""
    if request.param == "csr_array":
        yield sp.csr_array(counts)
        return
    if "backed" not in request.param:
        yield {"csr": sp.csr_matrix, "csc": sp.csc_matrix, "dense": np.asarray}[request.param](counts)
        return
    path = tmp_path / "counts.h5ad"
    ad.AnnData(sp.csr_matrix(counts) if "sparse" in request.param else counts).write_h5ad(path)
    backed = ad.read_h5ad(path, backed="r")
    yield backed.X
    backed.file.close()


@pytest.mark.parametrize("size", [7, 100, 4096])
def test_row_chunks(matrix, counts, size):
    """Blocks are dense float32, at most so large, and put together the whole matrix."""
    blocks = list(on_disk.row_chunks(matrix, size=size))
    assert all(type(block) is np.ndarray and block.dtype == np.float32 and len(block) <= size for block in blocks)
    np.testing.assert_array_equal(np.concatenate(blocks), counts)


def test_row_chunks_of_some_rows(matrix, counts):
    """Only the rows asked for are read."""
    rows = np.array([2, 5, 50, 99])
    np.testing.assert_array_equal(np.concatenate(list(on_disk.row_chunks(matrix, rows, size=3))), counts[rows])


def test_row_sums(matrix, counts):
    """Totals of the rows as a flat array."""
    sums = on_disk.row_sums(matrix)
    assert sums.shape == (100,)
    np.testing.assert_allclose(sums, counts.sum(1))


def test_share_of_zeros(matrix, counts):
    """Of the first cells, however the matrix is stored."""
    assert on_disk.share_of_zeros(matrix) == pytest.approx((counts == 0).mean())
    assert on_disk.share_of_zeros(matrix, max_cells=7) == pytest.approx((counts[:7] == 0).mean())


def test_statistics_of_any_matrix(matrix, counts, monkeypatch):
    """Statistics do not depend on how the matrix is stored, nor on the blocks it is read in."""
    whole = init.input_statistics(counts, get_likelihood("nb"))
    monkeypatch.setattr(on_disk, "CHUNK", 17)
    chunked = init.input_statistics(matrix, get_likelihood("nb"))
    for name in ("mean", "sd", "target_sum", "size_factor_scale", "output_bias"):
        np.testing.assert_allclose(getattr(chunked, name), getattr(whole, name), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("likelihood", ["nb", "zinb", "poisson"])
def test_count_statistics(counts, likelihood):
    """Mean and deviation are those of scanpy's normalised, log-transformed values; the bias is the mean profile."""
    stats = init.input_statistics(counts, get_likelihood(likelihood))
    adata = ad.AnnData(counts.copy())
    sc.pp.normalize_total(adata)
    sc.pp.log1p(adata)
    assert stats.target_sum == np.median(counts.sum(1))
    np.testing.assert_allclose(stats.mean, adata.X.mean(0), rtol=1e-4)
    np.testing.assert_allclose(stats.sd, adata.X.std(0), rtol=1e-3)
    profile = np.exp(stats.output_bias)
    assert profile.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(profile, counts.sum(0) / counts.sum(), atol=1e-4)


def test_statistics_with_size_factors(counts):
    """Size factors in proportion to the totals, in any unit, change nothing."""
    totals = counts.sum(1)
    plain = init.input_statistics(counts, get_likelihood("nb"))
    scaled = init.input_statistics(counts, get_likelihood("nb"), totals / 8.0)
    assert scaled.size_factor_scale == pytest.approx(8.0)
    np.testing.assert_allclose(scaled.mean, plain.mean, rtol=1e-5)


@pytest.mark.parametrize("likelihood", ["normal", "bernoulli"])
def test_other_statistics(likelihood):
    """Values that are no counts are taken as they are; the bias is the mean, on the scale of the output."""
    x = np.random.default_rng(0).random((50, 4)).astype(np.float32)
    stats = init.input_statistics(x, get_likelihood(likelihood))
    np.testing.assert_allclose(stats.mean, x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(stats.sd, x.std(0), rtol=1e-4)
    inverse = stats.output_bias if likelihood == "normal" else 1 / (1 + np.exp(-stats.output_bias))
    np.testing.assert_allclose(inverse, x.mean(0), rtol=1e-5)


def test_constant_genes():
    """A constant gene gets a deviation of one, so that nothing is divided by zero; bias stays finite."""
    for likelihood in ("nb", "normal", "bernoulli"):
        stats = init.input_statistics(np.tile(np.float32([0.0, 1.0]), (5, 1)), get_likelihood(likelihood))
        np.testing.assert_array_equal(stats.sd, 1.0)
        assert np.isfinite(stats.output_bias).all()


# ------------------------------------------------------------ principal components


def center(block, rows):
    """A standardisation that uses the rows it is given: each row is scaled by its number."""
    return block * (1.0 + rows[:, None] / 100.0)


def test_principal_components_are_sklearns(counts):
    """The scores are those of scikit-learn on the standardised input, up to the sign of each axis."""
    ours = init.principal_components(center, counts, 5, seed=0)
    theirs = PCA(5, svd_solver="full").fit_transform(center(counts, np.arange(100)))
    assert ours.shape == (100, 5)
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs), atol=1e-2)


def test_chunked_principal_components(matrix, counts, monkeypatch):
    """Reading in blocks, from any storage, gives the components of the whole."""
    whole = init.principal_components(center, counts, 5, seed=0)
    monkeypatch.setattr(on_disk, "CHUNK", 17)
    np.testing.assert_allclose(init.principal_components(center, matrix, 5, seed=0), whole, atol=1e-3)


def test_principal_components_of_a_sample(matrix, counts):
    """When fitted on some of the cells, all are projected, onto nearly the same leading axis."""
    sampled = init.principal_components(center, matrix, 2, seed=0, max_cells=60)
    whole = init.principal_components(center, counts, 2, seed=0)
    assert sampled.shape == (100, 2)
    assert abs(np.corrcoef(sampled[:, 0], whole[:, 0])[0, 1]) > 0.98
    again = init.principal_components(center, matrix, 2, seed=0, max_cells=60)
    np.testing.assert_array_equal(sampled, again)


@pytest.mark.parametrize("shape", [(2, 60), (30, 3), (100, 60)])
def test_number_of_components_is_limited(counts, shape):
    """Few cells or genes give fewer components."""
    points = init.principal_components(center, counts[: shape[0], : shape[1]], 50, seed=0)
    assert points.shape == (shape[0], min(50, shape[0] - 1, shape[1]))


# ------------------------------------------------------------------ partition


def test_center_batches():
    """Batches get the mean 0 each, and keep their shape; the points given are left alone."""
    rng = np.random.default_rng(0)
    batch = rng.integers(3, size=60)
    points = rng.normal(size=(60, 4)) + 5.0 * batch[:, None]
    before = points.copy()
    centered = init.center_batches(points, batch)
    np.testing.assert_array_equal(points, before)
    for b in range(3):
        np.testing.assert_allclose(centered[batch == b].mean(0), 0.0, atol=1e-12)
        np.testing.assert_allclose(np.cov(centered[batch == b].T), np.cov(points[batch == b].T))


@pytest.mark.parametrize("n_cells", [2, 19, 500, 10_000])
@pytest.mark.parametrize("n_clusters", [None, 1, 2, 60])
def test_number_to_start_from(n_cells, n_clusters):
    """More components than clusters are wanted, of ten cells on average, and at least as many as are wanted."""
    found = init.default_n_components(n_cells, n_clusters)
    if n_clusters == 1:
        assert found == 1
    elif n_cells == 10_000:
        assert found >= max(init.N_START_COMPONENTS, 2 * (n_clusters or 0))
    else:
        assert found == max(n_clusters or 2, min(init.N_START_COMPONENTS, n_cells // init.MIN_START_CELLS))


@pytest.mark.parametrize("max_cells", [10_000, 120])
def test_start_is_finer_than_the_groups(groups, max_cells):
    """Small clusters cut across no group, also where most cells are only assigned to them; a seed fixes them."""
    points, truth, _ = groups
    partition = init.starting_partition(points, 15, seed=1, max_cells=max_cells)
    np.testing.assert_array_equal(np.unique(partition), np.arange(15))
    assert len(set(zip(partition, truth, strict=True))) == 15
    np.testing.assert_array_equal(partition, init.starting_partition(points, 15, seed=1, max_cells=max_cells))


def test_start_of_fewer_points_than_clusters(recwarn):
    """Where many cells are equal, some clusters stay empty, without a word."""
    partition = init.starting_partition(np.repeat(np.eye(3), 10, axis=0), 8, seed=0)
    assert len(set(zip(partition, np.repeat(range(3), 10), strict=True))) == len(set(partition)) == 3
    assert not recwarn.list


def test_moments(groups):
    """Each cluster's mean, variance and share; an empty one has those of all points and a weight of one cell."""
    points, truth, _ = groups
    mean, var, weight = init.partition_moments(points, truth, 6)
    for k in range(5):
        np.testing.assert_allclose(mean[k], points[truth == k].mean(0))
        np.testing.assert_allclose(var[k], points[truth == k].var(0))
    np.testing.assert_allclose(mean[5], points.mean(0))
    np.testing.assert_allclose(var[5], points.var(0))
    np.testing.assert_allclose(weight, np.append(np.bincount(truth), 1) / 251)


def test_moments_of_a_single_cell():
    """A cluster of one cell keeps a usable variance, and coinciding cells a positive one."""
    points = np.array([[0.0], [4.0], [4.0], [4.0]])
    mean, var, _ = init.partition_moments(points, np.array([0, 1, 1, 1]), 2)
    np.testing.assert_allclose(mean, [[0.0], [4.0]])
    assert var[0, 0] == pytest.approx(points.var())
    assert var[1, 0] > 0


# ----------------------------------------------------------------- neighbours


def check_graph(graph, n, k):
    """Each row has ``k`` other cells, of equal weight, that sum to one."""
    assert graph.shape == (n, n)
    assert (graph.diagonal() == 0).all()
    np.testing.assert_array_equal(np.diff(graph.indptr), k)
    np.testing.assert_allclose(np.asarray(graph.sum(1)).ravel(), 1.0, rtol=1e-5)
    for row in range(n):
        assert len(set(graph.indices[graph.indptr[row] : graph.indptr[row + 1]])) == k


def test_nearest_neighbors_on_a_line():
    """On a line, the neighbours are those next to a cell."""
    graph = init.nearest_neighbors(np.arange(10.0)[:, None] ** 1.01, 2, seed=0)
    check_graph(graph, 10, 2)
    assert set(graph[5].indices) == {4, 6}
    assert set(graph[0].indices) == {1, 2}


def test_neighbors_of_duplicates():
    """Cells with many exact copies have copies as neighbours, but never themselves."""
    points = np.repeat(np.array([[0.0], [1.0]]), 20, axis=0)
    graph = init.nearest_neighbors(points, 5, seed=0)
    check_graph(graph, 40, 5)
    assert all((graph[i].indices < 20).all() == (i < 20) for i in range(40))


@pytest.mark.parametrize("n", [2, 5])
def test_few_cells(n):
    """With fewer cells than neighbours asked for, all others are neighbours."""
    check_graph(init.nearest_neighbors(np.random.default_rng(0).normal(size=(n, 3)), 15, seed=0), n, n - 1)


def test_one_cell_has_no_neighbors():
    """A single cell has an empty graph."""
    graph = init.nearest_neighbors(np.zeros((1, 3)), 15, seed=0)
    assert graph.shape == (1, 1)
    assert graph.nnz == 0


def test_approximate_neighbors(groups, monkeypatch):
    """Above the limit pynndescent searches; the cell itself is dropped from wherever it stands in the answer."""
    points, _, _ = groups
    points[:30] = points[0]  # copies, among which the search may miss the cell itself
    limit = init.MAX_EXACT_NEIGHBORS

    class NNDescent:
        """What RMVE uses of pynndescent (which takes long to compile): an answer that includes the cell."""

        def __init__(self, data, n_neighbors, random_state):
            found = NearestNeighbors(n_neighbors=n_neighbors).fit(data).kneighbors(data, return_distance=False)
            self.neighbor_graph = found, None

    monkeypatch.setitem(sys.modules, "pynndescent", SimpleNamespace(NNDescent=NNDescent))
    monkeypatch.setattr(init, "MAX_EXACT_NEIGHBORS", 100)
    approximate = init.nearest_neighbors(points, 10, seed=0)
    check_graph(approximate, 250, 10)
    monkeypatch.setattr(init, "MAX_EXACT_NEIGHBORS", limit)
    exact = init.nearest_neighbors(points, 10, seed=0)
    assert (abs(exact - approximate)[30:]).nnz == 0


@pytest.mark.parametrize("form", [sp.csr_matrix, sp.csc_matrix, sp.csr_array, np.asarray])
def test_normalize_graph(form):
    """Rows sum to one without the diagonal; a cell without neighbours keeps a row of zeros; the input is kept."""
    weights = np.array([[5.0, 1.0, 3.0], [0.0, 2.0, 0.0], [4.0, 0.0, 0.0]])
    given = form(weights.copy())
    graph = init.normalize_graph(given)
    np.testing.assert_allclose(graph.toarray(), [[0, 0.25, 0.75], [0, 0, 0], [1, 0, 0]])
    assert graph.dtype == np.float32
    assert isinstance(graph, sp.csr_matrix)
    np.testing.assert_array_equal(given.toarray() if sp.issparse(given) else given, weights)


def test_neighbors_in_a_sample(groups, monkeypatch):
    """With many cells, neighbours are those among a sample of them; nobody is its own neighbour."""
    points, truth, _ = groups
    monkeypatch.setattr(init, "MAX_INDEXED_NEIGHBORS", 150)
    monkeypatch.setattr(init, "QUERY", 60)
    graph = init.nearest_neighbors(points, 10, seed=0)
    check_graph(graph, 250, 10)
    assert len(np.unique(graph.indices)) <= 150
    same = truth[graph.indices.reshape(250, 10)] == truth[:, None]
    assert same.mean() > 0.99
    sample = np.unique(graph.indices)
    exact = NearestNeighbors(n_neighbors=11).fit(points[sample]).kneighbors(points, return_distance=False)
    overlap = [len(np.intersect1d(graph[i].indices, sample[exact[i]])) for i in range(250)]
    assert np.mean(overlap) > 9
