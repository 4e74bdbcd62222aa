"""Data on disk: the same values and results as in memory, in few reads and bounded memory."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from sklearn.metrics import adjusted_rand_score

from rmve import RMVE
from rmve._keys import INDEX_KEY
from rmve.data import on_disk as storage
from rmve.data.loading import BatchesOfRuns, IndexedDataset, IndexedDataSplitter


def dense(x) -> np.ndarray:
    return x.toarray() if sp.issparse(x) else np.asarray(x)


def as_h5ad(adata: ad.AnnData, folder) -> ad.AnnData:
    adata.write_h5ad(folder / "cells.h5ad")
    return ad.read_h5ad(folder / "cells.h5ad", backed="r")


def as_dense_h5ad(adata: ad.AnnData, folder) -> ad.AnnData:
    adata = adata.copy()
    adata.X = adata.X.toarray()
    return as_h5ad(adata, folder)


def as_zarr(adata: ad.AnnData, folder) -> ad.AnnData:
    zarr = pytest.importorskip("zarr")
    adata.write_zarr(folder / "cells.zarr")
    group = zarr.open(str(folder / "cells.zarr"), mode="r")
    return ad.AnnData(ad.io.sparse_dataset(group["X"]), obs=adata.obs.copy(), var=adata.var.copy())


@pytest.fixture(params=[as_h5ad, as_dense_h5ad, as_zarr])
def on_disk(request, cells, tmp_path) -> ad.AnnData:
    """The cells with their counts in a file."""
    return request.param(cells, tmp_path)


def test_read_rows(cells, on_disk):
    """Rows come as they are, one by one, in runs, with small and large gaps."""
    assert storage.is_on_disk(on_disk.X)
    assert not storage.is_on_disk(cells.X)
    for rows in ([3], [0, 1, 2], [0, 5, 6, 90, 91, 239], np.arange(240)):
        rows = np.array(rows)
        np.testing.assert_array_equal(dense(storage.read_rows(on_disk.X, rows)), dense(cells.X)[rows])
        np.testing.assert_array_equal(dense(storage.read_rows(cells.X, rows)), dense(cells.X)[rows])


def test_shuffled_runs(monkeypatch):
    """Every index comes once, runs stay together, and their order is random."""
    monkeypatch.setattr(storage, "RUN_LENGTH", 10)
    indices = np.arange(0, 206, 2)
    order = storage.shuffled_runs(indices, np.random.default_rng(0))
    np.testing.assert_array_equal(np.sort(order), indices)
    assert (np.diff(order) == 2).mean() > 0.85
    assert (order != indices).any()


@pytest.fixture
def small_memory(monkeypatch):
    """Few cells in memory, so that a pass takes many reads."""
    monkeypatch.setattr(storage, "RUN_LENGTH", 8)
    monkeypatch.setattr(storage, "CELLS_IN_MEMORY", 64)


@pytest.fixture
def reads(monkeypatch) -> list[int]:
    """How many rows each read was asked for."""
    seen = []

    def read_rows(x, rows):
        seen.append(len(rows))
        return storage.read_rows(x, rows)

    monkeypatch.setattr("rmve.data.loading.read_rows", read_rows)
    return seen


@pytest.mark.usefixtures("small_memory")
@pytest.mark.parametrize("shuffle", [False, True])
def test_batches_from_disk(cells, on_disk, reads, shuffle):
    """All cells come once, in even batches with their own counts, and no read holds more than the limit."""
    RMVE.setup_anndata(on_disk, batch_key="donor")
    data = IndexedDataset(RMVE(on_disk, n_components=2).adata_manager, as_counts=True)
    assert data.on_disk
    sampler = BatchesOfRuns(np.arange(240), 16, shuffle)
    batches = [data[wanted] for wanted in sampler]
    assert len(batches) == len(sampler) == 15
    assert {len(batch[INDEX_KEY]) for batch in batches} == {16}
    rows = np.concatenate([batch[INDEX_KEY] for batch in batches])
    np.testing.assert_array_equal(np.sort(rows), np.arange(240))
    assert max(reads) <= 64
    assert sum(reads) == 240
    x, codes = dense(cells.X), cells.obs["donor"].cat.codes.to_numpy()
    for batch in batches:
        np.testing.assert_array_equal(batch["X"].dense().numpy(), x[batch[INDEX_KEY]])
        np.testing.assert_array_equal(batch["batch"].ravel(), codes[batch[INDEX_KEY]])
    again = np.concatenate([np.sort(rows) for rows, _ in sampler])
    assert (again != rows).any() == shuffle
    if shuffle:  # a batch mixes runs
        assert np.mean([np.ptp(batch[INDEX_KEY]) for batch in batches]) > 60


def test_loader_of_the_splitter(on_disk):
    """The data splitter takes data from disk by itself, in the order that torch's seed fixes."""
    RMVE.setup_anndata(on_disk)
    manager = RMVE(on_disk, n_components=2).adata_manager
    splitter = IndexedDataSplitter(manager, train_size=0.8, validation_size=0.2, batch_size=32, as_counts=True)
    splitter.setup()
    passes = []
    with torch.random.fork_rng(devices=[]):
        for _ in range(2):
            torch.manual_seed(3)
            passes.append(np.concatenate([batch[INDEX_KEY] for batch in splitter.train_dataloader()]))
    np.testing.assert_array_equal(*passes)
    np.testing.assert_array_equal(np.sort(passes[0]), np.sort(splitter.train_idx))
    held_out = np.concatenate([batch[INDEX_KEY] for batch in splitter.val_dataloader()])
    np.testing.assert_array_equal(held_out, np.sort(splitter.val_idx))


def test_run_from_disk(cells, on_disk):
    """Set-up, start, training, prediction and annotation; the start is that of the data in memory."""
    results = []
    for adata in (cells, on_disk):
        RMVE.setup_anndata(adata)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = RMVE(adata, n_components=3)
            model.train(max_epochs=30, batch_size=32)
        model.annotate()
        results.append((model.module.input_mean.numpy(), model.predict(soft=True), adata))
    (mean, expected, _), (mean_on_disk, found, annotated) = results
    np.testing.assert_allclose(mean_on_disk, mean, rtol=1e-5)
    assert adjusted_rand_score(expected.idxmax(axis=1), found.idxmax(axis=1)) > 0.95
    assert adjusted_rand_score(cells.obs["cell_type"], annotated.obs["rmve"]) > 0.95
    assert storage.is_on_disk(annotated.X)
    assert annotated.obsm["X_rmve"].shape == (240, 10)


def test_columns_on_disk(cells, tmp_path):
    """A matrix stored by columns would be read as a whole for each batch: the error says how to store it."""
    cells.X = sp.csc_matrix(cells.X)
    adata = as_h5ad(cells, tmp_path)
    with pytest.raises(ValueError, match="stored by columns"):
        RMVE.setup_anndata(adata)
