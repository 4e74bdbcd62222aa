"""From the files of a run that was stopped to the arguments that it goes on with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from anndata import AnnData

from rmve import _validation as check
from rmve._compat import SETUP_ARGS_KEY, use_distributed_sampler
from rmve._serialization import JSON_FILE, not_a_model, read_file, read_tensors
from rmve.model._call import check_machine
from rmve.model._fingerprint import Fingerprint
from rmve.model._fit import as_list, options_of_processes
from rmve.model._io import read_saved
from rmve.model._run_file import RUN_FILE, Run, read_run
from rmve.training._callbacks import TRAINER_FILE, TrainerState, check_state, list_epochs
from rmve.training._trainer_options import check_options


@dataclass(frozen=True)
class Resumption:
    """What a stopped run goes on with.

    Attributes
    ----------
    checkpoint
        Folder of its last checkpoint.
    run
        What stays the same in the run.
    every
        Epochs between checkpoints.
    arguments
        Arguments of scvi-tools' ``train``.
    """

    checkpoint: Path
    run: Run
    every: int
    arguments: dict[str, Any]


def is_over(folder: Path) -> bool:
    """Whether a folder holds the model of a run that came to its end, and no run."""
    return (folder / JSON_FILE).is_file() and not (folder / RUN_FILE).is_file()


def read_resumption(
    folder: Path,
    adata: AnnData,
    model_cls: Any,
    accelerator: str,
    devices: int | list[int] | str,
    quiet: bool,
    plan_kwargs: dict | None,
    trainer_kwargs: dict[str, Any],
) -> Resumption:
    """Read a run and its last checkpoint; nothing in the files is executed.

    Parameters
    ----------
    folder
        Folder of the run.
    model_cls
        Class of the model.
    adata, accelerator, devices, quiet, plan_kwargs, trainer_kwargs
        Arguments of :meth:`rmve.RMVE.resume`.

    Raises
    ------
    FileNotFoundError
        If there is no checkpoint.
    TypeError, ValueError
        If an option is wrong, the cells are others, or the files are not those of a run.
    """
    run, digest = read_run(folder, model_cls._training_plan_cls)
    checkpoint = last_checkpoint(folder)
    check.check_anndata(adata)
    plan_kwargs = check_options(model_cls._training_plan_cls, plan_kwargs, trainer_kwargs, of_the_run=True)
    check_machine(accelerator, devices, quiet, trainer_kwargs)
    options = _changed_options(folder, run, plan_kwargs, trainer_kwargs)
    file = _read_trainer_file(folder, checkpoint, digest)
    saved = read_saved(checkpoint, "", torch.device("cpu"), model_cls)
    state = _read_state(checkpoint, file, run, saved.weights)
    _check_same_cells(folder, run, adata, saved.registry[SETUP_ARGS_KEY])
    every = options.pop("checkpoint_every")
    arguments = options | {
        "accelerator": accelerator,
        "devices": devices,
        "ckpt_path": str(checkpoint / TRAINER_FILE),
        "plugins": [*as_list(options.get("plugins")), TrainerState(state)],
        "datasplitter_kwargs": options["datasplitter_kwargs"] | {"external_indexing": run.split},
        "plan_kwargs": options["plan_kwargs"] | plan_kwargs | {"data": run.data},
    }
    return Resumption(checkpoint, run, every, arguments)


def last_checkpoint(folder: Path) -> Path:
    """Folder of the last checkpoint of a run; FileNotFoundError if there is none."""
    epochs = list_epochs(folder)
    if not epochs:
        raise FileNotFoundError(
            f"The run in {str(folder)!r} stopped before its first checkpoint. Start it again with `model.train`."
        )
    return epochs[-1]


def _changed_options(folder: Path, run: Run, plan_kwargs: dict, trainer_kwargs: dict) -> dict[str, Any]:
    """Arguments of a run, with those that were given again; ValueError if functions or processes must be given, too."""
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


def _read_trainer_file(folder: Path, checkpoint: Path, digest: str) -> bytes:
    """The trainer's file of a checkpoint; ValueError unless it belongs to the run of a digest."""
    file, document = read_file(checkpoint, "", TRAINER_FILE)
    if document.get("run") != digest:
        raise not_a_model(folder, f"{RUN_FILE!r} was changed, or is not of the run of {checkpoint.name!r}")
    return file


def _read_state(checkpoint: Path, file: bytes, run: Run, weights: Mapping[str, torch.Tensor]) -> dict:
    """State of the trainer, from its file; ValueError unless it fits the weights of the checkpoint, and the run."""
    state = read_tensors(checkpoint, TRAINER_FILE, file, "cpu")
    try:
        check_state(state, weights, run.n_processes)
        shape = (len(run.data.start), len(weights["mixture.mean"]))
        if {state["assignment"].shape, run.data.start.shape} != {shape}:
            raise ValueError("the run has other cells than its checkpoint, or another number of components")
    except ValueError as error:
        raise not_a_model(checkpoint, error) from error
    return state


def _check_same_cells(folder: Path, run: Run, adata: AnnData, setup_args: dict) -> None:
    """Raise ValueError unless data holds the cells of a run."""
    if len(run.data.start) != adata.n_obs or run.cells != Fingerprint(adata).finish(setup_args):
        raise ValueError(
            f"`adata` does not hold the cells of the run in {str(folder)!r}, in their order and with the same values. "
            "Give the same data."
        )
