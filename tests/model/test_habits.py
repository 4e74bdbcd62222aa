"""What users do between the calls: another set-up, a stop in the midst, another folder; never a stale or a wrong result."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from lightning.pytorch.callbacks import Callback
from scvi.model import SCVI

from rmve import RMVE
from rmve.clusters import initialization

SIZES = {"n_latent": 3, "n_hidden": 8, "n_layers": 1}
QUICK = {"max_epochs": 2, "quiet": True}


class At(Callback):
    """Calls a function when a mini-batch begins."""

    def __init__(self, step: int, act):
        self.step, self.act = step, act

    def on_train_batch_start(self, trainer, plan, batch, batch_idx):
        if trainer.global_step == self.step:
            self.act()


def fail():
    """A fault of the user's own."""
    raise ZeroDivisionError("user")


# ------------------------------------------------------- notes of scvi-tools


def other_model(adata: AnnData) -> None:
    """Another tool of scvi-tools is set up, with other columns."""
    SCVI.setup_anndata(adata, batch_key="donor", labels_key="donor", continuous_covariate_keys=["size_factor"])


def other_set_up(adata: AnnData) -> None:
    """So is RMVE, for another model."""
    RMVE.setup_anndata(adata, batch_key="donor")


def without_notes(adata: AnnData) -> None:
    """A table of cells that is made anew does not have what scvi-tools noted in it."""
    adata.obs = adata.obs[[name for name in adata.obs if not name.startswith("_scvi")]].copy()
    del adata.obsm["_scvi_extra_continuous_covs"]


def overwritten(adata: AnnData) -> None:
    """Somebody writes over the notes."""
    adata.obs["_scvi_batch"] = 1 - adata.obs["_scvi_batch"]
    adata.obs["_scvi_labels"] = 0
    adata.obsm["_scvi_extra_continuous_covs"] *= 0


def in_another_order(adata: AnnData) -> None:
    """Categories in another order are numbered in another way by whoever looks at them next."""
    for name in ("batch", "cell_type"):
        adata.obs[name] = adata.obs[name].cat.reorder_categories(adata.obs[name].cat.categories[::-1])
    without_notes(adata)


def without_uns(adata: AnnData) -> None:
    """All of ``uns`` is gone."""
    adata.uns.clear()
    overwritten(adata)


SETUP = {"batch_key": "batch", "labels_key": "cell_type", "continuous_covariate_keys": ["age"]}
BETWEEN = pytest.mark.parametrize(
    "act", [other_model, other_set_up, without_notes, overwritten, in_another_order, without_uns]
)


def results(model: RMVE) -> list[np.ndarray]:
    """What depends on labels, batches and covariates."""
    torch.manual_seed(0)
    return [
        model.predict(soft=True).to_numpy(),
        np.asarray(model.get_reconstruction_error()["reconstruction_loss"]),
        model.get_normalized_expression(n_samples=1, return_mean=True).to_numpy(),
    ]


@pytest.fixture
def with_columns(make_cells):
    """A model that is told of batches, labels and a covariate, trained or not; the same each time."""

    def build(train: bool = True) -> RMVE:
        adata = make_cells(n_batches=2)
        RMVE.setup_anndata(adata, **SETUP)
        torch.manual_seed(0)
        model = RMVE(adata, encode_covariates=True, **SIZES)
        torch.manual_seed(1)
        if train:
            model.train(**QUICK)
        return model

    return build


@BETWEEN
@pytest.mark.usefixtures("fixed_seed")
def test_notes_change_after_training(with_columns, act):
    """What the model reads is what it was set up with, whatever stands in the notes of scvi-tools."""
    model = with_columns()
    expected = results(model)
    act(model.adata)
    for value, now in zip(expected, results(model), strict=True):
        np.testing.assert_array_equal(now, value)


@BETWEEN
@pytest.mark.usefixtures("fixed_seed")
def test_notes_change_before_training(with_columns, act):
    """The labels, batches and covariates that are learned are those of the set-up."""
    expected = with_columns()
    model = with_columns(train=False)
    act(model.adata)
    torch.manual_seed(1)
    model.train(**QUICK)
    pd.testing.assert_frame_equal(model.predict(soft=True), expected.predict(soft=True))


# ------------------------------------------------------------ stopped runs


@pytest.fixture
def trained(cells) -> RMVE:
    """A model of three components that may be spoilt."""
    RMVE.setup_anndata(cells)
    torch.manual_seed(0)
    model = RMVE(cells, n_components=3, **SIZES)
    model.train(**QUICK)
    return model


