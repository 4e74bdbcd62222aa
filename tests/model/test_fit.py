"""Long work: a run that is stopped, killed or spoilt leaves a usable model, and goes on where it was."""

from __future__ import annotations

import errno
import logging
import pickle
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from rmve import RMVE
from rmve._files import locked
from rmve.training._callbacks import TRAINER_FILE, list_epochs

SIZES = {"n_components": 3, "n_latent": 4, "n_hidden": 16, "n_layers": 1}
QUICK = {"max_epochs": 6, "batch_size": 64, "enable_progress_bar": False}

#: Trains in a process of its own and kills it, as `kill -9` does, after a number of mini-batches, or in the midst of
#: writing a checkpoint.
KILLED = """
import os, signal, sys
import anndata, torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from rmve import RMVE

data, folder, when, options, sizes = sys.argv[1], sys.argv[2], int(sys.argv[3]), eval(sys.argv[4]), eval(sys.argv[5])

class Kill(Callback):
    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == when:
            os.kill(os.getpid(), signal.SIGKILL)

if when < 0:
    def kill(self, path, *args, **kwargs):
        if self.current_epoch == -when:
            path.write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        save(self, path, *args, **kwargs)
    save, Trainer.save_checkpoint = Trainer.save_checkpoint, kill

adata = anndata.read_h5ad(data)
RMVE.setup_anndata(adata, layer="counts")
torch.manual_seed(0)
RMVE(adata, **sizes).train(checkpoint_dir=folder, callbacks=[Kill()], **options)
"""


@pytest.fixture
def untrained(cells) -> RMVE:
    """A small model, not trained yet."""
    RMVE.setup_anndata(cells, layer="counts")
    torch.manual_seed(0)
    return RMVE(cells, **SIZES)


@pytest.fixture
def killed_run(cells, tmp_path):
    """Start a run in another process, which kills itself."""

    def run(when: int, **options) -> Path:
        cells.write_h5ad(tmp_path / "cells.h5ad")
        folder, options = tmp_path / "run", QUICK | options
        command = [sys.executable, "-c", KILLED, str(tmp_path / "cells.h5ad"), str(folder), str(when)]
        ended = subprocess.run([*command, repr(options), repr(SIZES)], capture_output=True, text=True)
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        return folder

    return run


class At(Callback):
    """Calls a function after a number of mini-batches."""

    def __init__(self, step: int, act):
        self.step, self.act = step, act

    def on_train_batch_start(self, trainer, plan, batch, batch_idx):
        if trainer.global_step == self.step:
            self.act(plan)


def spoil_weights(plan):
    """Make the next mini-batch's loss NaN."""
    with torch.no_grad():
        plan.module.x_head.bias[0] = torch.nan


def interrupt(plan):
    """Press Ctrl-C."""
    signal.raise_signal(signal.SIGINT)


# ---------------------------------------------------------------- resumed runs


@pytest.mark.parametrize(
    "options", [{}, {"early_stopping": True, "shuffle_set_split": False}], ids=["all cells", "with validation"]
)
def test_a_killed_run_goes_on_as_if_nothing_had_happened(untrained, cells, killed_run, options):
    """Weights, history, split and clusters are those of a run that was never stopped, to the last digit."""
    untrained.train(**QUICK, **options)
    folder = killed_run(14, **options)  # in the fourth epoch
    assert [path.name for path in list_epochs(folder)] == ["epoch_3"]
    again = cells.copy()
    resumed = RMVE.resume(folder, again, quiet=True)
    pd.testing.assert_frame_equal(resumed.predict(soft=True), untrained.predict(soft=True))
    pd.testing.assert_frame_equal(resumed.get_resolutions(), untrained.get_resolutions())
    for name, value in untrained.module.state_dict().items():
        torch.testing.assert_close(resumed.module.state_dict()[name], value, rtol=0, atol=0)
    assert set(resumed.history) == set(untrained.history)
    for name, frame in untrained.history.items():
        np.testing.assert_allclose(resumed.history[name].to_numpy(float), frame.to_numpy(float), rtol=1e-6)
        assert list(resumed.history[name].index) == list(frame.index)
    np.testing.assert_array_equal(np.sort(resumed.train_indices_), np.sort(untrained.train_indices_))
    assert {path.name for path in folder.iterdir()} == {"model.pt", "model.json"}


