"""A run of training from its start, or from a checkpoint, to a usable model, whatever ends it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_only
from scvi import settings
from scvi.data import AnnDataManager

from rmve._compat import SETUP_ARGS_KEY, SimpleLogger, use_distributed_sampler
from rmve._files import claim, remove_folder, sha256_of
from rmve._serialization import JSON_FILE, not_a_model, read_file, read_tensors, write_model
from rmve.model._fingerprint import fingerprint
from rmve.model._run_file import RUN_FILE, Run, repeated_options
from rmve.module import RMVEModule
from rmve.training._callbacks import (
    TRAINER_FILE,
    Checkpoints,
    SafeStop,
    TrainerState,
    check_state,
    interruptible,
    list_epochs,
    silence,
    without_output,
)

#: Warning before the training of a query that can move no cell.
FIXED_EMBEDDING = (
    "Training this query changes neither embedding nor clusters: its encoder is the reference's and does "
    "not read batches. It adapts the decoder, so expression and likelihood. Make the reference with "
    "`encode_covariates=True`, or give `unfrozen=True` to `load_query_data`, to adapt the embedding, too."
)


class TrainingStopped(RuntimeError):
    """The loss or a gradient was not finite."""


@contextlib.contextmanager
def quietly(quiet: bool) -> Iterator[None]:
    """Silence the training libraries, and what they print if ``quiet``; a hard Ctrl-C ends the run alone."""
    with (
        interruptible(),
        silence(quiet),
        without_output() if quiet else contextlib.nullcontext(),
    ):
        yield


def trainer_arguments(
    fit: dict, guard: SafeStop, checkpoints: Checkpoints | None, resumed: bool, quiet: bool
) -> dict[str, object]:
    """Arguments of scvi-tools' ``train`` for a run that stops safely.

    Parameters
    ----------
    fit
        Arguments that the run is made of.
    guard
        Callback that stops the run safely.
    checkpoints
        Callback that writes checkpoints; ``None`` for none.
    resumed
        Whether ``fit`` holds the state to resume from.
    quiet
        Whether to show no progress bar.
    """
    callbacks = [*(fit.get("callbacks") or []), guard]
    fit = {**fit, "callbacks": callbacks if checkpoints is None else [*callbacks, checkpoints]}
    if checkpoints is not None and not resumed:
        fit["plugins"] = [*as_list(fit.get("plugins")), TrainerState()]
    if fit.get("logger") is None:  # with several processes, scvi-tools' own would write a pickle, and read it
        fit["logger"] = SimpleLogger()
    if quiet:
        fit["enable_progress_bar"] = False
    return fit


def checkpoint_writer(
    folder: Path,
    every: int,
    fit: dict,
    guard: SafeStop,
    manager: AnnDataManager,
    module: RMVEModule,
    history: dict[str, pd.DataFrame],
    describe: Callable[..., dict],
    resumed: Run | None,
) -> Checkpoints:
    """Callback that writes the checkpoints of a run.

    Parameters
    ----------
    folder
        Folder of the run.
    every
        Epochs between checkpoints.
    fit
        Arguments that the run is made of.
    guard
        Callback that knows the first epoch of the run.
    manager
        Manager of the training data.
    module
        Networks.
    history
        History before the run.
    describe
        Function that returns all of the model but its weights; keywords replace attributes.
    resumed
        Run that is resumed; ``None`` for a new one.
    """
    digest = None if resumed is None else sha256_of(folder / RUN_FILE)

    def save_run(trainer: Trainer) -> None:
        nonlocal digest
        splitter = trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it and does not declare it
        setup_args = manager.registry[SETUP_ARGS_KEY]
        options, functions = repeated_options(fit | {"checkpoint_every": every})
        split = [np.asarray(rows, dtype=int) for rows in (splitter.train_idx, splitter.val_idx, splitter.test_idx)]
        cells, data = fingerprint(manager.adata, setup_args), fit["plan_kwargs"]["data"]
        digest = Run(options, functions, cells, trainer.world_size, split, data).write(folder)

    def save_model(new: Path, trainer: Trainer) -> None:
        splitter = trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it and does not declare it
        logged = getattr(trainer.logger, "history", {})
        document = describe(
            is_trained_=True,
            history_=continued(history, logged, guard.first),
            train_indices_=splitter.train_idx,
            validation_indices_=splitter.val_idx,
            test_indices_=splitter.test_idx,
        )
        others = {TRAINER_FILE: trainer.save_checkpoint}
        write_model(new, "", module.state_dict(), document | {"run": digest}, others)

    if resumed is not None:
        return Checkpoints(folder, every, save_model, None, resumed.n_processes)
    return Checkpoints(folder, every, save_model, save_run)


def check_checkpoints(checkpoints: Checkpoints, folder: Path) -> None:
    """Raise OSError if a checkpoint could not be written."""
    if checkpoints.failure is not None:
        raise OSError(
            f"Training stopped: a checkpoint could not be written to {str(folder)!r}: {checkpoints.failure}. The model "
            "keeps what it has learned. Make room, and go on from the checkpoint before by "
            f"`RMVE.resume({str(folder)!r}, adata)`."
        ) from checkpoints.failure


def last_checkpoint(folder: Path) -> Path:
    """Folder of the last checkpoint of a run; FileNotFoundError if there is none."""
    epochs = list_epochs(folder)
    if not epochs:
        raise FileNotFoundError(
            f"The run in {str(folder)!r} stopped before its first checkpoint. Start it again with `model.train`."
        )
    return epochs[-1]


def resumed_options(folder: Path, run: Run, plan_kwargs: dict, trainer_kwargs: dict) -> dict[str, Any]:
    """Arguments of ``train`` of a run, with those that were changed.

    Parameters
    ----------
    folder
        Folder of the run.
    run
        Run to resume.
    plan_kwargs, trainer_kwargs
        Options that were given again.

    Raises
    ------
    ValueError
        If functions, devices or the strategy must be given again.
    """
    missing = [name for name in run.functions if name not in plan_kwargs]
    if missing:
        raise ValueError(
            f"A checkpoint cannot hold functions: give `plan_kwargs` with {', '.join(map(repr, missing))} again."
        )
    options = run.options | trainer_kwargs
    if run.n_processes > 1 and not use_distributed_sampler(options.get("strategy")):
        raise ValueError(
            f"The run in {str(folder)!r} had {run.n_processes} processes. Give `devices` and `strategy` again."
        )
    return options | options_of_processes(options.get("strategy"), options["early_stopping"])


def read_trainer_file(folder: Path, checkpoint: Path, digest: str) -> bytes:
    """The trainer's file of a checkpoint; ValueError unless it belongs to the run of a digest."""
    file, document = read_file(checkpoint, "", TRAINER_FILE)
    if document.get("run") != digest:
        raise not_a_model(folder, f"{RUN_FILE!r} was changed, or is not of the run of {checkpoint.name!r}")
    return file


