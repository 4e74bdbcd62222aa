"""Mini-batches: every cell once, its row number with it, and no batch of one cell."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scvi.dataloaders import DataSplitter

from rmve import RMVE
from rmve._keys import INDEX_KEY
from rmve.data.loading import EvenBatches, IndexedDataset, IndexedDataSplitter
from rmve.maths.sparse_rows import SparseRows


@pytest.mark.parametrize(("n", "size"), [(10, 3), (129, 128), (128, 128), (5, 100), (7, 2), (3, 2), (2, 2), (1, 5)])
@pytest.mark.parametrize("shuffle", [False, True])
def test_even_batches(n, size, shuffle):
    """All rows come once, in batches whose sizes differ by at most one; none has one cell if there are more."""
    rows = np.arange(n) * 2 + 1
    batches = EvenBatches(rows, size, shuffle)
    drawn = list(batches)
    assert len(drawn) == len(batches)
    sizes = [len(batch) for batch in drawn]
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= max(size, 3)
    assert min(sizes) >= min(n, 2)
    np.testing.assert_array_equal(np.sort(np.concatenate(drawn)), rows)


def test_order_depends_on_the_generator_alone():
    """Each pass has a new order, which torch's seed fixes, whatever the order of the given rows."""
    rows = np.random.default_rng(0).permutation(50)
    with torch.random.fork_rng(devices=[]):
        passes = []
        for given in (rows, np.sort(rows)):
            torch.manual_seed(0)
            batches = EvenBatches(given, 8, shuffle=True)
            passes.append([np.concatenate(list(batches)) for _ in range(2)])
    np.testing.assert_array_equal(passes[0], passes[1])
    assert not np.array_equal(passes[0][0], passes[0][1])
    np.testing.assert_array_equal(np.concatenate(list(EvenBatches(rows, 8, shuffle=False))), np.arange(50))


@pytest.fixture(params=["csr", "dense"])
def manager(request, cells):
    """Manager of registered cells, sparse or dense."""
    if request.param == "dense":
        cells.X = cells.X.toarray()
    RMVE.setup_anndata(cells, batch_key="donor")
    return RMVE(cells, n_components=2).adata_manager


def test_indexed_dataset(manager):
    """A batch holds the rows asked for, sorted, with their numbers."""
    data = IndexedDataset(manager)
    assert len(data) == 240
    batch = data[np.array([7, 2, 100])]
    np.testing.assert_array_equal(batch[INDEX_KEY], [2, 7, 100])
    x = manager.adata.X
    x = x.toarray() if sp.issparse(x) else x
    np.testing.assert_array_equal(np.asarray(batch["X"]), x[[2, 7, 100]])
    codes = manager.adata.obs["donor"].cat.codes.to_numpy()
    np.testing.assert_array_equal(np.asarray(batch["batch"]).ravel(), codes[[2, 7, 100]])


def test_counts_come_sparse(manager):
    """As counts, the data matrix of a batch is sparse, with the same values, however it is stored."""
    rows = np.array([7, 2, 100])
    plain, batch = IndexedDataset(manager)[rows], IndexedDataset(manager, as_counts=True)[rows]
    x = batch.pop("X")
    assert isinstance(x, SparseRows)
    assert (x.values != 0).all()
    np.testing.assert_array_equal(x.dense().numpy(), plain.pop("X"))
    assert set(batch) == set(plain)
    for name, value in plain.items():
        np.testing.assert_array_equal(batch[name], value)


def test_splitter(manager):
    """Training and validation cells are disjoint, complete, and each loader goes through its own."""
    splitter = IndexedDataSplitter(manager, train_size=0.7, validation_size=0.2, batch_size=50)
    splitter.setup()
    loaders = [splitter.train_dataloader(), splitter.val_dataloader(), splitter.test_dataloader()]
    rows = [np.sort(np.concatenate([batch[INDEX_KEY] for batch in loader])) for loader in loaders]
    assert [len(r) for r in rows] == [168, 48, 24]
    np.testing.assert_array_equal(np.sort(np.concatenate(rows)), np.arange(240))
    for found, expected in zip(rows, (splitter.train_idx, splitter.val_idx, splitter.test_idx), strict=True):
        np.testing.assert_array_equal(found, np.sort(expected))


def test_splitter_without_validation(manager):
    """When all cells are for training there is no other loader."""
    splitter = IndexedDataSplitter(manager, train_size=1.0, batch_size=50)
    splitter.setup()
    assert splitter.val_dataloader() is None
    assert splitter.test_dataloader() is None
    batches = list(splitter.train_dataloader())
    assert [len(batch[INDEX_KEY]) for batch in batches] == [48] * 5
    assert all(torch.is_tensor(value) for value in batches[0].values())


def test_dense_counts_on_apple_gpus(manager, monkeypatch):
    """Sparse counts are moved to devices that have the operations, and made dense for those that have not."""
    moved = []
    monkeypatch.setattr(DataSplitter, "transfer_batch_to_device", lambda self, batch, *_: moved.append(batch["X"]))
    counts = SparseRows.from_dense(torch.eye(3))
    for device in ("mps", "cuda"):
        IndexedDataSplitter(manager, train_size=1.0).transfer_batch_to_device({"X": counts}, torch.device(device), 0)
    torch.testing.assert_close(moved[0], torch.eye(3))
    assert moved[1] is counts