def test_killed_while_a_checkpoint_is_written(untrained, cells, killed_run):
    """A half-written checkpoint is not taken for a whole one."""
    untrained.train(**QUICK)
    folder = killed_run(-4)
    assert [path.name for path in list_epochs(folder)] == ["epoch_3"]
    assert list(folder.glob(".*"))  # what was half-written
    resumed = RMVE.resume(folder, cells.copy(), quiet=True)
    pd.testing.assert_frame_equal(resumed.predict(soft=True), untrained.predict(soft=True))
    assert {path.name for path in folder.iterdir()} == {"model.pt", "model.json"}


def test_killed_before_the_first_checkpoint(cells, untrained, killed_run):
    """There is nothing to go on from; the folder can be used again."""
    folder = killed_run(2)
    with pytest.raises(FileNotFoundError, match="stopped before its first checkpoint"):
        RMVE.resume(folder, cells)
    untrained.train(checkpoint_dir=folder, **QUICK)
    assert RMVE.load(folder, adata=cells).is_trained


def test_a_checkpoint_is_a_model(cells, killed_run):
    """It can be loaded, predicts, and knows its history and split."""
    folder = killed_run(14)
    model = RMVE.load(folder / "epoch_3", adata=cells)
    assert model.predict().nunique() > 3  # its small clusters, until a level is asked for
    assert model.merge_components(3).nunique() == 3
    assert len(model.history["train_loss"]) == 3
    assert len(model.train_indices_) == 240
    model.annotate()


def test_resume_after_the_end(untrained, cells, tmp_path):
    """A finished run is loaded: a script may always call `resume`."""
    untrained.train(checkpoint_dir=tmp_path / "run", **QUICK)
    resumed = RMVE.resume(tmp_path / "run", cells.copy())
    pd.testing.assert_frame_equal(resumed.predict(soft=True), untrained.predict(soft=True))


def test_second_training_resumed(untrained, cells, tmp_path):
    """Further training of a trained model can be resumed as well; its history is numbered on."""
    untrained.train(**QUICK)
    with pytest.raises(KeyboardInterrupt):
        untrained.train(checkpoint_dir=tmp_path / "run", callbacks=[At(14, interrupt)], **QUICK)
    checkpoint = RMVE.load(list_epochs(tmp_path / "run")[-1], adata=cells.copy())
    tree, checkpoint.tree_ = checkpoint.get_merge_tree(), None
    pd.testing.assert_frame_equal(checkpoint.get_merge_tree(), tree)  # of these weights, not of the first training's
    resumed = RMVE.resume(tmp_path / "run", cells.copy(), quiet=True)
    assert list(resumed.history["train_loss"].index) == list(range(12))


def test_positions_are_learned_on(cells, tmp_path):
    """What a run knows of positions, and which are held out, is in its checkpoint."""

    def run(**options) -> RMVE:
        adata = cells.copy()
        RMVE.setup_anndata(adata, layer="counts", spatial_key="spatial")
        torch.manual_seed(0)
        model = RMVE(adata, **SIZES)
        model.train(**QUICK, **options)
        return model

    straight = run()
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint_dir=tmp_path, callbacks=[At(14, interrupt)])
    resumed = RMVE.resume(tmp_path, cells.copy(), quiet=True)
    pd.testing.assert_frame_equal(resumed.map_to_space(), straight.map_to_space())


def test_checkpoint_every(untrained, tmp_path):
    """Checkpoints are written as often as asked for, and only the last is kept."""
    with pytest.raises(KeyboardInterrupt):
        untrained.train(checkpoint_dir=tmp_path, checkpoint_every=2, callbacks=[At(21, interrupt)], **QUICK)
    assert [path.name for path in list_epochs(tmp_path)] == ["epoch_4"]