def read_state(checkpoint: Path, file: bytes, run: Run, module: RMVEModule) -> dict:
    """State of the trainer, from the file of a checkpoint.

    Parameters
    ----------
    checkpoint
        Folder of the checkpoint.
    file
        From :func:`read_trainer_file`.
    run
        Run of the checkpoint.
    module
        Networks of the checkpoint.

    Raises
    ------
    ValueError
        If the state does not fit the networks or the cells of the run.
    """
    state = read_tensors(checkpoint, TRAINER_FILE, file, "cpu")
    try:
        check_state(state, module.state_dict(), run.n_processes)
        if {state["assignment"].shape, run.data.start.shape} != {(len(run.data.start), module.n_components)}:
            raise ValueError("the run has other cells than its checkpoint, or another number of components")
    except ValueError as error:
        raise not_a_model(checkpoint, error) from error
    return state


def check_same_cells(folder: Path, run: Run, adata: AnnData, setup_args: dict) -> None:
    """Raise ValueError unless data holds the cells of a run."""
    if len(run.data.start) != adata.n_obs or run.cells != fingerprint(adata, setup_args):
        raise ValueError(
            f"`adata` does not hold the cells of the run in {str(folder)!r}, in their order and with the same values. "
            "Give the same data."
        )


def continued(before: dict[str, pd.DataFrame], new: dict[str, pd.DataFrame], first: int) -> dict[str, pd.DataFrame]:
    """The history of a model after further epochs, numbered on; names that appear late keep the number of their epoch.

    Parameters
    ----------
    before
        History until now.
    new
        What was logged since, by the epoch of the trainer.
    first
        The trainer's first epoch.
    """
    start = max((int(frame.index.max()) + 1 for frame in before.values() if len(frame)), default=first)
    history = dict(before)
    for name, frame in new.items():
        frame = frame.set_axis([int(epoch) - first + start for epoch in frame.index])
        frame.index.name = new[name].index.name
        if name in before:
            frame = pd.concat([before[name], frame])
            frame.index.name = before[name].index.name
        history[name] = frame
    return history


