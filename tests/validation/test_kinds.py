"""Kinds of matrices, files and devices that RMVE does not take, and where counts are if not where they were looked for."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
import scipy.sparse as sp
import torch

from rmve import RMVE


@pytest.mark.parametrize("form", ["sparse", "dense"])
@pytest.mark.parametrize("layer", [None, "counts"])
def test_dask(cells, shared, form, layer):
    """Lazy arrays are refused in one sentence, by set-up and by a trained model."""
    da = pytest.importorskip("dask.array")
    x = cells.X if form == "sparse" else cells.X.toarray()
    lazy = da.from_array(x, chunks=(64, -1), asarray=False)
    if layer is None:
        cells.X = lazy
    else:
        cells.layers[layer] = lazy
    with pytest.raises(TypeError, match=r"adata\..*dask.*compute\(\)"):
        RMVE.setup_anndata(cells, layer=layer)
    if layer is not None:
        with pytest.raises(TypeError, match="dask"):
            shared.predict(cells)


def test_masked_array(cells):
    """A matrix with masked entries has no value there."""
    cells.X = np.ma.masked_equal(cells.X.toarray(), 1)
    if isinstance(cells.X, np.ma.MaskedArray):
        with pytest.raises(TypeError, match="MaskedArray"):
            RMVE.setup_anndata(cells)


def test_masked_positions(cells):
    """A position that is masked is unknown: NumPy would read what lies below the mask."""
    cells.obsm["spatial"] = np.ma.masked_greater(cells.obsm["spatial"], 0)
    if isinstance(cells.obsm["spatial"], np.ma.MaskedArray):
        with pytest.raises(ValueError, match="real numbers, and NaN where they are unknown"):
            RMVE.setup_anndata(cells, spatial_key="spatial")


def test_columns_that_stay_in_the_file(cells, tmp_path):
    """`read_lazy` leaves `obs` on disk."""
    pytest.importorskip("xarray")
    pytest.importorskip("dask.array")
    cells.write_h5ad(tmp_path / "cells.h5ad")
    lazy = ad.experimental.read_lazy(tmp_path / "cells.h5ad")
    with pytest.raises(TypeError, match="to_memory"):
        RMVE.setup_anndata(lazy)


def normalized(cells, where):
    """Cells whose X is normalised, with counts elsewhere."""
    cells.layers.clear()
    if where == "raw":
        cells.raw = cells.copy()
    elif where == "raw of some genes":
        cells.raw = cells[:, 1:].copy()
    elif where == "layer":
        cells.layers["spliced"] = cells.X.copy()
    sc.pp.normalize_total(cells)
    sc.pp.log1p(cells)
    return cells


@pytest.mark.parametrize(
    ("where", "advice"),
    [
        ("raw", r"adata\.raw.*adata\.raw\[:, adata\.var_names\]\.X.*--layer raw"),
        ("raw of some genes", r"adata\.raw.*lacks 1 of the genes"),
        ("layer", "layer='spliced'"),
        ("nowhere", r"neither another layer nor `adata\.raw`"),
    ],
)
def test_where_the_counts_are(cells, where, advice):
    """The error names the place, and no layer that is not there."""
    RMVE.setup_anndata(normalized(cells, where))
    with pytest.raises(ValueError, match=f"fractional.*{advice}"):
        RMVE(cells, n_components=3)


def test_counts_are_in_x(cells):
    """When the layer that was given is the normalised one."""
    cells.layers["log"] = sp.csr_matrix(np.log1p(cells.X.toarray()))
    del cells.layers["counts"]
    RMVE.setup_anndata(cells, layer="log")
    with pytest.raises(ValueError, match=r"`adata\.X` holds counts: leave out `layer`"):
        RMVE(cells, n_components=3)


def test_advice_can_be_followed(cells):
    """What the error says works."""
    normalized(cells, "raw")
    cells.layers["counts"] = cells.raw[:, cells.var_names].X
    RMVE.setup_anndata(cells, layer="counts")
    RMVE(cells, n_components=3)


@pytest.mark.parametrize(
    "options", [{"accelerator": "gpu"}, {"accelerator": "abacus"}, {"device": 3, "accelerator": "cpu"}]
)
def test_device_that_is_not_there(saved, options):
    """A model is not loaded onto it."""
    if options == {"accelerator": "gpu"} and torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(ValueError, match="cannot be used here"):
        RMVE.load(saved, adata=False, **options)


def test_fraction_is_shown(cells):
    """The number in the message has the digits that are wrong."""
    cells.X.data[0] = np.float32(3.0000002)
    RMVE.setup_anndata(cells)
    with pytest.raises(ValueError, match=r"3\.0000002"):
        RMVE(cells, n_components=3)
