"""A call of ``train``: its arguments, checked before the work begins, and what follows from them."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scvi.data import AnnDataManager

from rmve import _validation as check
from rmve._compat import use_distributed_sampler
from rmve.defaults import FROM_LABELS, WITH_POSITIONS, default_batch_size, default_epochs
from rmve.likelihoods import Likelihood
from rmve.model import _fit
from rmve.model._setup import label_codes, names_of_labels
from rmve.training import TrainingData, TrainingOptions
from rmve.training._trainer_options import check_limits, check_options, check_split_of_rows, n_validation

#: Options of the plan that rise over a part of the run: a trained model has them from its first epoch on.
RAMPS = ("warmup_fraction", "neighbor_ramp_fraction", "repulsion_ramp_fraction")


@dataclass(frozen=True)
class Call:
    """Arguments of :meth:`rmve.RMVE.train`, in their order."""

    max_epochs: int | None
    accelerator: str
    devices: int | list[int] | str
    train_size: float | None
    validation_size: float | None
    shuffle_set_split: bool
    load_sparse_tensor: bool
    batch_size: int | None
    early_stopping: bool
    datasplitter_kwargs: dict | None
    plan_kwargs: dict | None
    start: Sequence[int] | None
    quiet: bool
    checkpoint_dir: str | os.PathLike | None
    checkpoint_every: int
    trainer_kwargs: dict[str, Any]

    def checked(self, n_obs: int, plan: type, likelihood: Likelihood, trained: bool) -> Request:
        """What is asked for.

        Parameters
        ----------
        n_obs
            Number of cells.
        plan
            Class of the training plan.
        likelihood
            Likelihood of the model.
        trained
            Whether the model is trained already.

        Raises
        ------
        TypeError, ValueError
            If an argument is of the wrong kind, out of range, or does not fit the others.
        """
        trainer_kwargs, splitter = self.trainer_kwargs, self.datasplitter_kwargs
        check.check_training_options(trainer_kwargs.get("precision", "32-true"), self.plan_kwargs)
        plan_kwargs = check_options(plan, self.plan_kwargs, trainer_kwargs, splitter, self.early_stopping)
        TrainingOptions.of(plan_kwargs).check_likelihood(likelihood)
        check.check_flag("shuffle_set_split", self.shuffle_set_split)
        check_machine(self.accelerator, self.devices, self.quiet, trainer_kwargs)
        if self.max_epochs is not None:
            check.check_positive_int("max_epochs", self.max_epochs)
        check.check_positive_int("checkpoint_every", self.checkpoint_every)
        if self.checkpoint_every > 1 and self.checkpoint_dir is None:
            raise ValueError("`checkpoint_every` needs `checkpoint_dir`, too.")
        batch_size = default_batch_size(n_obs) if self.batch_size is None else self.batch_size
        check.check_positive_int("batch_size", batch_size, minimum=2)  # of one cell, batch normalisation is undefined
        if any(getattr(callback, "load_best_on_end", False) for callback in trainer_kwargs.get("callbacks") or []):
            raise ValueError(
                "`SaveCheckpoint(load_best_on_end=True)` reads scvi-tools' own format, which can execute code. Use "
                "`early_stopping=True`, or `checkpoint_dir`."
            )
        folder = None
        if self.checkpoint_dir is not None:
            folder = check.get_folder("checkpoint_dir", self.checkpoint_dir).absolute()
        if self.start is not None and trained:
            raise ValueError("`start` is for the first call of `train`; a trained model goes on from where it is.")
        partition = None if self.start is None else check.check_start(self.start, n_obs)
        if self.load_sparse_tensor:
            raise ValueError("`load_sparse_tensor` is not needed: counts are loaded sparse. Leave it out.")
        trainer_kwargs = trainer_kwargs | _fit.options_of_processes(trainer_kwargs.get("strategy"), self.early_stopping)
        train_size = self._share_to_train_on(n_obs, batch_size, trainer_kwargs)
        return Request(self, batch_size, train_size, plan_kwargs, trainer_kwargs, partition, folder)

    def _share_to_train_on(self, n_obs: int, batch_size: int, trainer_kwargs: dict[str, Any]) -> float | None:
        """``train_size``, or what it is by default; raises ValueError unless the cells can be divided so."""
        train_size, indexing = self.train_size, (self.datasplitter_kwargs or {}).get("external_indexing")
        check.check_split(train_size, self.validation_size, self.early_stopping, n_obs)
        check_split_of_rows(indexing, n_obs)
        if indexing is not None and (train_size is not None or self.validation_size is not None):
            raise ValueError("`external_indexing` splits the cells. Leave out `train_size` and `validation_size`.")
        n_val = n_validation(n_obs, train_size, self.validation_size, self.early_stopping, indexing)
        if self.early_stopping and not n_val:
            raise ValueError("`early_stopping` needs validation cells: a second array in `external_indexing`.")
        n_train = n_obs - n_val if train_size is None else math.ceil(train_size * n_obs)
        check_limits(trainer_kwargs, self.max_epochs, batch_size, n_train, n_val)
        if train_size is None and not self.early_stopping and not indexing:
            return 1.0 - (self.validation_size or 0.0)
        return train_size


@dataclass(frozen=True)
class Request:
    """What a call of ``train`` asks for.

    Attributes
    ----------
    call
        Arguments as they were given.
    batch_size, train_size
        Those of them with their defaults.
    plan_kwargs
        Options of the plan under their present names.
    trainer_kwargs
        Options of the trainer.
    partition
        Partition to start from, shape ``(n,)``; ``None`` finds one.
    folder
        Folder for checkpoints; ``None`` for none.
    """

    call: Call
    batch_size: int
    train_size: float | None
    plan_kwargs: dict[str, Any]
    trainer_kwargs: dict[str, Any]
    partition: np.ndarray | None
    folder: Path | None

    def claim_folder(self) -> None:
        """Make the folder for checkpoints; raises FileExistsError if it holds something that the run would spoil."""
        if self.folder is not None and _fit.is_first_process(self.trainer_kwargs.get("strategy")):
            _fit.check_no_run(self.folder)

    def arguments(self, data: TrainingData, defaults: dict[str, Any], as_counts: bool) -> dict[str, Any]:
        """Arguments of scvi-tools' ``train``.

        Parameters
        ----------
        data
            What the training plan knows of each cell.
        defaults
            From :func:`default_options`.
        as_counts
            Whether mini-batches hold counts.
        """
        call, trainer_kwargs, with_positions = self.call, dict(self.trainer_kwargs), data.positions is not None
        max_epochs = call.max_epochs
        if max_epochs is None:
            max_epochs = default_epochs(len(data.start), self.batch_size, with_positions)
        if call.early_stopping:
            trainer_kwargs.setdefault("early_stopping_patience", max(5, round(max_epochs / 10)))
        defaults = defaults | (WITH_POSITIONS if with_positions else {})
        return {
            "max_epochs": max_epochs,
            "accelerator": call.accelerator,
            "devices": call.devices,
            "train_size": self.train_size,
            "validation_size": call.validation_size,
            "shuffle_set_split": call.shuffle_set_split,
            "batch_size": self.batch_size,
            "early_stopping": call.early_stopping,
            "datasplitter_kwargs": {"as_counts": as_counts, **(call.datasplitter_kwargs or {})},
            "plan_kwargs": defaults | self.plan_kwargs | {"data": data},
            **trainer_kwargs,
        }


def check_machine(
    accelerator: str, devices: int | list[int] | str, quiet: bool, trainer_kwargs: dict[str, Any]
) -> None:
    """Raise unless a run can use the devices that it asks for.

    Parameters
    ----------
    accelerator, devices, quiet, trainer_kwargs
        Arguments of :meth:`rmve.RMVE.train`.
    """
    check.check_flag("quiet", quiet)
    check.check_device(accelerator, devices)
    distributed = use_distributed_sampler(trainer_kwargs.get("strategy"))
    check.check_processes(accelerator, devices, distributed, trainer_kwargs.get("num_nodes", 1))


def default_options(manager: AnnDataManager, estimator: str, n_clusters: int | None, trained: bool) -> dict[str, Any]:
    """Defaults of the plan that depend on the model and its labels.

    Parameters
    ----------
    manager
        Manager of the training data.
    estimator, n_clusters
        Options ``estimator`` and ``n_components`` of the model.
    trained
        Whether the model is trained already.
    """
    defaults: dict[str, Any] = {"estimator": estimator}
    if names_of_labels(manager.registry) and n_clusters is None and (label_codes(manager) < 0).any():
        defaults |= FROM_LABELS
    return defaults | (dict.fromkeys(RAMPS, 0.0) if trained else {})
