"""``--backed``: matrices stay in the file while a command trains on them, and reach the output as they are."""

from __future__ import annotations

import resource

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import scvi
from sklearn.metrics import adjusted_rand_score

import rmve
from rmve.data.on_disk import is_on_disk

TRAINED = ["--n-components", "3", "--max-epochs", "30"]
QUICK = ["--max-epochs", "2"]


@pytest.fixture
def full(make_cells, tmp_path):
    """A file with something in each part: sparse and dense layers, one by columns, `raw`, graphs, and a tree in `uns`."""
    adata = make_cells(240, n_batches=2)
    adata.layers["dense"] = adata.X.toarray()
    adata.layers["columns"] = adata.X.tocsc()
    adata.raw = adata.copy()
    adata.obsp["own"] = sp.eye(adata.n_obs, format="csr")
    adata.varm["loadings"] = np.ones((adata.n_vars, 2))
    adata.uns["tree"] = {"leaf": np.arange(3)}
    adata.write_h5ad(tmp_path / "cells.h5ad")
    return "cells.h5ad"


@pytest.mark.parametrize("layer", ["counts", "dense", "raw"])
def test_cluster_from_disk_is_the_run_in_python(run, full, tmp_path, layer, contents, assert_same):
    """The result is that of the same cells on disk in Python, and the clusters are those of a run in memory."""
    for output, options in (("out.h5ad", ["--backed"]), ("memory.h5ad", [])):
        result = run("cluster", full, "-o", output, "--layer", layer, "--quiet", *TRAINED, *options)
        assert result.exit_code == 0, result.output
    out, memory = ad.read_h5ad(tmp_path / "out.h5ad"), ad.read_h5ad(tmp_path / "memory.h5ad")

    assert set(out.obs) == set(memory.obs)
    assert set(out.obsm) == set(memory.obsm)
    assert adjusted_rand_score(out.obs["rmve"], memory.obs["rmve"]) == 1
    np.testing.assert_allclose(out.obs["rmve_confidence"].mean(), memory.obs["rmve_confidence"].mean(), atol=0.02)

    scvi.settings.seed = 0
    with h5py.File(tmp_path / full) as file:
        stored = file["layers/dense"] if layer == "dense" else ad.io.sparse_dataset(file["X"])
        cells = ad.AnnData(stored, obs=out.obs[["batch"]].copy(), var=out.var)
        rmve.RMVE.setup_anndata(cells)
        model = rmve.RMVE(cells, n_components=3)
        model.train(max_epochs=30, quiet=True)
        model.annotate()
    np.testing.assert_array_equal(out.obsm["X_rmve"], cells.obsm["X_rmve"])
    assert out.obs["rmve"].tolist() == cells.obs["rmve"].tolist()

    before = ad.read_h5ad(tmp_path / full)
    for adata in (out, memory):  # all of the input is there, and the rest are the results
        for part in ("layers", "varm", "obsp", "varp"):
            assert_same(contents(before)[part], contents(adata)[part])
        assert_same(before.X, adata.X)
        assert_same(before.raw.X, adata.raw.X)
        pd.testing.assert_frame_equal(before.raw.var, adata.raw.var)
        pd.testing.assert_frame_equal(before.var, adata.var)
        pd.testing.assert_frame_equal(before.obs, adata.obs[before.obs.columns])
        assert_same(before.uns["tree"], adata.uns["tree"])


def test_what_is_not_used_is_not_read(run, full, tmp_path, one_line_error):
    """A layer whose pieces cannot be decompressed does not matter on disk, and is copied piece by piece."""
    with h5py.File(tmp_path / full, "r+") as file:
        spoilt = file["layers"].create_dataset("spoilt", (240, 60), "f4", chunks=(240, 60), compression="gzip")
        spoilt.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        spoilt.id.write_direct_chunk((0, 0), b"no gzip")
    one_line_error(run("cluster", full, "-o", "out.h5ad", "--layer", "counts", *QUICK))
    result = run("cluster", full, "-o", "out.h5ad", "--layer", "counts", "--backed", *QUICK)
    assert result.exit_code == 0, result.output
    with h5py.File(tmp_path / "out.h5ad") as file:
        assert file["layers/spoilt"].id.read_direct_chunk((0, 0))[1] == b"no gzip"
        assert "rmve" in file["obs"]


def test_training_reads_the_file(run, full, monkeypatch):
    """The values that the model is given are those of the file."""
    train = rmve.RMVE.train

    def checked(self, *args, **kwargs):
        assert is_on_disk(self.adata.X)
        assert all(is_on_disk(layer) for layer in self.adata.layers.values())
        return train(self, *args, **kwargs)

    monkeypatch.setattr(rmve.RMVE, "train", checked)
    result = run("cluster", full, "-o", "out.h5ad", "--backed", *QUICK)
    assert result.exit_code == 0, result.output