def stopped_error(guard: SafeStop, max_epochs: int, trained: bool, folder: Path | None) -> BaseException:
    """What a run that was stopped raises in the end."""
    place = f"in epoch {min(guard.n_epochs + 1, max_epochs)} of {max_epochs}"
    resume = ""
    if folder is not None and list_epochs(folder):
        resume = f" `RMVE.resume({str(folder)!r}, adata)` goes on from the last checkpoint."
    if guard.failure is None:
        return KeyboardInterrupt(
            f"Training was interrupted {place}. The model keeps what it has learned and can be used, saved or trained "
            f"further.{resume}"
        )
    kept = "The model keeps the weights from before this epoch and can be used." if trained else "It is not trained."
    return TrainingStopped(
        f"Training stopped {place}: {guard.failure}. {kept}{resume} Look for extreme values in the data, lower the "
        "learning rates (`plan_kwargs={'lr': 3e-4, 'mixture_lr': 1e-3}`), or clip gradients (`gradient_clip_val=1.0`)."
    )


# ----------------------------------------------------------------------- files


def check_no_run(folder: Path) -> None:
    """Make a folder for a new run.

    Raises
    ------
    FileExistsError
        If it holds something that the run would spoil.
    OSError
        If it cannot be written to, or another process does.
    """
    if (folder / JSON_FILE).is_file():
        raise FileExistsError(f"{str(folder)!r} holds a saved model. Choose another folder as `checkpoint_dir`.")
    if list_epochs(folder):
        raise FileExistsError(
            f"{str(folder)!r} holds checkpoints of another run. Go on with it by `RMVE.resume({str(folder)!r}, adata)`, "
            "or choose another folder as `checkpoint_dir`."
        )
    claim(folder)


def end_run(folder: Path) -> None:
    """Remove the files of a run that has come to its end; from the first on it cannot be resumed."""
    (folder / RUN_FILE).unlink(missing_ok=True)
    for checkpoint in list_epochs(folder):
        remove_folder(checkpoint)


def options_of_processes(strategy: object, early_stopping: bool) -> dict[str, object]:
    """Options of the trainer for several processes; empty for one.

    Raises
    ------
    ValueError
        If the processes share no seed, or are to stop early.
    """
    if not use_distributed_sampler(strategy):
        return {}
    if settings.seed is None:
        raise ValueError(
            "Training on several devices needs a seed that all processes share: set `scvi.settings.seed = 0` "
            "before the model is made."
        )
    if early_stopping:
        raise ValueError("`early_stopping` does not work on several devices. Leave it out, or train on one.")
    return {"use_distributed_sampler": False}  # RMVE's own sampler shares out the cells


def is_first_process(strategy: object) -> bool:
    """Whether no other process of a run writes before this one: it is the first one, or there are no others."""
    return not use_distributed_sampler(strategy) or not rank_zero_only.rank  # type: ignore[attr-defined]  # set on the function


def as_list(plugins: object) -> list:
    """Plugins of the trainer as a list: none, one or several."""
    if plugins is None:
        return []
    return list(plugins) if isinstance(plugins, list | tuple) else [plugins]
