"""Cells of a new batch, mapped onto a model that was trained without them."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from rmve import RMVE


def agreement(model, adata) -> float:
    """Adjusted Rand index of the clusters with the true types."""
    return adjusted_rand_score(adata.obs["cell_type"], model.predict(adata))


@pytest.fixture
def query(make_cells) -> ad.AnnData:
    """Cells of a batch that the reference does not have."""
    adata = make_cells(n_cells=100, n_batches=3, seed=21)
    adata = adata[adata.obs["batch"] == "batch 2"].copy()
    adata.obs["batch"] = ["new batch"] * adata.n_obs
    return adata


@pytest.mark.parametrize("source", ["model", "folder"])
def test_query_of_a_new_batch(batched, query, tmp_path, source, unchanged):
    """A new batch is mapped onto the reference's clusters, which training on it does not change."""
    reference = batched
    if source == "folder":
        batched.save(tmp_path / "m")
        reference = str(tmp_path / "m")
    with unchanged(query, without_scvi=True), unchanged(batched.adata):
        model = RMVE.load_query_data(query, reference)
        assert model.is_trained
        assert agreement(model, query) > 0.7
        mixture = {name: value.clone() for name, value in model.module.mixture.state_dict().items()}
        names, components = model.clusters_.names, model.clusters_.of_component
        assert names == batched.clusters_.names
        state = {name: value.clone() for name, value in model.module.state_dict().items()}
        train = {"max_epochs": 3, "batch_size": 16, "enable_progress_bar": False}
        model.train(**train, plan_kwargs={"weight_decay": 0.0})
    assert agreement(model, query) > 0.7
    assert model.clusters_.names == names
    assert model.clusters_.of_component == components
    for name, value in model.module.mixture.state_dict().items():
        torch.testing.assert_close(value, mixture[name])
    changed = [name for name, value in model.module.state_dict().items() if not torch.equal(value, state[name])]
    assert any(name.startswith("decoder") for name in changed)
    query_clusters = model.predict()
    assert query_clusters.cat.categories.tolist() == list(batched.clusters_.names)


def test_query_without_some_types(batched, query):
    """Training on new cells that lack a type leaves the reference's clusters as they are."""
    only = query[query.obs["cell_type"] == "B"].copy()
    model = RMVE.load_query_data(only, batched)
    model.train(max_epochs=2, batch_size=16, enable_progress_bar=False)
    assert model.clusters_.names == batched.clusters_.names
    assert model.clusters_.of_component == batched.clusters_.of_component
    assert (model.predict() == "1").mean() > 0.7


def test_query_data_with_fewer_cells_than_components(overcomplete, make_cells):
    """A handful of new cells is enough."""
    few = make_cells(n_cells=5, seed=2, subtypes=True)
    assert len(RMVE.load_query_data(few, overcomplete).predict()) == 5


def test_query_of_a_labelled_reference(partly_labelled, make_cells):
    """Unlabelled new cells get the reference's labels."""
    query = make_cells(n_cells=60, seed=2)
    query.obs["label"] = "Unknown"
    model = RMVE.load_query_data(query, partly_labelled)
    assert model.predict().cat.categories.tolist() == list(partly_labelled.clusters_.names)
    known = (query.obs["cell_type"] != "C").to_numpy()
    assert (model.predict()[known].astype(str) == query.obs["cell_type"][known].astype(str)).mean() > 0.8


def test_prepare_query_fills_genes(batched, query, tmp_path):
    """Missing genes are filled with zeros, superfluous ones dropped, the order restored; then the query maps."""
    partial = query[:, query.var_names[:10:-1]].copy()
    partial.var_names = ["other", *partial.var_names[1:]]
    batched.save(tmp_path / "m")
    for reference in (batched, tmp_path / "m", str(tmp_path / "m")):
        prepared = RMVE.prepare_query_anndata(partial.copy(), reference, inplace=False)
        assert prepared.var_names.tolist() == batched.get_var_names().tolist()
        assert prepared[:, "gene 3"].layers["counts"].sum() == 0
        np.testing.assert_array_equal(
            prepared[:, "gene 20"].X.toarray(), query[prepared.obs_names, "gene 20"].X.toarray()
        )
    names = RMVE.prepare_query_anndata(partial, batched, return_reference_var_names=True)
    assert list(names) == batched.get_var_names().tolist()
    RMVE.prepare_query_anndata(partial, batched)
    assert len(RMVE.load_query_data(partial, batched).predict()) == query.n_obs


