"""How often all values are read before the first epoch: on disk, each pass over them takes its time."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
from lightning.pytorch.callbacks import Callback

from rmve import RMVE
from rmve.data import loading, on_disk

#: Cells that are looked at to see how many zeros there are, whatever the size of the data.
SAMPLE = 2000
N_CELLS = 4000


@pytest.fixture(scope="module")
def file(make_cells, tmp_path_factory):
    """Cells on disk, half of which are labelled."""
    adata = make_cells(n_cells=N_CELLS, n_batches=2)
    adata.obs["label"] = np.where(np.arange(N_CELLS) % 2, "Unknown", adata.obs["cell_type"].astype(str))
    path = tmp_path_factory.mktemp("passes") / "cells.h5ad"
    adata.write_h5ad(path)
    return path


@pytest.fixture
def rows(monkeypatch) -> list[int]:
    """Number of rows of each block that is read from now on, of data on disk or dense."""
    found, original = [], on_disk.read_rows

    def count(x, wanted):
        found.append(len(wanted))
        return original(x, wanted)

    for module in (on_disk, loading):
        monkeypatch.setattr(module, "read_rows", count)
    return found


@pytest.mark.parametrize(
    ("setup", "options", "train", "passes"),
    [
        ({}, {}, {}, 3),
        ({}, {"n_components": 3}, {"plan_kwargs": {"potts": 0.0}}, 3),
        ({"batch_key": "batch", "labels_key": "label"}, {}, {}, 3),
        ({"spatial_key": "spatial", "size_factor_key": "size_factor"}, {"n_components": 3}, {}, 3),
        ({}, {"gene_likelihood": "normal", "n_components": 3}, {}, 3),
        ({}, {"n_components": 3}, {"checkpoint_dir": "run"}, 3),
    ],
    ids=str,
)
def test_passes_before_the_first_epoch(file, tmp_path, monkeypatch, rows, setup, options, train, passes):
    """One for the checks, one for the statistics of the genes, and one for the principal components."""

    class Stop(Callback):
        def on_train_epoch_start(self, trainer, plan):
            raise ZeroDivisionError

    monkeypatch.chdir(tmp_path)
    adata = ad.read_h5ad(file, backed="r")
    RMVE.setup_anndata(adata, **setup)
    model = RMVE(adata, n_latent=3, n_hidden=8, n_layers=1, **options)
    with pytest.raises(ZeroDivisionError):
        model.train(max_epochs=1, quiet=True, callbacks=[Stop()], **train)
    adata.file.close()
    assert sum(rows) <= passes * N_CELLS + SAMPLE
    assert sum(rows) >= 2 * N_CELLS


@pytest.mark.parametrize(
    ("act", "passes"),
    [
        (lambda cells, folder, model: RMVE.load(folder, adata=cells), 1),
        (lambda cells, folder, model: RMVE.load_query_data(cells, model), 1),
        (lambda cells, folder, model: RMVE.load_query_data(cells[:, ::-1].copy(), model, True), 1),
        (lambda cells, folder, model: model.predict(cells), 2),
        (lambda cells, folder, model: model.annotate(cells), 2),
    ],
    ids=["load", "query", "reordered query", "predict", "annotate"],
)
def test_passes_over_new_cells(shared, saved, make_cells, rows, act, passes):
    """One for the checks, and one to encode the cells where that is asked for."""
    cells = make_cells(n_cells=40, seed=3)
    cells.layers["counts"] = cells.layers["counts"].toarray()
    shared.get_novelty()  # what the training cells are like is found once
    rows.clear()
    act(cells, saved, shared)
    assert rows.count(40) == passes  # blocks of training cells are larger