@pytest.mark.usefixtures("fixed_seed")
def test_an_error_in_further_training(trained):
    """The model can be used: without dropout, and with the statistics of batch normalisation that it has learned."""
    with pytest.raises(ZeroDivisionError, match="user"):
        trained.train(**QUICK, callbacks=[At(3, fail)])
    first, second = trained.predict(soft=True), trained.predict(soft=True)
    pd.testing.assert_frame_equal(first, second)
    assert not trained.module.training


def press_twice():
    """Ctrl-C, and again before the mini-batch is over."""
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)


def interrupt():
    """What a debugger, or a widget of a notebook, may do."""
    raise KeyboardInterrupt


@pytest.mark.parametrize("act", [press_twice, interrupt])
def test_a_hard_stop_is_an_interrupt(trained, act):
    """It ends the call, not the process, and the next Ctrl-C is heard."""
    with pytest.raises(KeyboardInterrupt):
        trained.train(**QUICK, callbacks=[At(3, act)])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert len(trained.predict()) == 240
    trained.train(**QUICK)


def test_a_stop_in_the_preparation(cells, monkeypatch):
    """A model that was stopped before its first epoch is not trained, and can be."""
    RMVE.setup_anndata(cells)
    model = RMVE(cells, n_components=3, **SIZES)
    with monkeypatch.context() as context:
        context.setattr(initialization, "principal_components", lambda *args: interrupt())
        with pytest.raises(KeyboardInterrupt):
            model.train(**QUICK)
    with pytest.raises(RuntimeError, match="not trained"):
        model.predict()
    model.train(**QUICK)
    assert len(model.predict()) == 240


def test_another_folder_during_the_run(cells, tmp_path, monkeypatch):
    """A relative path is that of the moment in which it was given."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    RMVE.setup_anndata(cells)
    RMVE(cells, n_components=3, **SIZES).train(
        **QUICK, checkpoint_dir="run", callbacks=[At(3, lambda: os.chdir(tmp_path / "elsewhere"))]
    )
    assert not list((tmp_path / "elsewhere").iterdir())
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"model.pt", "model.json"}


def test_quiet_runs_in_threads(make_cells):
    """What is silenced is heard again when the last of several runs is over, in whatever order they end."""
    logger, stdout, filters = logging.getLogger("lightning.pytorch"), sys.stdout, list(warnings.filters)
    level, in_first, in_second = logger.level, threading.Event(), threading.Event()

    def first(at: int) -> None:
        in_first.set()
        in_second.wait(20)

    def second(at: int) -> None:
        in_second.set()
        ended.wait(20)

    ended = threading.Event()
    runs = []
    for act in (first, second):
        adata = make_cells(n_cells=60)
        RMVE.setup_anndata(adata)
        model = RMVE(adata, n_components=3, **SIZES)
        runs.append(threading.Thread(target=model.train, kwargs=QUICK | {"callbacks": [At(0, lambda act=act: act(0))]}))
    runs[0].start()
    in_first.wait(20)
    runs[1].start()
    runs[0].join(60)
    ended.set()
    runs[1].join(60)
    assert sys.stdout is stdout
    assert logger.level == level
    assert warnings.filters == filters


def test_categories_without_cells(make_cells, fit, tmp_path):
    """A type or batch that no cell has, left over from a larger data set, is nothing that a model could learn."""
    cells = make_cells(n_batches=2)
    for key in ("cell_type", "batch"):
        cells.obs[key] = cells.obs[key].astype("category").cat.add_categories("left over")
    before = {key: cells.obs[key].cat.categories.tolist() for key in ("cell_type", "batch")}
    model = fit(cells, {"labels_key": "cell_type", "batch_key": "batch", "layer": "counts"}, epochs=2)
    assert {key: cells.obs[key].cat.categories.tolist() for key in before} == before
    assert "left over" not in model.cluster_names_
    assert len(model.cluster_names_) == cells.obs["cell_type"].nunique()
    new = make_cells(n_batches=2, seed=1)
    new.obs["batch"] = "left over"
    with pytest.raises(ValueError, match="unseen in training: 'left over'"):
        model.predict(new)
    model.save(tmp_path / "model")
    pd.testing.assert_series_equal(RMVE.load(tmp_path / "model", adata=cells).predict(), model.predict())
