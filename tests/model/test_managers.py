"""Data is let go of when its user does, and a model goes into a pickle and comes back."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref

import anndata as ad
import pandas as pd
import pytest

from rmve import RMVE

TRAIN = {"max_epochs": 1, "batch_size": 64, "enable_progress_bar": False}


def is_gone(reference: weakref.ref) -> bool:
    gc.collect()
    return reference() is None


def test_data_and_model_of_a_training(make_cells):
    """Neither outlives its last name."""
    adata = make_cells()
    RMVE.setup_anndata(adata, layer="counts")
    model = RMVE(adata, n_components=3, n_latent=3, n_hidden=8, n_layers=1)
    model.train(**TRAIN)
    model.annotate()
    data, model = weakref.ref(adata), weakref.ref(model)
    del adata
    assert is_gone(model)
    assert is_gone(data)


def test_data_that_was_only_set_up(make_cells):
    """The same for data without a model, or of a model that is gone."""
    adata = make_cells()
    RMVE.setup_anndata(adata)
    data = weakref.ref(adata)
    del adata
    assert is_gone(data)


@pytest.mark.parametrize(
    "name",
    ["predict", "annotate", "get_latent_representation", "get_elbo", "get_normalized_expression", "map_to_space"],
)
def test_new_data(shared, saved, cells, make_cells, name):
    """A model does not keep what it predicted, nor does a model loaded from disk."""
    model = RMVE.load(saved, adata=cells)
    model.fit_spatial_map(spatial_key="spatial")
    query = make_cells(n_cells=40, seed=3)
    getattr(model, name)(query)
    data = weakref.ref(query)
    del query
    assert is_gone(data)


def test_queries_and_folds(batched, make_cells):
    """Models of queries, and of the folds of a cross-validation."""
    query = make_cells(n_cells=40, n_batches=2, seed=3)
    model = RMVE.load_query_data(query, batched)
    data, model = weakref.ref(query), weakref.ref(model)
    del query
    assert is_gone(model)
    assert is_gone(data)

    adata = make_cells()
    RMVE.setup_anndata(adata, spatial_key="spatial")
    gc.collect()
    before = sum(type(thing) is ad.AnnData for thing in gc.get_objects())
    sizes = {"n_components": 3, "n_latent": 3, "n_hidden": 8, "n_layers": 1}
    RMVE.cross_validate_positions(adata, n_folds=2, train_kwargs=TRAIN, **sizes)
    gc.collect()
    assert sum(type(thing) is ad.AnnData for thing in gc.get_objects()) <= before


def test_data_is_known_as_long_as_it_is_there(make_cells):
    """Letting go of what is gone does not let go of the rest."""
    adata, query = make_cells(), make_cells(n_cells=40, seed=3)
    RMVE.setup_anndata(adata, layer="counts")
    gc.collect()
    models = [RMVE(adata, n_components=3, n_latent=3, n_hidden=8, n_layers=1) for _ in range(2)]
    for model in models:
        model.train(**TRAIN)
    expected = models[0].predict(query)
    del models[1], model
    gc.collect()
    pd.testing.assert_series_equal(models[0].predict(query), expected)
    assert len(models[0].predict()) == 240
    assert RMVE(adata, n_components=2) is not None


@pytest.mark.parametrize("duplicate", [lambda model: pickle.loads(pickle.dumps(model)), copy.deepcopy])
def test_pickle(make_cells, fit, duplicate):
    """A trained model with its data comes back, on data of its own; both go on to work."""
    model = fit(make_cells(), {"layer": "counts", "spatial_key": "spatial"}, epochs=2)
    query = make_cells(n_cells=40, seed=3)
    again = duplicate(model)
    assert again.adata is not model.adata
    pd.testing.assert_frame_equal(again.predict(soft=True), model.predict(soft=True))
    pd.testing.assert_frame_equal(again.predict(query, soft=True), model.predict(query, soft=True))
    pd.testing.assert_frame_equal(again.map_to_space(), model.map_to_space())
    again.train(**TRAIN)
    again.annotate()
    assert "rmve" not in model.adata.obs
    model.annotate()
    assert len(again.history["train_loss"]) == len(model.history["train_loss"]) + 1


def test_pickle_of_a_model_without_data(saved, make_cells):
    """A model that was loaded alone, and one that was not trained."""
    again = pickle.loads(pickle.dumps(RMVE.load(saved, adata=False)))
    assert len(again.predict(make_cells(n_cells=40, seed=3))) == 40
    adata = make_cells()
    RMVE.setup_anndata(adata)
    again = pickle.loads(pickle.dumps(RMVE(adata, n_components=3, n_latent=3, n_hidden=8, n_layers=1)))
    again.train(**TRAIN)
    assert again.is_trained


def test_pickle_of_data(shared, make_cells):
    """Data that a model has met goes into a pickle as data, without what the model notes of it."""
    query = make_cells(n_cells=40, seed=3)
    before = len(pickle.dumps(query))
    shared.predict(query)
    again = pickle.loads(pickle.dumps(query))
    assert len(pickle.dumps(query)) < before + 5000
    assert len(shared.predict(again)) == 40