def test_cluster_from_disk_with_all_else(run, full, tmp_path):
    """Sub-clusters, a UMAP, levels, tables, a comparison and a report need no more than the file."""
    options = ["--backed", "--subcluster", "all", "--umap", "--level", "2", "--csv", "clusters.csv"]
    options += [
        "--markers",
        "markers.csv",
        "--compare-with",
        "cell_type",
        "--report",
        "out.html",
        "--batch-key",
        "batch",
    ]
    result = run("cluster", full, "-o", "out.h5ad", "--layer", "counts", *options, *TRAINED)
    assert result.exit_code == 0, result.output
    out = ad.read_h5ad(tmp_path / "out.h5ad")
    assert {"rmve", "rmve_sub", "rmve_2"} <= set(out.obs)
    assert out.obsm["X_umap"].shape == (240, 2)
    assert len(pd.read_csv(tmp_path / "clusters.csv")) == 240
    assert set(pd.read_csv(tmp_path / "markers.csv")["gene"]) <= set(out.var_names)
    assert "<h2>Clusters</h2>" in (tmp_path / "out.html").read_text()


def test_map_from_disk(run, full, tmp_path):
    result = run("map", full, "-o", "out.h5ad", "--layer", "counts", "--backed", "--quiet", *TRAINED)
    assert result.exit_code == 0, result.output
    out = ad.read_h5ad(tmp_path / "out.h5ad")
    assert np.isfinite(out.obsm["X_rmve_spatial"]).all()
    assert out.uns["rmve"]["spatial_map"]["r2_"].min() > 0.8


def test_cluster_from_disk_in_place(run, full, tmp_path):
    """The input is replaced when the output is whole."""
    for _ in range(2):
        result = run("cluster", full, "-o", full, "--layer", "counts", "--backed", "--force", "--quiet", *QUICK)
        assert result.exit_code == 0, result.output
    out = ad.read_h5ad(tmp_path / full)
    assert "rmve" in out.obs
    assert (out.layers["counts"] != out.X).nnz == 0
    assert [path.name for path in tmp_path.iterdir()] == [full]


def test_full_disk(run, full, tmp_path, one_line_error):
    """The copy of the matrices is cut: nothing but the old output is left."""
    (tmp_path / "out.h5ad").write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limits[1]))
    try:
        result = run("cluster", full, "-o", "out.h5ad", "--backed", "--force", "--quiet", *QUICK)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "out.h5ad could not be written" in one_line_error(result)
    assert (tmp_path / "out.h5ad").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == [full, "out.h5ad"]


def test_a_run_from_disk_goes_on_from_disk(run, full, tmp_path, one_line_error):
    """Mini-batches from disk are others than those from memory, so a run is not continued with the other."""
    options = ["--layer", "counts", "--checkpoint-dir", "run", *QUICK]
    assert run("cluster", full, "-o", "out.h5ad", "--backed", *options).exit_code == 0
    line = one_line_error(run("cluster", full, "-o", "other.h5ad", "--resume", *options))
    assert "another --backed" in line
    again = run("cluster", full, "-o", "again.h5ad", "--resume", "--backed", *options)
    assert again.exit_code == 0, again.output
    found, expected = (ad.read_h5ad(tmp_path / name) for name in ("again.h5ad", "out.h5ad"))
    pd.testing.assert_frame_equal(found.obs, expected.obs)


def test_variable_genes_are_not_chosen_on_disk(run, full, tmp_path):
    """Refused as a wrong call, before anything is read."""
    result = run("cluster", full, "-o", "out.h5ad", "--backed", "--n-top-genes", 30, *QUICK)
    assert result.exit_code == 2
    assert "--n-top-genes does not go with --backed" in " ".join(result.output.split())
    assert [path.name for path in tmp_path.iterdir()] == [full]


@pytest.mark.parametrize(
    ("change", "layer", "named"),
    [
        (lambda file: None, "columns", "--backed needs values that are stored by rows, and --layer 'columns'"),
        (lambda file: file.attrs.pop("encoding-type"), "counts", "--backed: cells.h5ad is not in the format"),
        (lambda file: file["raw"].move("X", "Y"), "counts", "cells.h5ad cannot be read as h5ad"),
        (lambda file: None, "absent", "--layer 'absent'"),
    ],
)
def test_files_that_cannot_stay_on_disk(run, full, tmp_path, monkeypatch, change, layer, named, one_line_error):
    """One line in the words of the flags, before training."""
    monkeypatch.setattr(rmve.RMVE, "train", lambda *args, **kwargs: pytest.fail("Training began."))
    with h5py.File(tmp_path / full, "r+") as file:
        change(file)
    line = one_line_error(run("cluster", full, "-o", "out.h5ad", "--backed", "--layer", layer))
    assert named in line
    assert [path.name for path in tmp_path.iterdir()] == [full]


def test_raw_with_other_genes(run, make_cells, tmp_path, one_line_error):
    """The genes of `raw` cannot be chosen on disk; in memory they are."""
    adata = make_cells(120)
    adata.layers.clear()
    adata.raw = adata.copy()
    adata[:, 5:].copy().write_h5ad(tmp_path / "in.h5ad")
    arguments = ["cluster", "in.h5ad", "-o", "out.h5ad", "--layer", "raw", "--quiet", *QUICK]
    assert "--backed with --layer 'raw' needs the genes" in one_line_error(run(*arguments, "--backed"))
    assert run(*arguments).exit_code == 0
