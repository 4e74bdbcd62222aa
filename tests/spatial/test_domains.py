"""Counts pooled over neighbours, and the domains that they show."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
import scipy.sparse as sp
import torch
from sklearn.metrics import adjusted_rand_score

from rmve import RMVE, pool_neighbors


def test_pooled_by_hand(cells):
    """Each cell's counts plus those of its neighbours, whatever the weights of the graph, sparse or dense."""
    rng = np.random.default_rng(0)
    graph = sp.csr_matrix(np.triu(rng.random((240, 240)) < 0.02, 1) * rng.uniform(0.1, 5.0, size=(240, 240)))
    cells.obsp["near"] = graph + graph.T
    pool_neighbors(cells, "near")
    x, near = cells.X.toarray(), cells.obsp["near"].toarray() > 0
    expected = np.stack([x[i] + x[near[i]].sum(0) for i in range(240)])
    np.testing.assert_array_equal(cells.layers["pooled"].toarray(), expected)
    cells.X = x
    pool_neighbors(cells, "near", key_added="dense")
    np.testing.assert_array_equal(cells.layers["dense"].toarray(), expected)


def test_the_graph_stays_as_it_is(cells, contents, assert_same):
    """Only the layer is new."""
    sc.pp.neighbors(cells, use_rep="spatial", n_neighbors=5)
    before = contents(cells)
    pool_neighbors(cells, "neighbors", layer="counts")
    after = contents(cells)
    assert after["layers"].pop("pooled").shape == cells.shape
    assert_same(before, after)


def test_bad_input(cells, unchanged):
    """What is wrong is named, and nothing is written."""
    cells.layers["log"] = cells.X.log1p()
    cells.obsp["near"] = sp.eye(240, format="csr")
    with unchanged(cells):
        with pytest.raises(KeyError, match="neighbors_key='far'"):
            pool_neighbors(cells, "far")
        with pytest.raises(KeyError, match="layer='raw'"):
            pool_neighbors(cells, "near", layer="raw")
        with pytest.raises(ValueError, match="needs raw counts"):
            pool_neighbors(cells, "near", layer="log")
        with pytest.raises(ValueError, match="would replace the counts"):
            pool_neighbors(cells, "near", layer="counts", key_added="counts")


def test_mixed_neighbourhoods_are_domains():
    """Two regions with the same two types in other shares: single cells hardly tell, neighbourhoods do."""
    rng = np.random.default_rng(0)
    n = 800
    region = (np.arange(n) >= n // 2).astype(int)
    kind = (rng.random(n) < np.where(region, 0.75, 0.25)).astype(int)
    rate = np.ones((2, 40))
    rate[0, :10] = rate[1, 10:20] = 4.0
    position = np.column_stack([rng.uniform(size=n) + region, rng.uniform(size=n)])
    adata = ad.AnnData(sp.csr_matrix(rng.poisson(rate[kind]).astype(np.float32)), obsm={"spatial": position})
    sc.pp.neighbors(adata, use_rep="spatial", n_neighbors=20, key_added="spatial_neighbors")
    pool_neighbors(adata, "spatial_neighbors")
    RMVE.setup_anndata(adata, layer="pooled", neighbors_key="spatial_neighbors")
    torch.manual_seed(0)
    model = RMVE(adata, n_components=2, n_hidden=32, n_layers=1)
    model.train(max_epochs=60, enable_progress_bar=False)
    assert adjusted_rand_score(region, kind) < 0.35
    assert adjusted_rand_score(region, model.predict()) > 0.7
