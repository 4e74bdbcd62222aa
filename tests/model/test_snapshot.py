"""An AnnData that changed since it was set up is an error that says so."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
import torch

from rmve import RMVE

SETUP = {
    "layer": "counts",
    "batch_key": "batch",
    "labels_key": "cell_type",
    "size_factor_key": "size_factor",
    "categorical_covariate_keys": ["donor"],
    "continuous_covariate_keys": ["age"],
    "spatial_key": "spatial",
    "neighbors_key": "own",
}


def keep(values):
    """Change of an AnnData: cells or genes left out in place."""

    def change(adata):
        getattr(adata, f"_inplace_subset_{values}")(np.arange(30))

    return change


def assign(part, key, value):
    """Change of an AnnData: one entry replaced."""

    def change(adata):
        getattr(adata, part)[key] = value(getattr(adata, part)[key])

    return change


def in_place(adata):
    adata.layers["counts"].data[7] += 1


def normalize(adata):
    sc.pp.normalize_total(adata, layer="counts")


def reverse_genes(adata):
    adata._inplace_subset_var(np.arange(adata.n_vars)[::-1])


def rename_genes(adata):
    adata.var_names = [f"other {name}" for name in adata.var_names]


#: What happens after the set-up, and what the error names.
CHANGES = {
    "genes cut": (keep("var"), "var_names"),
    "genes in another order": (reverse_genes, "var_names"),
    "genes renamed": (rename_genes, "var_names"),
    "cells cut": (keep("obs"), "n_obs"),
    "batches": (assign("obs", "batch", lambda x: np.roll(x.astype(str), 1)), "'batch'"),
    "labels": (assign("obs", "cell_type", lambda x: x.cat.rename_categories({"A": "Z"})), "'cell_type'"),
    "size factors": (assign("obs", "size_factor", lambda x: 2 * x), "'size_factor'"),
    "categories": (assign("obs", "donor", lambda x: x.astype(str).str.lower()), "'donor'"),
    "numbers": (assign("obs", "age", lambda x: x + 1), "'age'"),
    "column removed": (lambda adata: adata.obs.drop(columns="age", inplace=True), "'age'"),
    "layer replaced": (assign("layers", "counts", lambda x: 2 * x), "'counts'"),
    "layer changed in place": (in_place, "'counts'"),
    "layer normalised": (normalize, "'counts'"),
    "layer removed": (lambda adata: adata.layers.pop("counts"), "'counts'"),
    "positions": (assign("obsm", "spatial", lambda x: -x), "'spatial'"),
    "graph": (assign("obsp", "own", lambda x: x.T), "'own'"),
}


@pytest.fixture
def full(make_cells) -> ad.AnnData:
    """Cells with everything that can be registered."""
    adata = make_cells(n_batches=2)
    adata.obsp["own"] = sp.eye(adata.n_obs, k=1, format="csr")
    return adata


@pytest.mark.parametrize(("change", "named"), CHANGES.values(), ids=CHANGES)
def test_changed_before_the_model(full, change, named):
    """A model is not made on other data than was set up."""
    RMVE.setup_anndata(full, **SETUP)
    change(full)
    with pytest.raises(ValueError, match=rf"changed since `setup_anndata`.*{named}.*setup_anndata"):
        RMVE(full, n_components=3)


@pytest.fixture(scope="module")
def trained(make_cells, fit) -> RMVE:
    """A model on all that can be registered."""
    adata = make_cells(n_batches=2)
    adata.obsp["own"] = sp.eye(adata.n_obs, k=1, format="csr")
    return fit(adata, SETUP, epochs=1, n_components=None)


@pytest.fixture
def trained_on(trained, full, tmp_path) -> RMVE:
    """The same model on cells that a test may change."""
    trained.save(tmp_path / "model")
    return RMVE.load(tmp_path / "model", adata=full)


@pytest.mark.parametrize(("change", "named"), CHANGES.values(), ids=CHANGES)
def test_changed_after_training(trained_on, full, change, named):
    """No method goes on with data that changed."""
    if named in ("'spatial'", "'own'"):
        pytest.skip("a loaded model is not given positions and graph")
    change(full)
    calls = (
        trained_on.predict,
        trained_on.annotate,
        trained_on.get_latent_representation,
        trained_on.get_components,
        trained_on.merge_components,
        lambda: trained_on.train(max_epochs=1),
        lambda: trained_on.predict(full),
        lambda: trained_on.differential_expression(groupby="donor"),
    )
    for call in calls:
        with pytest.raises(ValueError, match=rf"changed since `setup_anndata`.*{named}"):
            call()


def test_what_is_no_change(full):
    """Other columns, results, another order in memory and another storage of the same values are fine."""
    RMVE.setup_anndata(full, **SETUP)
    full.obs["mine"] = 1
    full.obs["batch"] = full.obs["batch"].astype(str)
    full.layers["counts"] = sp.csc_matrix(full.layers["counts"])
    full.uns["note"] = "seen"
    full.obs_names = [f"renamed {i}" for i in range(full.n_obs)]
    sc.pp.log1p(full)  # X, not the layer
    RMVE(full, n_components=3)


@pytest.mark.usefixtures("fixed_seed")
def test_new_cells_that_change_between_calls(batched, make_cells):
    """New cells are read as they are at each call, and get no notes."""
    query = make_cells(n_cells=40, n_batches=2, seed=1)
    before = set(query.obs), set(query.obsm), set(query.uns)
    batched.get_normalized_expression(query)
    query.obs["batch"] = query.obs["batch"].to_numpy()[::-1]
    torch.manual_seed(1)
    found = batched.get_normalized_expression(query)
    torch.manual_seed(1)
    pd.testing.assert_frame_equal(found, batched.get_normalized_expression(query.copy()))
    query.layers["counts"] = query.layers["counts"][::-1].copy()
    pd.testing.assert_series_equal(batched.predict(query), batched.predict(query.copy()))
    assert before == (set(query.obs), set(query.obsm), set(query.uns))


def test_set_up_of_a_copy(cells):
    """A copy can be set up beside its original."""
    RMVE.setup_anndata(cells)
    copy = cells.copy()
    RMVE.setup_anndata(copy, batch_key="donor")
    assert RMVE(cells, n_components=2).summary_stats.n_batch == 1
    assert RMVE(copy, n_components=2).summary_stats.n_batch == 2


def test_model_without_data_meets_new_cells_twice(saved, make_cells):
    """Cells that were asked about first are not taken for the training data."""
    model = RMVE.load(saved, adata=False)
    first, second = (make_cells(n_cells=30, seed=seed) for seed in (1, 2))
    model.predict(first)
    first.layers["counts"] = second.layers["counts"]
    pd.testing.assert_series_equal(model.predict(first), model.predict(second))
    model.annotate(second)
    expected = second.obs["rmve"].cat.codes.groupby(second.obs["rmve"], observed=True).size().to_dict()
    table = second.uns["rmve"]["components"]
    assert table.loc[table["active"], "n_cells"].sum() == sum(expected.values())


def test_cells_of_a_model_are_not_replaced(model, cells):
    """By assignment: the error says what to do instead."""
    with pytest.raises(AttributeError, match="RMVE.load"):
        model.adata = cells.copy()
