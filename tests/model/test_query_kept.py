"""A query that is saved, copied, pickled or resumed stays one: what training leaves alone is left alone afterwards, too."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from anndata import AnnData
from lightning.pytorch.callbacks import Callback

from rmve import RMVE

QUICK = {"max_epochs": 2, "quiet": True, "plan_kwargs": {"weight_decay": 0.0}}
FIXED = "neither embedding nor clusters"


@pytest.fixture
def query(make_cells) -> AnnData:
    """Cells of a batch that the reference does not have."""
    adata = make_cells(n_cells=60, seed=21)
    adata.obs["batch"] = "new batch"
    return adata


def saved(model: RMVE, folder) -> RMVE:
    """Through a folder."""
    model.save(folder / "query")
    return RMVE.load(folder / "query", adata=model.adata.copy())


def pickled(model: RMVE, folder) -> RMVE:
    """Through a pickle."""
    return pickle.loads(pickle.dumps(model))


def copied(model: RMVE, folder) -> RMVE:
    """A deep copy."""
    return copy.deepcopy(model)


WAYS = pytest.mark.parametrize("way", [saved, pickled, copied])


def moved(model: RMVE) -> float:
    """How far a short training moves the cells, at most."""
    before = model.get_latent_representation()
    model.train(**QUICK)
    return np.abs(model.get_latent_representation() - before).max()


@WAYS
def test_a_fixed_embedding_stays_fixed(batched, query, tmp_path, way):
    """Training moves no cell, and a warning says so."""
    model = way(RMVE.load_query_data(query, batched), tmp_path)
    with pytest.warns(UserWarning, match=FIXED):
        assert moved(model) == 0


@WAYS
@pytest.mark.filterwarnings(f"error:.*{FIXED}:UserWarning")
@pytest.mark.parametrize("options", [{"unfrozen": True}, {"freeze_batchnorm_encoder": False}], ids=str)
def test_what_may_move_still_may(batched, query, tmp_path, way, options):
    """An encoder that is trained is trained afterwards, too, and nothing is said."""
    assert moved(way(RMVE.load_query_data(query, batched, **options), tmp_path)) > 0


@WAYS
def test_the_same_weights_are_trained(make_cells, fit, query, tmp_path, way):
    """What an encoder that is told of batches knows of genes is the reference's, and is left as it is."""
    reference = fit(make_cells(n_batches=2), {"batch_key": "batch"}, epochs=3, encode_covariates=True)
    model = way(RMVE.load_query_data(query, reference), tmp_path)
    before = {name: value.clone() for name, value in model.module.named_parameters()}
    assert moved(model) > 0
    n_genes = query.n_vars
    for name, value in model.module.named_parameters():
        if name.startswith("encoder") and name.endswith("weight"):
            change = (value - before[name]).abs()
            assert change[:, :n_genes].max() == 0 if change.ndim == 2 else change.max() == 0, name


def test_a_resumed_query_is_one(batched, query, tmp_path):
    """A checkpoint of a query's training holds what is left alone, too."""

    class Stop(Callback):
        def on_train_epoch_end(self, trainer, plan):
            if trainer.current_epoch == 1:
                raise RuntimeError("power failure")

    model = RMVE.load_query_data(query, batched)
    before = model.get_latent_representation()
    with pytest.warns(UserWarning, match=FIXED), pytest.raises(RuntimeError, match="power failure"):
        model.train(**QUICK | {"max_epochs": 3}, checkpoint_dir=tmp_path / "run", callbacks=[Stop()])
    resumed = RMVE.resume(tmp_path / "run", query.copy(), quiet=True)
    np.testing.assert_array_equal(resumed.get_latent_representation(), before)


def test_a_query_of_a_query(batched, query, make_cells):
    """It is adapted with options of its own."""
    first = RMVE.load_query_data(query, batched, unfrozen=True)
    second = make_cells(n_cells=40, seed=22)
    second.obs["batch"] = "newer batch"
    model = RMVE.load_query_data(second, first)
    assert not first.embedding_is_fixed_
    with pytest.warns(UserWarning, match=FIXED):
        assert moved(model) == 0


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"freeze_all": True}, TypeError, "'freeze_all' is not an option of `load_query_data`"),
        ({"registry": {}}, TypeError, "'registry' is not an option"),
        ({"unfrozen": 1}, TypeError, "`unfrozen` must be True or False"),
        ({"freeze_classifier": False}, ValueError, "`freeze_classifier=False` is not supported.*`unfrozen=True`"),
        ({"freeze_decoder_first_layer": False}, ValueError, "is not supported"),
        ({"accelerator": "abacus"}, ValueError, "accelerator"),
        ({"transfer_batch": False}, ValueError, "'batch'.*unseen"),
    ],
    ids=str,
)
def test_options_that_cannot_be_honoured(batched, query, unchanged, options, error, says):
    """They are refused before the cells are touched."""
    more = query[:, [*range(query.n_vars), 0]].copy()
    more.var_names = [*query.var_names, "other"]
    with unchanged(more), pytest.raises(error, match=says):
        RMVE.load_query_data(more, batched, inplace_subset_query_vars=True, **options)


@pytest.mark.parametrize("values", [{}, {"unfrozen": 1}, [], True, None])
def test_forged_options(batched, query, tmp_path, forge, values):
    """A file says what a query is, or is none."""
    RMVE.load_query_data(query, batched).save(tmp_path / "m")
    forge(tmp_path / "m", lambda document: document["attributes"].update(query_options_=values))
    with pytest.raises(ValueError, match="does not hold a model saved by `RMVE.save`"):
        RMVE.load(tmp_path / "m", adata=False)
