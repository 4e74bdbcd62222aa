"""A run of training from its start, or from a checkpoint, to a usable model, whatever ends it."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import shutil
from importlib.metadata import version
from inspect import signature
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData
from lightning.pytorch import Trainer
from scvi.model.base import UnsupervisedTrainingMixin
from scvi.train import Trainer as ScviTrainer

from rmve import _validation as check
from rmve._callbacks import TRAINER_FILE, Checkpoints, SafeStop, list_epochs, silence
from rmve._serialization import JSON_FILE, from_json, not_a_model, to_json, write_model
from rmve.maths.estimators import ESTIMATORS
from rmve.schedules import LR_SCHEDULES
from rmve.training import RMVETrainingPlan, TrainingData

#: What stays the same in a run: its arguments, its split of the cells and its starting point.
RUN_FILE = "run.pt"
#: Options of the training plan with few values.
CHOICES = {"estimator": ESTIMATORS, "lr_schedule": LR_SCHEDULES}
#: Options of the training plan that lie in [0, 1], and those that are not negative.
FRACTIONS = ("warmup_fraction", "kl_warmup_fraction", "potts_ramp_fraction", "repulsion_ramp_fraction", "smoothing")
FRACTIONS += ("momentum", "lr_drop_fraction", "lr_drop")
STRENGTHS = ("lr", "mixture_lr", "weight_decay", "kl_weight", "warmup_alpha", "potts", "repulsion", "alpha")
STRENGTHS += ("agreement", "balance", "confidence", "spatial", "dirichlet")
#: Arguments of a run that a resumed one does not repeat: it takes the split of the cells from the file, and has a
#: machine and objects of its own.
NOT_REPEATED = ("train_size", "validation_size", "shuffle_set_split", "accelerator", "devices", "callbacks", "logger")


class TrainingStopped(RuntimeError):
    """The loss or a gradient was not finite."""


class RunMixin:
    """Part of :class:`rmve.RMVE` that trains, stops safely, writes checkpoints and goes on from them."""

    def _run(
        self, fit: dict, quiet: bool, checkpoint_dir: str | os.PathLike | None, checkpoint_every: int, resumed=False
    ) -> None:
        """Train with scvi-tools, then make clusters, also if the run was stopped.

        Parameters
        ----------
        fit
            Arguments of scvi-tools' ``train``.
        quiet, checkpoint_dir, checkpoint_every
            See :meth:`rmve.RMVE.train`.
        resumed
            Whether ``fit`` goes on from a checkpoint.
        """
        was_trained, guard = self.is_trained_, SafeStop("early_stopping_warmup_epochs" in fit)
        self.tree_ = None  # that of an earlier run is not one of its checkpoints
        callbacks = [*(fit.get("callbacks") or []), guard]
        folder = None if checkpoint_dir is None else Path(checkpoint_dir)
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            repeated = fit | {"checkpoint_every": checkpoint_every}
            save_run = None if resumed else lambda trainer: _write_run(folder, repeated, trainer, self.adata)
            callbacks.append(Checkpoints(folder, checkpoint_every, self._write_checkpoint, save_run))
        if quiet:
            fit = {**fit, "enable_progress_bar": False}
        if not self.is_query_:  # a trained model is in evaluation mode, in which Lightning would leave it
            self.module.train()
        # scvi-tools prints, too
        with silence(quiet), contextlib.redirect_stdout(io.StringIO()) if quiet else contextlib.nullcontext():
            super().train(**{**fit, "callbacks": callbacks})
        self.is_trained_ = was_trained or guard.failure is None or guard.n_epochs > 0
        if self.is_trained_:
            self._finish(with_positions=fit["plan_kwargs"]["data"].positions is not None)
        if guard.stopped:
            raise _stopped(guard, fit["max_epochs"], self.is_trained_, folder)
        if folder is not None:
            self.save(folder, overwrite=True)
            (folder / RUN_FILE).unlink()
            for checkpoint in list_epochs(folder):
                shutil.rmtree(checkpoint)

    def _finish(self, with_positions: bool) -> None:
        """Merge and number the clusters on the training data, and fit the map to positions that were learned."""
        if self.is_query_:  # clusters of new cells are the reference's
            return
        self._choose_level()
        if with_positions:
            self.fit_spatial_map()

    def _write_checkpoint(self, folder: Path, trainer: Trainer) -> None:
        """Save the model in the midst of training, as one that can be loaded and used."""
        new = getattr(trainer.logger, "history", {})
        history = dict(self.history_) if self.is_trained_ else {}
        for name, frame in new.items():
            if name in history:  # numbered on, as scvi-tools does
                frame = frame.set_axis(range(len(history[name]), len(history[name]) + len(frame)))
                frame.index.name = history[name].index.name
                frame = pd.concat([history[name], frame])
            history[name] = frame
        split = zip(("train_indices_", "validation_indices_", "test_indices_"), _split(trainer), strict=True)
        document = self._document(is_trained_=True, history_=history, **dict(split))
        write_model(folder, "", self.module.state_dict(), document)

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
            return cls.load(folder, adata=adata, accelerator=accelerator)
        fit, functions, cells, data, split = _read_run(folder)
        epochs = list_epochs(folder)
        if not epochs:
            raise FileNotFoundError(
                f"The run in {str(folder)!r} stopped before its first checkpoint. Start it again with `model.train`."
            )
        check.check_anndata(adata)
        if cells != _fingerprint(adata):
            raise ValueError(
                f"`adata` does not hold the cells of the run in {str(folder)!r}, in their order. Give the same data."
            )
        check_options(cls._training_plan_cls, plan_kwargs, trainer_kwargs)
        check.check_trainer_options(trainer_kwargs)
        check.check_device(accelerator, devices)
        plan_kwargs = plan_kwargs or {}
        missing = [name for name in functions if name not in plan_kwargs]
        if missing:
            raise ValueError(
                f"A checkpoint cannot hold functions: give `plan_kwargs` with {', '.join(map(repr, missing))} again."
            )
        state = epochs[-1] / TRAINER_FILE
        try:  # Lightning reads it again: now it is known to hold no code
            torch.load(state, map_location="cpu", weights_only=True)
        except Exception as error:
            raise not_a_model(epochs[-1], error) from error
        model = cls.load(epochs[-1], adata=adata, accelerator=accelerator)
        every = fit.pop("checkpoint_every")
        fit |= {
            "accelerator": accelerator,
            "devices": devices,
            "ckpt_path": str(state),
            "datasplitter_kwargs": fit["datasplitter_kwargs"] | {"external_indexing": split},
            "plan_kwargs": fit["plan_kwargs"] | plan_kwargs | {"data": data},
            **trainer_kwargs,
        }
        model._run(fit, quiet, folder, every, resumed=True)
        return model


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


def check_options(plan: type, plan_kwargs: dict | None, trainer_kwargs: dict) -> None:
    """Raise unless options of the plan and of the trainer exist and have a sensible value, before the work begins.

    Raises
    ------
    TypeError
        If an option does not exist, or ``plan_kwargs`` is no dictionary.
    ValueError
        If a value is out of range.
    """
    if not isinstance(plan_kwargs, dict | None):
        raise TypeError(f"`plan_kwargs` must be a dictionary, not {plan_kwargs!r}.")
    plan_kwargs = plan_kwargs or {}
    check.check_names("`plan_kwargs`", plan_kwargs, _options_of(plan) - {"self", "module", "data", "kwargs"})
    for name, value in plan_kwargs.items():
        if name in CHOICES:
            check.check_choice(name, value, CHOICES[name])
        elif name in FRACTIONS:
            check.check_number(name, value, 0.0, 1.0)
        elif name in STRENGTHS:
            check.check_number(name, value)
        elif name == "view" and value is not None and not callable(value):
            raise TypeError(f"`view` must be a function of a tensor, not {value!r}.")
    known = {*signature(ScviTrainer).parameters, *signature(Trainer).parameters, *signature(RunMixin._run).parameters}
    train = signature(UnsupervisedTrainingMixin.train).parameters
    check.check_names("`train`", trainer_kwargs, {*known, *train, "ckpt_path"} - {"self", "kwargs", "trainer_kwargs"})


def _options_of(plan: type) -> set[str]:
    """Names that a training plan takes: its own, and its parents' as long as it passes others on to them."""
    names = set()
    for owner in plan.__mro__:
        parameters = signature(owner.__init__).parameters.values() if "__init__" in vars(owner) else ()
        names |= {parameter.name for parameter in parameters}
        if owner is RMVETrainingPlan:
            break
    return names


