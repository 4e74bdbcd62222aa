"""Simulated cells do what their options say, and the recovered counts are counts."""

from __future__ import annotations

import numpy as np
import pytest
import scanpy as sc
import scipy.sparse as sp
from sklearn.metrics import silhouette_score

from rmve import datasets


def test_same_seed_same_cells(assert_same, contents):
    """A seed fixes all that is drawn; another one draws other cells."""
    options = {"n_cells": 50, "n_genes": 20, "n_clusters": 3, "n_batches": 2}
    one, two, other = (datasets.simulate(**options, seed=seed) for seed in (1, 1, 2))
    assert_same(contents(one), contents(two))
    assert (one.X != other.X).nnz > 0


def test_global_generators_are_left_alone():
    """Drawing cells does not move NumPy's global generator."""
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    datasets.simulate(n_cells=20, n_genes=10)
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.parametrize("depth", [2.0, 300.0])
def test_counts(depth):
    """The matrix holds whole numbers around the depth asked for, and no cell is empty, however shallow."""
    adata = datasets.simulate(n_cells=400, n_genes=50, depth=depth)
    assert adata.shape == (400, 50)
    assert sp.issparse(adata.X)
    assert (adata.X.data == np.round(adata.X.data)).all()
    assert adata.X.min() >= 0
    totals = np.asarray(adata.X.sum(1)).ravel()
    assert totals.min() >= 1
    assert np.median(totals) == pytest.approx(depth, rel=0.25)
    assert (adata.X != adata.layers["counts"]).nnz == 0
    assert not np.shares_memory(adata.X.data, adata.layers["counts"].data)


def test_imbalance():
    """Weights fall exponentially, sum to one, and the cells follow them."""
    adata = datasets.simulate(n_cells=4000, n_genes=5, n_clusters=4, imbalance=0.7)
    weights = adata.uns["simulation"]["weights"]
    np.testing.assert_allclose(weights[1:] / weights[:-1], np.exp(-0.7))
    assert weights.sum() == pytest.approx(1)
    shares = adata.obs["cell_type"].value_counts(normalize=True, sort=False)
    np.testing.assert_allclose(shares[[f"type {k}" for k in range(4)]], weights, atol=0.03)
    balanced = datasets.simulate(n_cells=10, n_genes=5, n_clusters=4).uns["simulation"]["weights"]
    np.testing.assert_allclose(balanced, 0.25)


def test_separation():
    """Means lie apart by the separation, in standard deviations of a component, on the average over pairs."""
    for separation in (0.0, 2.0, 6.0):
        means = datasets.simulate(n_cells=5, n_genes=5, n_clusters=60, n_latent=50, separation=separation).uns[
            "simulation"
        ]["means"]
        squared = ((means[:, None] - means[None]) ** 2).sum(-1)[np.triu_indices(60, 1)]
        assert np.sqrt(squared.mean()) == pytest.approx(separation, rel=0.05)


def test_separation_shows_in_the_counts():
    """Cells of far components are easier to tell apart by their counts."""
    scores = []
    for separation in (1.0, 8.0):
        adata = datasets.simulate(n_cells=300, n_genes=100, n_clusters=3, separation=separation, depth=1000)
        sc.pp.normalize_total(adata)
        sc.pp.log1p(adata)
        sc.pp.pca(adata, n_comps=5)
        scores.append(silhouette_score(adata.obsm["X_pca"], adata.obs["cell_type"]))
    assert scores[1] > scores[0] + 0.2


def test_latent_truth_follows_the_components():
    """Each type's latent points have its component's mean and standard deviations."""
    adata = datasets.simulate(n_cells=6000, n_genes=5, n_clusters=3, n_latent=4, shape_contrast=0.8)
    simulation = adata.uns["simulation"]
    assert set(np.round(np.log(simulation["sds"]), 6).ravel()) == {-0.8, 0.8}
    for k in range(3):
        z = adata.obsm["true_latent"][adata.obs["cell_type"] == f"type {k}"]
        np.testing.assert_allclose(z.mean(0), simulation["means"][k], atol=0.25)
        np.testing.assert_allclose(z.std(0), simulation["sds"][k], rtol=0.1)