def test_query_in_another_order(batched, query):
    """Genes can be put in order on loading."""
    expected = RMVE.load_query_data(query.copy(), batched).predict()
    shuffled = query[:, query.var_names[::-1]].copy()
    model = RMVE.load_query_data(shuffled, batched, inplace_subset_query_vars=True)
    pd.testing.assert_series_equal(model.predict(), expected)


QUICK = {"max_epochs": 2, "quiet": True, "plan_kwargs": {"weight_decay": 0.0}}


def moved(model) -> float:
    """How far a short training moves the cells, at most."""
    before = model.get_latent_representation()
    model.train(**QUICK)
    return np.abs(model.get_latent_representation() - before).max()


def test_training_that_moves_nothing_says_so(batched, query):
    """The encoder is fixed and is not told of batches."""
    with pytest.warns(UserWarning, match="neither embedding nor clusters.*encode_covariates=True"):
        assert moved(RMVE.load_query_data(query, batched)) == 0


@pytest.mark.filterwarnings("error:.*neither embedding:UserWarning")
def test_training_that_moves_cells(batched, query, make_cells, fit):
    """With an encoder that is told of batches, or that is trained, it does, and nothing is said."""
    assert moved(RMVE.load_query_data(query.copy(), batched, unfrozen=True)) > 0
    told = fit(make_cells(n_batches=2), {"batch_key": "batch"}, epochs=3, encode_covariates=True)
    assert moved(RMVE.load_query_data(query.copy(), told)) > 0


@pytest.mark.parametrize("call", ["predict", "load_query_data"])
@pytest.mark.parametrize("values", [np.arange(240) % 2, np.arange(240) % 2 == 0, np.arange(240) % 2 + 0.5])
def test_batches_of_another_type(batched, make_cells, unchanged, call, values):
    """Numbers are not text; the known batches are listed."""
    new = make_cells()
    new.obs["batch"] = values
    with unchanged(new), pytest.raises(ValueError, match="'batch'.*text: 'batch 0', 'batch 1'.*astype"):
        batched.predict(new) if call == "predict" else RMVE.load_query_data(new, batched)


def test_text_where_the_model_has_numbers(make_cells, fit):
    """The other way round, with a covariate, too."""
    adata = make_cells(n_batches=2)
    adata.obs["batch"] = adata.obs["batch"].cat.codes.astype(int).to_numpy()
    adata.obs["plate"] = np.arange(adata.n_obs) % 2
    model = fit(adata, {"batch_key": "batch", "categorical_covariate_keys": ("plate",)}, epochs=1)
    new = make_cells(n_cells=30)
    new.obs["batch"], new.obs["plate"] = "1", 0
    with pytest.raises(ValueError, match="'batch'.*text.*numbers"):
        model.predict(new)
    new.obs["batch"], new.obs["plate"] = 1, 7
    with pytest.raises(ValueError, match="'plate'.*unseen.*'7'.*Known: '0', '1'"):
        model.predict(new)
    new.obs["plate"] = 1
    assert len(model.predict(new)) == 30


def test_genes_twice(batched, query, unchanged):
    """Names that stand twice are refused before anything is changed."""
    twice = query[:, [*range(query.n_vars), 0]].copy()
    twice.var_names = [*query.var_names, query.var_names[0]]
    with unchanged(twice):
        for call in (
            lambda: RMVE.prepare_query_anndata(twice, batched),
            lambda: RMVE.load_query_data(twice, batched, inplace_subset_query_vars=True),
            lambda: batched.predict(twice),
        ):
            with pytest.raises(ValueError, match="var_names_make_unique"):
                call()


@pytest.mark.parametrize("fault", ["no batch", "a gene missing"])
def test_refused_query_keeps_its_genes(batched, query, unchanged, fault):
    """Checks come before genes are cut."""
    more = query[:, [*range(query.n_vars), 0, 1]].copy()
    more.var_names = [*query.var_names, "other", "another"]
    if fault == "no batch":
        del more.obs["batch"]
    else:
        more = more[:, 1:].copy()
    with unchanged(more), pytest.raises((KeyError, ValueError)):
        RMVE.load_query_data(more, batched, inplace_subset_query_vars=True)
