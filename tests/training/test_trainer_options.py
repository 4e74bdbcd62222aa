"""Options of a run: what cannot work is refused before the preparation, and nothing is ignored in silence."""

from __future__ import annotations

import numpy as np
import pytest
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from rmve import RMVE


@pytest.fixture
def untrained(cells) -> RMVE:
    """A model that can be trained."""
    RMVE.setup_anndata(cells, layer="counts")
    return RMVE(cells, n_components=3, n_latent=3, n_hidden=8, n_layers=1)


ROWS = np.arange(240)
REFUSED = [
    # names that belong to RMVE's own methods, or to parts of the libraries that it does without
    {"resumed": True},
    {"fit": {}},
    {"folder": "x"},
    {"self": 3},
    {"fast_dev_run": True},
    {"enable_checkpointing": True},
    {"num_sanity_val_steps": 3},
    {"learning_rate_monitor": True},
    {"overfit_batches": 1},
    {"datamodule": 3},
    {"ckpt_path": "/nonexistent"},
    {"log_save_dir": "logs"},
    {"plan_config": {"lr": 3}},
    {"trainer_config": {"max_steps": 3}},
    {"use_distributed_sampler": True},
    {"limit_test_batches": 3},
    # values
    {"limit_train_batches": 0},
    {"limit_train_batches": 0.0},
    {"limit_train_batches": -1},
    {"limit_train_batches": 1e-9},
    {"limit_train_batches": 1.5},
    {"limit_train_batches": True},
    {"limit_val_batches": 0},
    {"accumulate_grad_batches": 0},
    {"accumulate_grad_batches": 1.5},
    {"gradient_clip_val": -1},
    {"gradient_clip_val": float("nan")},
    {"gradient_clip_val": "1"},
    {"gradient_clip_algorithm": "other"},
    {"check_val_every_n_epoch": 0},
    {"min_epochs": -1},
    {"callbacks": 3},
    {"callbacks": Callback()},
    {"callbacks": [3]},
    {"logger": "x"},
    {"strategy": "abacus"},
    {"strategy": 3},
    {"num_nodes": 0},
    {"deterministic": "maybe"},
    {"enable_progress_bar": "no"},
    {"detect_anomaly": 3},
    {"default_root_dir": 3},
    {"early_stopping": "yes"},
    {"early_stopping_patience": 3},
    {"early_stopping": True, "early_stopping_patience": 0},
    {"early_stopping": True, "early_stopping_monitor": "nothing"},
    {"early_stopping": True, "early_stopping_mode": "least"},
    {"early_stopping": True, "early_stopping_min_delta": -1},
    {"early_stopping": True, "early_stopping_warmup_epochs": -1},
    {"quiet": "no"},
    {"shuffle_set_split": "no"},
    {"checkpoint_every": 5},
    {"min_epochs": 10},
    {"gradient_clip_algorithm": "norm"},
    {"accelerator": "cpu", "devices": 2},
    {"num_nodes": 2},
    {"max_time": "soon"},
    {"max_time": "00:00:00:00"},
    {"max_time": {"seconds": 0}},
    {"plugins": 3},
    {"profiler": "x"},
    {"callbacks": [ModelCheckpoint()]},
    {"callbacks": [EarlyStopping("elbo_validation")]},
    # what needs validation cells, where there are none
    {"limit_val_batches": 3},
    {"check_val_every_n_epoch": 2},
    {"early_stopping": True, "limit_val_batches": 0.001},
    {"early_stopping": True, "datasplitter_kwargs": {"external_indexing": [ROWS]}},
    {"train_size": 0.5, "datasplitter_kwargs": {"external_indexing": [ROWS[:200], ROWS[200:]]}},
    {"validation_size": 0.5, "datasplitter_kwargs": {"external_indexing": [ROWS[:200], ROWS[200:]]}},
    # parts
    {"plan_kwargs": {"lr": float("inf")}},
    {"plan_kwargs": {"view": 3}},
    {"plan_kwargs": {"repulsion_moves": "yes"}},
    {"plan_kwargs": {"module": 3}},
    {"plan_kwargs": {"data": 3}},
    {"datasplitter_kwargs": 3},
    {"datasplitter_kwargs": {"nonsense": 3}},
    {"datasplitter_kwargs": {"shuffle": 3}},
    {"datasplitter_kwargs": {"drop_last": True}},
    {"datasplitter_kwargs": {"as_counts": False}},
    {"datasplitter_kwargs": {"num_workers": -1}},
    {"datasplitter_kwargs": {"pin_memory": "yes"}},
    {"datasplitter_kwargs": {"external_indexing": 3}},
    {"datasplitter_kwargs": {"external_indexing": []}},
    {"datasplitter_kwargs": {"external_indexing": [ROWS[:200]]}},
    {"datasplitter_kwargs": {"external_indexing": [ROWS, ROWS[:9]]}},
    {"datasplitter_kwargs": {"external_indexing": [ROWS + 1]}},
    {"datasplitter_kwargs": {"external_indexing": [ROWS.astype(float)]}},
    {"datasplitter_kwargs": {"external_indexing": [ROWS[:1], ROWS[1:]]}},
]


@pytest.mark.parametrize("options", REFUSED, ids=lambda options: "-".join(options))
def test_refused_before_the_preparation(untrained, options):
    """The error is RMVE's own and names the option, or what it belongs to."""
    with pytest.raises((TypeError, ValueError)) as caught:
        untrained.train(**({"max_epochs": 1} | options))
    name, value = next(reversed(options.items()))
    assert any(word in str(caught.value) for word in (name, *(value if isinstance(value, dict) else ())))
    assert not untrained.is_trained_
    assert untrained.starting_partition_ is None


@pytest.mark.parametrize(
    "options",
    [
        {"limit_train_batches": 2},
        {"limit_train_batches": 0.5},
        {"accumulate_grad_batches": 2},
        {"gradient_clip_val": 1.0, "gradient_clip_algorithm": "norm"},
        {"early_stopping": True, "early_stopping_monitor": "validation_loss", "check_val_every_n_epoch": 2},
        {"deterministic": "warn", "benchmark": False, "min_epochs": 1, "detect_anomaly": True},
        {"callbacks": [], "logger": None, "profiler": None, "max_time": "00:01:00:00", "strategy": "auto"},
        {"datasplitter_kwargs": {"external_indexing": [ROWS[:200], ROWS[200:]], "num_workers": 0}},
    ],
    ids=str,
)
def test_honoured(untrained, options):
    """What passes the check also works."""
    untrained.train(max_epochs=2, batch_size=64, enable_progress_bar=False, **options)
    assert untrained.is_trained
    assert untrained.trainer.global_step > 0


def test_another_logger(untrained, tmp_path):
    """A logger of the user's own gets what is logged, with checkpoints, too."""
    logger = CSVLogger(tmp_path / "logs")
    untrained.train(
        max_epochs=2, batch_size=64, enable_progress_bar=False, logger=logger, checkpoint_dir=tmp_path / "run"
    )
    assert RMVE.load(tmp_path / "run", adata=untrained.adata).is_trained
    assert list((tmp_path / "logs").rglob("metrics.csv"))