def test_functions_are_given_again(untrained, cells, tmp_path):
    """A file holds no function: the error says which to give."""
    plan = {"view_weight": 1.0, "view": lambda x: x}
    with pytest.raises(KeyboardInterrupt):
        untrained.train(checkpoint_dir=tmp_path, callbacks=[At(9, interrupt)], plan_kwargs=plan, **QUICK)
    with pytest.raises(ValueError, match="cannot hold functions: give `plan_kwargs` with 'view'"):
        RMVE.resume(tmp_path, cells)
    assert RMVE.resume(tmp_path, cells.copy(), quiet=True, plan_kwargs={"view": plan["view"]}).is_trained


@pytest.fixture
def stopped(untrained, tmp_path) -> Path:
    """Folder of a run that was stopped in its third epoch."""
    with pytest.raises(KeyboardInterrupt):
        untrained.train(checkpoint_dir=tmp_path / "run", callbacks=[At(9, interrupt)], **QUICK)
    return tmp_path / "run"


def test_other_cells_are_refused(stopped, cells, make_cells):
    """A run goes on with its own cells in their order."""
    changed = cells.copy()
    for values in (changed.X, changed.layers["counts"]):
        values.data[-1] += 1
    for other in (make_cells(n_cells=239), cells[::-1].copy(), changed):
        with pytest.raises(ValueError, match="does not hold the cells of the run"):
            RMVE.resume(stopped, other)


@pytest.mark.parametrize("form", ["dense", "float64", "on disk"])
def test_cells_that_are_stored_otherwise(stopped, cells, tmp_path, form):
    """The same values are the same cells."""
    other = cells.copy()
    for key in (None, "counts"):
        x = other.layers[key] if key else other.X
        x = x.toarray() if form == "dense" else x.astype(np.float64)
        other.X, other.layers[key or "more"] = (other.X, x) if key else (x, x)
    if form == "on disk":
        other.write_h5ad(tmp_path / "cells.h5ad")
        other = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    assert RMVE.resume(stopped, other, quiet=True).is_trained


def test_a_run_is_not_overwritten(stopped, untrained, saved):
    """Neither checkpoints nor a model in the folder are lost by a new run."""
    with pytest.raises(FileExistsError, match="another run.*RMVE.resume"):
        untrained.train(checkpoint_dir=stopped, **QUICK)
    with pytest.raises(FileExistsError, match="holds a saved model"):
        untrained.train(checkpoint_dir=saved, **QUICK)


def test_resume_needs_a_run(cells, tmp_path):
    """A folder without a run is named."""
    with pytest.raises(FileNotFoundError, match="holds no run of `RMVE.train"):
        RMVE.resume(tmp_path, cells)


@pytest.mark.parametrize("name", ["run.pt", f"epoch_2/{TRAINER_FILE}", "epoch_2/model.pt"])
def test_code_in_a_checkpoint_is_not_run(stopped, cells, tmp_path, name, malicious):
    """No file of a checkpoint is unpickled."""
    harmful, target = malicious
    (stopped / name).write_bytes(pickle.dumps(harmful))
    with pytest.raises(ValueError, match="does not hold a model saved"):
        RMVE.resume(stopped, cells)
    torch.save({"state_dict": harmful}, stopped / name)
    with pytest.raises(ValueError, match="does not hold a model saved"):
        RMVE.resume(stopped, cells)
    assert not target.exists()


def test_a_checkpoint_that_cannot_be_written(untrained, cells, tmp_path, monkeypatch):
    """The run ends, the model keeps what it has learned, and goes on from the checkpoint before once there is room."""
    written, original = [], Path.write_bytes

    def write(path, content):
        written.extend([path] * (path.name == TRAINER_FILE))
        if len(written) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(path, content)

    with monkeypatch.context() as context:
        context.setattr(Path, "write_bytes", write)
        with pytest.raises(OSError, match="a checkpoint could not be written.*No space left.*RMVE.resume"):
            untrained.train(checkpoint_dir=tmp_path / "run", **QUICK)
    assert untrained.is_trained
    assert len(untrained.predict()) == 240
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"run.pt", "epoch_1"}
    assert len(RMVE.resume(tmp_path / "run", cells.copy(), quiet=True).history["train_loss"]) == 6


