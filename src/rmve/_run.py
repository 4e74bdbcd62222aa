"""A run of training from its start, or from a checkpoint, to a usable model, whatever ends it."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path

import numpy as np
import pandas as pd
import torch.distributed as dist
from anndata import AnnData
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_only
from scvi import settings

from rmve import _validation as check
from rmve._callbacks import TRAINER_FILE, Checkpoints, SafeStop, TrainerState, check_state, list_epochs, silence
from rmve._compat import SETUP_ARGS_KEY, SimpleLogger, use_distributed_sampler
from rmve._files import claim, remove_folder, sha256_of
from rmve._fingerprint import fingerprint
from rmve._options import check_options
from rmve._run_file import RUN_FILE, Run, read_run, repeated_options
from rmve._serialization import JSON_FILE, not_a_model, read_file, read_tensors, write_model


class TrainingStopped(RuntimeError):
    """The loss or a gradient was not finite."""


class RunMixin:
    """Part of :class:`rmve.RMVE` that trains, stops safely, writes checkpoints and goes on from them."""

    def _run(
        self, fit: dict, quiet: bool, folder: Path | None, checkpoint_every: int, resumed: Run | None = None
    ) -> None:
        """Train with scvi-tools, then make clusters, also if the run was stopped.

        Parameters
        ----------
        fit
            Arguments of scvi-tools' ``train``.
        quiet, checkpoint_every
            See :meth:`rmve.RMVE.train`.
        folder
            Its ``checkpoint_dir``, an existing folder.
        resumed
            The run that ``fit`` goes on with; ``None`` for a new one.
        """
        was_trained, guard = self.is_trained_, SafeStop("early_stopping_warmup_epochs" in fit)
        self.tree_ = None  # that of an earlier run is not one of its checkpoints
        history = dict(self.history_) if was_trained and isinstance(self.history_, dict) else {}
        callbacks, checkpoints = [*(fit.get("callbacks") or []), guard], None
        if folder is not None:
            checkpoints = self._checkpoints(folder, checkpoint_every, fit, history, guard, resumed)
            callbacks.append(checkpoints)
        fit = {**fit, "callbacks": callbacks}
        if folder is not None and resumed is None:  # a resumed run has one, with the state to go on from
            fit["plugins"] = [*_as_list(fit.get("plugins")), TrainerState()]
        if fit.get("logger") is None:  # with several processes, scvi-tools' own would write a pickle, and read it
            fit["logger"] = SimpleLogger()
        if quiet:
            fit["enable_progress_bar"] = False
        if not self.is_query_:  # a trained model is in evaluation mode, in which Lightning would leave it
            self.module.train()
        # scvi-tools prints, too
        with silence(quiet), contextlib.redirect_stdout(io.StringIO()) if quiet else contextlib.nullcontext():
            super().train(**fit)
        if isinstance(getattr(self.trainer.logger, "history", None), dict):
            self.history_ = continued(history, self.trainer.logger.history, guard.first)
        self.is_trained_ = was_trained or guard.failure is None or guard.n_epochs > 0
        if self.is_trained_:
            self._finish(with_positions=fit["plan_kwargs"]["data"].positions is not None)
        if guard.stopped:
            raise _stopped(guard, fit["max_epochs"], self.is_trained_, folder)
        if checkpoints is None:
            return
        if checkpoints.failure is not None:
            raise OSError(
                f"Training stopped: a checkpoint could not be written to {str(folder)!r}: {checkpoints.failure}. The model "
                "keeps what it has learned. Make room, and go on from the checkpoint before by "
                f"`RMVE.resume({str(folder)!r}, adata)`."
            ) from checkpoints.failure
        if self.trainer.is_global_zero:
            self.save(folder, overwrite=True)
            end_run(folder)
        if dist.is_initialized():
            dist.barrier()  # the model is there for all

    def _checkpoints(
        self, folder: Path, every: int, fit: dict, history: dict, guard: SafeStop, resumed: Run | None
    ) -> Checkpoints:
        """What writes the checkpoints of a run."""
        digest = None if resumed is None else sha256_of(folder / RUN_FILE)

        def save_run(trainer: Trainer) -> None:
            nonlocal digest
            splitter, setup_args = trainer.datamodule, self.registry_[SETUP_ARGS_KEY]
            options, functions = repeated_options(fit | {"checkpoint_every": every})
            split = [np.asarray(rows, dtype=int) for rows in (splitter.train_idx, splitter.val_idx, splitter.test_idx)]
            cells, data = fingerprint(self.adata, setup_args), fit["plan_kwargs"]["data"]
            digest = Run(options, functions, cells, trainer.world_size, split, data).write(folder)

        def save_model(new: Path, trainer: Trainer) -> None:
            splitter, logged = trainer.datamodule, getattr(trainer.logger, "history", {})
            document = self._document(
                is_trained_=True,
                history_=continued(history, logged, guard.first),
                train_indices_=splitter.train_idx,
                validation_indices_=splitter.val_idx,
                test_indices_=splitter.test_idx,
            )
            others = {TRAINER_FILE: trainer.save_checkpoint}
            write_model(new, "", self.module.state_dict(), document | {"run": digest}, others)

        if resumed is not None:
            return Checkpoints(folder, every, save_model, None, resumed.n_processes)
        return Checkpoints(folder, every, save_model, save_run)

    def _finish(self, with_positions: bool) -> None:
        """Merge and number the clusters on the training data, and fit the map to positions that were learned."""
        if self.is_query_:  # clusters of new cells are the reference's
            return
        self._choose_level()
        if with_positions:
            self.fit_spatial_map()

    @classmethod
    def resume(
        cls,
        checkpoint_dir: str | os.PathLike,
        adata: AnnData,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        quiet: bool = False,
        plan_kwargs: dict | None = None,
        **trainer_kwargs,
    ):
        """Go on with a run of :meth:`train` that was stopped or killed, from its last checkpoint to its end.

        Parameters
        ----------
        checkpoint_dir
            As given to :meth:`train`.
        adata
            The data of the run; it need not be set up.
        accelerator, devices, quiet
            As in :meth:`train`.
        plan_kwargs, **trainer_kwargs
            Options to change, or to give again because a file cannot hold them: functions (such as the ``view`` of
            :class:`rmve.training.RMVETrainingPlan`), callbacks and loggers. All others are those of the run.

        Returns
        -------
        The trained model. If the run had come to its end already, its model.

        Raises
        ------
        FileNotFoundError
            If there is no checkpoint.
        ValueError
            If ``adata`` has other cells or genes than the run, or the files are not those of a run.

        Notes
        -----
        Weights, the optimizer, the running assignment, the random numbers and the place in all schedules are those of
        the checkpoint: on the CPU the result is that of a run that was never stopped. Nothing in the files is executed.

        Examples
        --------
        >>> model.train(checkpoint_dir="run")  # doctest: +SKIP
        >>> model = rmve.RMVE.resume("run", adata)  # after a crash  # doctest: +SKIP
        """
        folder = check.get_folder("checkpoint_dir", checkpoint_dir)
        if (folder / JSON_FILE).is_file() and not (folder / RUN_FILE).is_file():
            model = cls.load(folder, adata=adata, accelerator=accelerator)
            end_run(folder)  # of a process that was killed when all was done
            return model
        run, digest = read_run(folder, cls._training_plan_cls)
        epochs = list_epochs(folder)
        if not epochs:
            raise FileNotFoundError(
                f"The run in {str(folder)!r} stopped before its first checkpoint. Start it again with `model.train`."
            )
        check.check_anndata(adata)
        check_options(cls._training_plan_cls, plan_kwargs, trainer_kwargs, of_the_run=True)
        check.check_device(accelerator, devices)
        plan_kwargs = plan_kwargs or {}
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
        options |= options_of_processes(options.get("strategy"), options["early_stopping"])
        file, document = read_file(epochs[-1], "", TRAINER_FILE)
        if document.get("run") != digest:
            raise not_a_model(folder, f"{RUN_FILE!r} was changed, or is not of the run of {epochs[-1].name!r}")
        alone = cls.load(epochs[-1], adata=False, accelerator="cpu")
        state = read_tensors(epochs[-1], TRAINER_FILE, file, "cpu")
        try:
            check_state(state, alone.module.state_dict())
            if {state["assignment"].shape, run.data.start.shape} != {(len(run.data.start), alone.module.n_components)}:
                raise ValueError("the run has other cells than its checkpoint, or another number of components")
        except ValueError as error:
            raise not_a_model(epochs[-1], error) from error
        same_number = len(run.data.start) == adata.n_obs
        if not same_number or run.cells != fingerprint(adata, alone.registry_[SETUP_ARGS_KEY]):
            raise ValueError(
                f"`adata` does not hold the cells of the run in {str(folder)!r}, in their order and with the same values. "
                "Give the same data."
            )
        model = cls.load(epochs[-1], adata=adata, accelerator=accelerator)
        every = options.pop("checkpoint_every")
        fit = options | {
            "accelerator": accelerator,
            "devices": devices,
            "ckpt_path": str(epochs[-1] / TRAINER_FILE),
            "plugins": [*_as_list(options.get("plugins")), TrainerState(state)],
            "datasplitter_kwargs": options["datasplitter_kwargs"] | {"external_indexing": run.split},
            "plan_kwargs": options["plan_kwargs"] | plan_kwargs | {"data": run.data},
        }
        model._run(fit, quiet, folder, every, run)
        return model


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


def _stopped(guard: SafeStop, max_epochs: int, trained: bool, folder: Path | None) -> BaseException:
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
    return not use_distributed_sampler(strategy) or not rank_zero_only.rank


def _as_list(plugins: object) -> list:
    if plugins is None:
        return []
    return list(plugins) if isinstance(plugins, list | tuple) else [plugins]
