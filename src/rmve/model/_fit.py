"""A run of training to a usable model, whatever ends it, and its files."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch.distributed as dist
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_only
from scvi import settings

from rmve._compat import SimpleLogger, use_distributed_sampler
from rmve._files import claim, remove_folder, sha256_of
from rmve._serialization import JSON_FILE, write_model
from rmve.model._run_file import RUN_FILE, Run, repeated_options
from rmve.module import RMVEModule
from rmve.training._callbacks import (
    TRAINER_FILE,
    Checkpoints,
    SafeStop,
    TrainerState,
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


@dataclass(frozen=True)
class Fit:
    """A run of scvi-tools' ``train`` that leaves a usable model, whatever ends it.

    Attributes
    ----------
    arguments
        Arguments of scvi-tools' ``train``.
    guard
        Callback that stops the run safely.
    checkpoints
        Callback that writes checkpoints; ``None`` for none.
    folder
        Folder for checkpoints; ``None`` for none.
    before
        History before the run.
    resumed
        Whether the run goes on from a checkpoint.
    """

    arguments: dict[str, Any]
    guard: SafeStop
    checkpoints: Checkpoints | None
    folder: Path | None
    before: dict[str, pd.DataFrame]
    resumed: bool

    @classmethod
    def of(
        cls,
        arguments: dict[str, Any],
        folder: Path | None,
        every: int,
        cells: str | None,
        module: RMVEModule,
        before: dict[str, pd.DataFrame],
        describe: Callable[..., dict],
        resumed: Run | None,
    ) -> Fit:
        """Prepare a run.

        Parameters
        ----------
        arguments
            Arguments of scvi-tools' ``train``.
        folder, every
            Folder for checkpoints, ``None`` for none, and epochs between them.
        cells
            Fingerprint of the training data; ``None`` for a run without checkpoints, or one that is resumed.
        module
            Networks.
        before
            History before the run.
        describe
            Function that returns all of the model but its weights; keywords replace attributes.
        resumed
            Run that is resumed; ``None`` for a new one.
        """
        guard, checkpoints = SafeStop("early_stopping_warmup_epochs" in arguments), None
        if folder is not None:
            checkpoints = checkpoint_writer(folder, every, arguments, guard, cells, module, before, describe, resumed)
        return cls(arguments, guard, checkpoints, folder, before, resumed is not None)

    def run(self, train: Callable[..., None], quiet: bool) -> None:
        """Train, without the notes of the training libraries, and if ``quiet`` without all that they print.

        Parameters
        ----------
        train
            scvi-tools' ``train``.
        quiet
            Argument of :meth:`rmve.RMVE.train`.
        """
        arguments, extra = dict(self.arguments), [self.guard, *([self.checkpoints] if self.checkpoints else [])]
        arguments["callbacks"] = [*(arguments.get("callbacks") or []), *extra]
        if self.checkpoints is not None and not self.resumed:
            arguments["plugins"] = [*as_list(arguments.get("plugins")), TrainerState()]
        if arguments.get("logger") is None:  # with several processes, scvi-tools' own would write a pickle, and read it
            arguments["logger"] = SimpleLogger()
        if quiet:
            arguments["enable_progress_bar"] = False
        with interruptible(), silence(quiet), without_output() if quiet else contextlib.nullcontext():
            train(**arguments)

    def history(self, logged: object) -> dict[str, pd.DataFrame] | None:
        """History of the model after the run, from what the trainer's logger holds; ``None`` if that is no table."""
        return continued(self.before, logged, self.guard.first) if isinstance(logged, dict) else None

    @property
    def has_learned(self) -> bool:
        """Whether the run came to its end, or completed an epoch before it failed."""
        return self.guard.failure is None or self.guard.n_epochs > 0

    def end(self, trainer: Trainer, save: Callable[[Path], None], trained: bool) -> None:
        """Raise what stopped the run; of one that came to its end, leave the model in place of checkpoints.

        Parameters
        ----------
        trainer
            Trainer of the run.
        save
            Function that saves the model into a folder.
        trained
            Whether the model can be used.

        Raises
        ------
        KeyboardInterrupt, TrainingStopped
            If the run was stopped.
        OSError
            If a checkpoint could not be written.
        """
        if self.guard.stopped:
            raise stopped_error(self.guard, self.arguments["max_epochs"], trained, self.folder)
        if self.checkpoints is None or self.folder is None:
            return
        check_checkpoints(self.checkpoints, self.folder)
        if trainer.is_global_zero:
            save(self.folder)
            end_run(self.folder)
        if dist.is_initialized():
            dist.barrier()  # the model is there for all


def checkpoint_writer(
    folder: Path,
    every: int,
    fit: dict,
    guard: SafeStop,
    cells: str | None,
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
    cells
        Fingerprint of the training data; ``None`` for a run that is resumed.
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
        options, functions = repeated_options(fit | {"checkpoint_every": every})
        split = [np.asarray(rows, dtype=int) for rows in (splitter.train_idx, splitter.val_idx, splitter.test_idx)]
        assert cells is not None  # made with the data of a new run
        data = fit["plan_kwargs"]["data"]
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