def test_batches():
    """Batches are drawn independently of the type and shift the genes."""
    adata = datasets.simulate(n_cells=2000, n_genes=40, n_clusters=2, n_batches=2, batch_effect=1.0, depth=2000)
    assert list(adata.obs["batch"].cat.categories) == ["batch 0", "batch 1"]
    share = (adata.obs["batch"] == "batch 1").groupby(adata.obs["cell_type"], observed=True).mean()
    np.testing.assert_allclose(share, 0.5, atol=0.06)
    sc.pp.normalize_total(adata)
    one, two = (np.asarray(adata.X[(adata.obs["batch"] == f"batch {b}").to_numpy()].mean(0)).ravel() for b in (0, 1))
    assert np.abs(np.log(one + 0.1) - np.log(two + 0.1)).mean() > 0.5


def test_dispersion():
    """A larger inverse dispersion gives less noise."""
    noisy, quiet = (
        datasets.simulate(n_cells=800, n_genes=30, n_clusters=1, separation=0, dispersion=d, depth=3000, seed=3)
        for d in (0.5, 50.0)
    )
    zeros_noisy, zeros_quiet = (800 * 30 - adata.X.nnz for adata in (noisy, quiet))
    assert zeros_noisy > 10 * zeros_quiet


def test_toy():
    """The toy data holds what its description says."""
    adata = datasets.toy(n_cells=80, n_genes=30, n_clusters=2, n_batches=2, seed=4)
    assert adata.shape == (80, 30)
    assert set(adata.obs["cell_type"].cat.categories) == {"type 0", "type 1"}
    assert adata.obs["batch"].nunique() == 2
    assert adata.obsm["spatial"].shape == (80, 2)
    assert "counts" in adata.layers


# ------------------------------------------------------------- recovered counts


@pytest.fixture
def normalized():
    """Counts, their totals over more genes, and log1p of the counts scaled to 10,000, rounded as scanpy's file is."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(2.0, size=(30, 20)).astype(float)
    totals = counts.sum(1) + rng.integers(50, 100, size=30)
    return counts, totals, np.round(np.log1p(counts / totals[:, None] * 1e4), 3)


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix, sp.csc_matrix])
def test_recover_counts(normalized, form):
    """The counts come back exactly, sparse, without stored zeros."""
    counts, totals, log = normalized
    recovered = datasets.recover_counts(form(log), totals, 1e4)
    np.testing.assert_array_equal(recovered.toarray(), counts)
    assert recovered.nnz == (counts > 0).sum()
    assert recovered.dtype == np.float32


def test_recover_counts_refuses_other_values(normalized):
    """Values that were scaled to another total, or not logged, do not come out as integers."""
    _, totals, log = normalized
    for wrong in (np.log1p(np.expm1(log) * 1.13), log * 1.1):
        with pytest.raises(ValueError, match="not log1p of counts scaled to 10000.*from an integer"):
            datasets.recover_counts(wrong, totals, 1e4)


def test_pbmc68k_reduced():
    """scanpy's cells come with whole counts that undo its normalisation and fit in each cell's total."""
    adata = datasets.pbmc68k_reduced()
    source = sc.datasets.pbmc68k_reduced()
    assert adata.shape == (700, 765)
    assert (adata.X.data == np.round(adata.X.data)).all()
    assert adata.X.data.min() >= 1
    totals = source.obs["n_counts"].to_numpy()
    recovered = np.asarray(adata.X.sum(1)).ravel()
    assert (recovered <= totals).all()
    assert recovered.min() >= 1
    again = np.log1p(adata.X.toarray() / totals[:, None] * 1e4)
    np.testing.assert_allclose(again, source.raw.X.toarray(), atol=2e-3)
    assert adata.obs["bulk_labels"].equals(source.obs["bulk_labels"])
    assert adata.obsm["X_umap"].shape == (700, 2)
    assert [name for name in adata.layers if name is not None] == ["counts"]  # newer anndata lists X as None