def test_nothing_is_written_elsewhere(untrained, tmp_path, monkeypatch):
    """Neither in the folder of temporary files nor where the process is."""
    for name in ("elsewhere", "here"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "elsewhere"))
    monkeypatch.chdir(tmp_path / "here")
    seen = []

    def look(plan):
        seen.append([path.name for path in (tmp_path / "elsewhere").iterdir()])

    untrained.train(checkpoint_dir=tmp_path / "run", callbacks=[At(9, look)], **QUICK)
    assert seen == [[]]
    assert not list((tmp_path / "here").iterdir())


def test_one_run_in_a_folder(untrained, tmp_path):
    """A folder that another run writes into is refused before the preparation; so is one that cannot be made."""
    (tmp_path / "run").mkdir()
    with locked(tmp_path / "run"), pytest.raises(BlockingIOError, match="Another process is writing into"):
        untrained.train(checkpoint_dir=tmp_path / "run", **QUICK)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        untrained.train(checkpoint_dir=tmp_path / "file" / "run", **QUICK)
    assert untrained.starting_partition_ is None


def test_one_resumed_run_in_a_folder(stopped, cells):
    """The same for a run that goes on."""
    with locked(stopped), pytest.raises(BlockingIOError, match="Another process is writing into"):
        RMVE.resume(stopped, cells, quiet=True)


def test_killed_when_all_was_done(stopped, untrained, cells):
    """A checkpoint that is left beside the model of a finished run is cleared away."""
    (stopped / "run.pt").unlink()
    untrained.train(**QUICK)
    untrained.save(stopped, overwrite=True)
    assert list_epochs(stopped)
    assert RMVE.resume(stopped, cells.copy()).is_trained
    assert {path.name for path in stopped.iterdir()} == {"model.pt", "model.json"}


# ------------------------------------------------------------------- stopping


def test_ctrl_c_leaves_a_usable_model(untrained):
    """The run ends after the mini-batch, says what was kept, and Ctrl-C means again what it meant."""
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match="interrupted in epoch 3 of 6. The model keeps what it has learned"):
        untrained.train(callbacks=[At(9, interrupt)], **QUICK)
    assert signal.getsignal(signal.SIGINT) is before
    assert untrained.trainer.global_step == 10
    assert untrained.is_trained
    untrained.annotate()
    untrained.train(**QUICK)


def test_ctrl_c_names_the_checkpoint(untrained, tmp_path):
    """Whoever wrote checkpoints is told how to go on."""
    with pytest.raises(KeyboardInterrupt, match=r"RMVE\.resume\(.*run.*, adata\)` goes on"):
        untrained.train(checkpoint_dir=tmp_path / "run", callbacks=[At(9, interrupt)], **QUICK)


def test_second_ctrl_c_does_not_wait(untrained):
    """Pressed twice in one mini-batch, it stops at once."""

    def twice(plan):
        interrupt(plan)
        interrupt(plan)

    with pytest.raises((KeyboardInterrupt, SystemExit)):
        untrained.train(callbacks=[At(9, twice)], **QUICK)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning's own answer ignores it from then on
    assert not untrained.is_trained


