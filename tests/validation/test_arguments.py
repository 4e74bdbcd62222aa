"""Bad arguments: a clear error that names them, before training, and data that stays as it was."""

from __future__ import annotations

import numpy as np
import pytest

from rmve import RMVE
from rmve._validation.arguments import shorten

#: name: (arguments of the model, error, pattern of its message)
MODEL_ERRORS = {
    "no components": ({"n_components": 0}, ValueError, "`n_components` must be at least 1; got 0"),
    "negative components": ({"n_components": -3}, ValueError, "`n_components` must be at least 1"),
    "more components than cells": ({"n_components": 241}, ValueError, "`n_components=241`.*240 cell"),
    "components not whole": ({"n_components": 3.0}, TypeError, "`n_components` must be an integer"),
    "components as text": ({"n_components": "3"}, TypeError, "`n_components` must be an integer"),
    "components as truth value": ({"n_components": True}, TypeError, "`n_components` must be an integer"),
    "unknown likelihood": ({"gene_likelihood": "gauss"}, ValueError, "`gene_likelihood`.*'zinb'.*'gauss'"),
    "unknown posterior": ({"posterior": "mean-field"}, ValueError, "`posterior`.*'factorized'"),
    "unknown estimator": ({"estimator": "mc"}, ValueError, "`estimator`.*'gumbel'"),
    "unknown repulsion": ({"repulsion": "strong"}, ValueError, "`repulsion`.*'hsic'.*None"),
    "no latent dimension": ({"n_latent": 0}, ValueError, "`n_latent`.*at least 1"),
    "hidden not whole": ({"n_hidden": 12.5}, ValueError, "`n_hidden`.*12.5"),
    "no layers": ({"n_layers": 0}, ValueError, "`n_layers`"),
}


@pytest.mark.parametrize(("options", "error", "message"), MODEL_ERRORS.values(), ids=MODEL_ERRORS)
def test_model_refuses(cells, unchanged, options, error, message):
    """Options are checked when a model is made; the data stays as it was."""
    with unchanged(cells, without_scvi=True):
        RMVE.setup_anndata(cells)
        with pytest.raises(error, match=message):
            RMVE(cells, **options)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (np.zeros(239, dtype=int), r"`start` must be 240 integers.*\(239,\)"),
        (np.zeros((240, 3), dtype=int), r"`start` must be 240 integers.*\(240, 3\)"),
        (np.zeros(240), "`start` must be 240 integers.*float64"),
        (np.full(240, 240), r"`start` must lie in \[0, 240\).*240 to 240"),
        (np.full(240, -1), r"`start` must lie in \[0, 240\).*-1"),
    ],
)
def test_start_that_does_not_fit(cells, unchanged, start, message):
    """A starting partition is one component for each cell."""
    RMVE.setup_anndata(cells)
    model = RMVE(cells, n_components=3)
    with unchanged(cells), pytest.raises(ValueError, match=message):
        model.train(max_epochs=1, start=start)


def test_fewer_components_than_labels(cells):
    """Each label needs a component."""
    RMVE.setup_anndata(cells, labels_key="cell_type")
    with pytest.raises(ValueError, match="`n_components=2` is less than the 3 labels in `labels_key`"):
        RMVE(cells, n_components=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_epochs": 0}, "`max_epochs` must be an integer of at least 1"),
        ({"max_epochs": 1.5}, "`max_epochs`.*1.5"),
        ({"batch_size": 0}, "`batch_size`"),
        ({"batch_size": 1}, "`batch_size`.*at least 2"),
        ({"load_sparse_tensor": True}, "`load_sparse_tensor`"),
        ({"precision": "16-mixed"}, "`precision='16-mixed'`.*'bf16-mixed'"),
        ({"precision": "bf16-true"}, "`precision='bf16-true'`"),
        ({"plan_kwargs": {"compile": True}}, "`compile=True`"),
    ],
)
def test_train_refuses(cells, unchanged, options, message):
    """Arguments of train are checked before anything happens."""
    RMVE.setup_anndata(cells)
    model = RMVE(cells, n_components=2)
    with unchanged(cells), pytest.raises(ValueError, match=message):
        model.train(**options)
    assert not model.is_trained


def test_a_single_cell_cannot_be_trained_on(make_cells):
    """One cell is refused before training, where batch normalisation would fail."""
    adata = make_cells(n_cells=1)
    RMVE.setup_anndata(adata)
    model = RMVE(adata, n_components=1)
    with pytest.raises(ValueError, match="at least two cells"):
        model.train(max_epochs=1)


def test_shorten():
    """Long lists of names are cut, with their length."""
    names = [f"g{i}" for i in range(7)]
    assert shorten(names) == "'g0', 'g1', 'g2', 'g3', 'g4', ... (7 in all)"
    assert shorten(names[:2]) == "'g0', 'g1'"
