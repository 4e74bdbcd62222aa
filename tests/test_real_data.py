"""Real cells: 2,638 blood cells with the labels of a published clustering."""

from __future__ import annotations

import os
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import torch
from sklearn.metrics import adjusted_rand_score

from rmve import RMVE


def pbmc3k() -> Path | None:
    """File of the cells, in the folder that RMVE_DATA names or beside the repository; ``None`` without it."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    path = Path(os.environ.get("RMVE_DATA", beside)) / "pbmc3k.h5ad"
    return path if path.is_file() else None


pytestmark = [
    pytest.mark.data,
    pytest.mark.slow,
    pytest.mark.skipif(pbmc3k() is None, reason="needs pbmc3k.h5ad in the folder that RMVE_DATA names"),
]


@pytest.fixture(scope="module")
def trained() -> RMVE:
    """A model with the number of types given, trained with the defaults on 2,000 variable genes."""
    adata = ad.read_h5ad(pbmc3k())
    sc.pp.highly_variable_genes(adata, flavor="seurat_v3", n_top_genes=2000, subset=True)
    sc.pp.filter_cells(adata, min_counts=1)
    RMVE.setup_anndata(adata)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = RMVE(adata, n_components=8)
        model.train(enable_progress_bar=False)
    return model


def test_finds_the_published_types(trained):
    """The clusters agree with the published ones, without having seen them."""
    assert adjusted_rand_score(trained.adata.obs["cell_type"], trained.predict()) >= 0.70


def test_results_survive_the_file(trained, tmp_path):
    """Annotated cells read back from h5ad as they were written."""
    trained.annotate()
    trained.adata.write_h5ad(tmp_path / "out.h5ad")
    back = ad.read_h5ad(tmp_path / "out.h5ad")
    pd.testing.assert_frame_equal(back.obs, trained.adata.obs)
    np.testing.assert_array_equal(back.obsm["X_rmve"], trained.adata.obsm["X_rmve"])
    pd.testing.assert_frame_equal(back.obsm["rmve_probabilities"], trained.adata.obsm["rmve_probabilities"])
    pd.testing.assert_frame_equal(
        back.uns["rmve"]["components"], trained.adata.uns["rmve"]["components"], check_dtype=False
    )