def check_no_run(folder: Path) -> None:
    """Raise if a folder holds something that a new run would spoil."""
    if (folder / JSON_FILE).is_file():
        raise FileExistsError(f"{str(folder)!r} holds a saved model. Choose another folder as `checkpoint_dir`.")
    if list_epochs(folder):
        raise FileExistsError(
            f"{str(folder)!r} holds checkpoints of another run. Go on with it by `RMVE.resume({str(folder)!r}, adata)`, "
            "or choose another folder as `checkpoint_dir`."
        )


def _fingerprint(adata: AnnData) -> str:
    """Hash of the cells' names, in their order."""
    return hashlib.sha256("\n".join(adata.obs_names.astype(str)).encode()).hexdigest()


def _split(trainer: Trainer) -> list[np.ndarray]:
    splitter = trainer.datamodule
    return [np.asarray(index) for index in (splitter.train_idx, splitter.val_idx, splitter.test_idx)]


def _write_run(folder: Path, arguments: dict, trainer: Trainer, adata: AnnData) -> None:
    """Write what stays the same in a run: arguments that JSON can hold, cells, split, and the plan's data."""
    plan = dict(arguments["plan_kwargs"])
    data = plan.pop("data")
    kept, left_out = {}, [name for name, value in plan.items() if callable(value)]
    for name, value in arguments.items():
        if name not in (*NOT_REPEATED, "plan_kwargs"):
            with contextlib.suppress(TypeError):  # an object of the trainer
                kept[name] = to_json(value)
    kept["plan_kwargs"] = to_json({name: value for name, value in plan.items() if name not in left_out})
    kept["datasplitter_kwargs"] = {
        name: value for name, value in (kept["datasplitter_kwargs"] or {}).items() if name != "external_indexing"
    }
    document = {"rmve_version": version("rmve"), "fit": kept, "functions": left_out, "cells": _fingerprint(adata)}
    content = {
        "document": json.dumps(document),
        "split": [torch.as_tensor(index) for index in _split(trainer)],
        "data": {field.name: _to_tensors(getattr(data, field.name)) for field in dataclasses.fields(data)},
    }
    temporary = folder / f".{RUN_FILE}.tmp"
    torch.save(content, temporary)
    os.replace(temporary, folder / RUN_FILE)


def _read_run(folder: Path) -> tuple[dict, list[str], str, TrainingData, list[np.ndarray]]:
    """Arguments, names of functions, fingerprint of the cells, the plan's data, and the split of the cells."""
    path = folder / RUN_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{str(folder)!r} holds no run of `RMVE.train(checkpoint_dir=...)`.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        document = json.loads(content["document"])
        data = TrainingData(**{name: _from_tensors(value) for name, value in content["data"].items()})
        split = [index.numpy() for index in content["split"]]
        return from_json(document["fit"]), document["functions"], document["cells"], data, split
    except Exception as error:
        raise not_a_model(folder, error) from error


def _to_tensors(value: np.ndarray | sp.csr_matrix | None) -> object:
    if sp.issparse(value):
        return [torch.as_tensor(part) for part in (value.data, value.indices, value.indptr)] + [list(value.shape)]
    return None if value is None else torch.as_tensor(value)


def _from_tensors(value: object) -> np.ndarray | sp.csr_matrix | None:
    if isinstance(value, list):
        *parts, shape = value
        return sp.csr_matrix(tuple(part.numpy() for part in parts), shape=shape)
    return None if value is None else value.numpy()