def test_ignored_ctrl_c_stays_ignored(untrained):
    """A job in the background, which ignores Ctrl-C, runs to its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        untrained.train(callbacks=[At(9, interrupt)], **QUICK)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    assert untrained.trainer.current_epoch == 6


def test_not_a_number_stops_and_keeps_the_last_good_weights(untrained):
    """The error names the term and the epoch; the weights are those at the end of the epoch before."""
    good = {}

    class Keep(Callback):
        def on_train_epoch_end(self, trainer, plan):
            if trainer.current_epoch == 1:
                good.update({name: value.clone() for name, value in plan.module.state_dict().items()})

    message = r"epoch 3 of 6: the loss is not finite: the reconstruction.*keeps the weights from before.*`gradient_clip"
    with pytest.raises(RuntimeError, match=message):
        untrained.train(callbacks=[At(9, spoil_weights), Keep()], **QUICK)
    for name, value in untrained.module.state_dict().items():
        torch.testing.assert_close(value, good[name], rtol=0, atol=0)
    assert untrained.is_trained
    assert untrained.predict(soft=True).notna().all(axis=None)


def test_not_a_number_in_the_first_epoch(untrained):
    """Without a good epoch the model is not trained, and can be trained anew."""
    with pytest.raises(RuntimeError, match="epoch 1 of 6.*It is not trained"):
        untrained.train(callbacks=[At(1, spoil_weights)], **QUICK)
    assert not untrained.is_trained
    untrained.train(**QUICK)
    assert untrained.is_trained


def test_bad_gradient_is_no_step(untrained):
    """A finite loss with an infinite gradient changes no weight, and the parameter is named."""

    def spoil(plan):
        plan.module.x_head.bias.register_hook(lambda gradient: gradient * torch.inf)

    with pytest.raises(RuntimeError, match="epoch 3 of 6: the gradient of x_head.bias is not finite"):
        untrained.train(callbacks=[At(9, spoil)], **QUICK)
    assert all(value.isfinite().all() for value in untrained.module.state_dict().values())


def test_the_cells_of_a_bad_loss_are_named(untrained):
    """A few cells whose loss is not finite are counted, with the row of the first."""

    def spoil(plan):
        likelihood = plan.module.log_likelihood

        def infinite(x, parameters):
            value = likelihood(x, parameters).clone()
            value[..., 3] = -torch.inf
            return value

        plan.module.log_likelihood = infinite

    with pytest.raises(RuntimeError, match=r"the reconstruction of 1 cell\(s\), the first in row \d+\."):
        untrained.train(callbacks=[At(9, spoil)], **QUICK)


def test_further_training_uses_dropout(untrained):
    """A trained model is in evaluation mode; training it again is training."""
    modes = []
    untrained.train(**QUICK)
    untrained.train(callbacks=[At(1, lambda plan: modes.append(plan.module.training))], **QUICK)
    assert modes == [True]
    assert not untrained.module.training


# -------------------------------------------------------------- early stopping


def test_early_stopping_waits_for_the_warm_ups(untrained):
    """Until every strength has its value, no epoch counts as one without improvement."""
    stops = {"max_epochs": 20, "early_stopping_patience": 1, "early_stopping_min_delta": 1e6}
    plan = {"warmup_fraction": 0.3, "neighbor_ramp_fraction": 0.4, "repulsion_ramp_fraction": 0.6}
    untrained.train(**(QUICK | stops), early_stopping=True, plan_kwargs=plan)
    # 0.3 are held, then 0.6 of the rest is ramps: 14.4 epochs; the next is the first that counts, the one after stops
    assert len(untrained.history["train_loss"]) == 17
    assert untrained.trainer.early_stopping_callback.monitor == "elbo_validation"


def test_early_stopping_warmup_can_be_given(untrained):
    """A user's own number of epochs to wait is taken."""
    stops = {"max_epochs": 20, "early_stopping_patience": 1, "early_stopping_min_delta": 1e6}
    untrained.train(**(QUICK | stops), early_stopping=True, early_stopping_warmup_epochs=2)
    assert len(untrained.history["train_loss"]) == 4


def test_early_stopping_patience_is_a_share_of_the_run(untrained):
    """A tenth of the epochs, and at least five."""
    untrained.train(**QUICK, early_stopping=True)
    assert untrained.trainer.early_stopping_callback.patience == 5


def test_early_stopping_needs_validation_cells(untrained):
    """Without validation cells there is nothing to stop on."""
    with pytest.raises(ValueError, match="`early_stopping` needs validation cells.*`train_size`"):
        untrained.train(**QUICK, early_stopping=True, train_size=1.0)


# --------------------------------------------------------------------- silence


def test_quiet(untrained, capsys, recwarn):
    """A quiet run shows nothing, and leaves loggers as they were."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    untrained.train(max_epochs=2, quiet=True, early_stopping=True, early_stopping_patience=1)
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "")
    assert not [str(warning.message) for warning in recwarn]
    assert logger.level == level


def test_progress_bar(untrained, capsys):
    """The progress bar counts epochs."""
    untrained.train(max_epochs=2, batch_size=64)
    assert "Epoch 2/2" in "".join(capsys.readouterr())


def test_no_hint_about_workers(untrained, recwarn):
    """Lightning's advice to add workers, which makes training slower, is not shown."""
    untrained.train(**QUICK)
    assert not [warning for warning in recwarn if "workers" in str(warning.message)]
