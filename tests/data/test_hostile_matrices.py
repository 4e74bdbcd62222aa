"""Files whose sparse matrices point outside of themselves: an error, in memory and on disk, wherever they get in."""

from __future__ import annotations

import anndata as ad
import h5py
import numpy as np
import pytest
import scipy.sparse as sp
from typer.testing import CliRunner

import rmve
from rmve import RMVE
from rmve.cli import app
from rmve.data.on_disk import read_rows

#: Array, place and value of one changed number.
CHANGES = [("indices", 7, 10**9), ("indices", 7, -1), ("indices", 7, 240), ("indptr", 5, 10**8), ("indptr", -1, 10**8)]


@pytest.fixture(params=CHANGES, ids=lambda change: f"{change[0]}={change[2]}")
def spoil(request, cells, tmp_path):
    """Write the cells to a file and change one number in the matrix of a path."""
    part, at, value = request.param

    def write(where: str) -> str:
        cells.obsp["own"] = sp.eye(cells.n_obs, k=1, format="csr")
        path = str(tmp_path / "spoilt.h5ad")
        cells.write_h5ad(path)
        with h5py.File(path, "r+") as file:
            numbers = file[where][part]
            numbers[at if at >= 0 else len(numbers) + at] = value
        return path

    return write


REFUSED = pytest.raises(ValueError, match="not a valid sparse matrix.*damaged")


def test_matrix_in_memory(spoil):
    """`setup_anndata` refuses it."""
    adata = ad.read_h5ad(spoil("X"))
    with REFUSED:
        RMVE.setup_anndata(adata)
    assert not any(str(key).startswith("_scvi") for key in adata.uns)


def test_matrix_on_disk(spoil):
    """The same with data that stays in the file."""
    with REFUSED:
        RMVE.setup_anndata(ad.read_h5ad(spoil("X"), backed="r"))


def test_layer(spoil):
    """A layer is checked like the matrix."""
    with REFUSED:
        RMVE.setup_anndata(ad.read_h5ad(spoil("layers/counts")), layer="counts")


def test_graph(spoil):
    """A graph that names cells that do not exist is refused, also by the pooling of neighbours."""
    adata = ad.read_h5ad(spoil("obsp/own"))
    with REFUSED:
        RMVE.setup_anndata(adata, neighbors_key="own")
    with REFUSED:
        rmve.pool_neighbors(adata, "own")


@pytest.mark.parametrize("name", ["predict", "annotate", "get_latent_representation", "get_elbo"])
def test_new_cells(shared, spoil, name):
    """New data of a trained model, whole."""
    with REFUSED:
        getattr(shared, name)(ad.read_h5ad(spoil("layers/counts")))


@pytest.mark.parametrize("where", ["X", "layers/counts"])
def test_views(shared, spoil, where):
    """A part of a spoilt matrix cannot be taken, so a view of one is refused, whichever layer is spoilt."""
    adata = ad.read_h5ad(spoil(where))
    with REFUSED:
        shared.predict(adata[:20])


def test_queries(shared, saved, spoil):
    """Loading onto it, mapping it, putting its genes in order and filling them in."""
    path = spoil("layers/counts")
    for meet in (
        lambda adata: RMVE.load(saved, adata=adata),
        lambda adata: RMVE.load_query_data(adata, shared),
        lambda adata: RMVE.load_query_data(adata, shared, inplace_subset_query_vars=True),
        lambda adata: RMVE.prepare_query_anndata(adata, shared),
    ):
        with REFUSED:
            meet(ad.read_h5ad(path))


@pytest.mark.parametrize(("where", "options"), [("X", []), ("layers/counts", ["--layer", "counts"])])
def test_command_line(spoil, tmp_path, where, options):
    """One line and exit status 1."""
    result = CliRunner().invoke(app, ["cluster", spoil(where), "-o", str(tmp_path / "out.h5ad"), *options])
    assert result.exit_code == 1
    assert "not a valid sparse matrix" in result.output
    assert not (tmp_path / "out.h5ad").exists()


def test_counts_elsewhere(spoil):
    """Advice on where counts are does not read a spoilt layer."""
    adata = ad.read_h5ad(spoil("layers/counts"))
    adata.X = adata.X * 0.5
    RMVE.setup_anndata(adata)
    with REFUSED:
        RMVE(adata)


def test_raw_counts(spoil, cells, tmp_path):
    """Counts are not taken from a spoilt `adata.raw`."""
    cells.raw = cells.copy()
    path = spoil("raw/X")
    result = CliRunner().invoke(app, ["cluster", path, "-o", str(tmp_path / "out.h5ad"), "--layer", "raw"])
    assert result.exit_code == 1
    assert "not a valid sparse matrix" in result.output


def test_subclusters(saved, spoil):
    """Cells are not taken out of an AnnData with a spoilt matrix that the model does not read."""
    model = RMVE.load(saved, adata=ad.read_h5ad(spoil("X")))
    with REFUSED:
        model.subcluster()


def test_blocks_from_disk(cells, tmp_path):
    """What is read later is checked when it is read: the file may have changed since."""
    path = tmp_path / "cells.h5ad"
    cells.write_h5ad(path)
    with h5py.File(path, "r+") as file:
        x = ad.io.sparse_dataset(file["X"])
        assert read_rows(x, np.arange(9)).shape == (9, 60)
        file["X/indices"][0] = 10**9
        with REFUSED:
            read_rows(x, np.arange(9))
