"""What stays the same in a run, on disk: its options, its cells and how they are split, and what training starts from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from rmve._files import replacing
from rmve._serialization import from_json, not_a_model, read_tensors, to_json, write_tensors
from rmve.maths.sparse_structure import check_structure
from rmve.training import TrainingData
from rmve.training._trainer_options import OF_THE_RUN, REPEATED, check_repeated, check_split_of_rows

RUN_FILE = "run.pt"


@dataclass(frozen=True)
class Run:
    """A run of training.

    Attributes
    ----------
    options
        Arguments of :meth:`rmve.RMVE.train` that a resumed run repeats.
    functions
        Options of the training plan that are functions, which no file can hold.
    cells
        Fingerprint of the data.
    n_processes
        Processes that train together.
    split
        Rows of the training, validation and test cells.
    data
        What the training plan knows of each cell.
    """

    options: dict[str, Any]
    functions: list[str]
    cells: str
    n_processes: int
    split: list[np.ndarray]
    data: TrainingData

    def write(self, folder: Path) -> str:
        """Write the run into a folder.

        Returns
        -------
        SHA-256 of the file, by which a checkpoint knows its run.
        """
        document = {
            "rmve_version": version("rmve"),
            "options": to_json(self.options),
            "functions": self.functions,
            "cells": self.cells,
            "n_processes": self.n_processes,
        }
        content = {
            "document": json.dumps(document),
            "split": [torch.as_tensor(rows) for rows in self.split],
            "data": {
                field.name: _to_tensors(getattr(self.data, field.name)) for field in dataclasses.fields(self.data)
            },
        }
        with replacing(folder / RUN_FILE) as path:
            write_tensors(path, content)
            return hashlib.sha256(path.read_bytes()).hexdigest()


def repeated_options(arguments: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Those arguments of a run that a resumed one repeats, and the names of the plan's options that are functions."""
    plan = {name: value for name, value in arguments["plan_kwargs"].items() if name != "data"}
    functions = [name for name, value in plan.items() if callable(value)]
    options: dict[str, Any] = {"plan_kwargs": {name: value for name, value in plan.items() if name not in functions}}
    for name in arguments.keys() & (OF_THE_RUN.keys() | REPEATED.keys()):
        options[name] = arguments[name]
    options["datasplitter_kwargs"] = {"as_counts": arguments["datasplitter_kwargs"]["as_counts"]}
    return options, functions


def read_run(folder: Path, plan: type) -> tuple[Run, str]:
    """A run and the SHA-256 of its file; nothing in it is executed, and nothing but known options is taken from it.

    Parameters
    ----------
    folder
        As given to :meth:`Run.write`.
    plan
        Class of the training plan.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If the file is something else.
    """
    path = folder / RUN_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{str(folder)!r} holds no run of `RMVE.train(checkpoint_dir=...)`.")
    file = path.read_bytes()
    content = read_tensors(folder, RUN_FILE, file, "cpu")
    try:
        document = json.loads(content["document"])
        functions, n_processes = document["functions"], document["n_processes"]
        if type(n_processes) is not int or n_processes < 1 or not isinstance(document["cells"], str):
            raise ValueError("the run has another layout")
        if not isinstance(functions, list) or any(not isinstance(name, str) for name in functions):
            raise ValueError("the run has another layout")
        run = Run(
            check_repeated(plan, from_json(document["options"])),
            functions,
            document["cells"],
            n_processes,
            [rows.numpy() for rows in content["split"]],
            TrainingData(**{name: _from_tensors(value) for name, value in content["data"].items()}),
        )
        check_data(run)
    except Exception as error:
        raise not_a_model(folder, error) from error
    return run, hashlib.sha256(file).hexdigest()


def check_data(run: Run) -> None:
    """Raise unless the arrays of a run fit together: as many cells in each, and no row that does not exist.

    Raises
    ------
    TypeError, ValueError
        If not.
    """
    data, n = run.data, len(run.data.start)
    if data.start.ndim != 2 or data.start.dtype.kind != "f" or not np.isfinite(data.start).all():
        raise ValueError("the start of the run is no assignment")
    for mask in (data.labelled, data.held_out):
        if mask is not None and (mask.shape != (n,) or mask.dtype != bool):
            raise ValueError("the run has cells too many, or too few")
    if data.graph is not None:
        check_structure(data.graph, "the graph of the run")
        if data.graph.shape != (n, n) or not np.isfinite(data.graph.data).all():
            raise ValueError("the graph of the run does not fit its cells")
    if (data.positions is None) != (data.held_out is None) or data.labelled is None:
        raise ValueError("the run lacks something")
    if data.positions is not None:
        if data.positions.ndim != 2 or len(data.positions) != n or data.positions.dtype.kind != "f":
            raise ValueError("the positions of the run do not fit its cells")
    if len(run.split) != 3:
        raise ValueError("the run splits its cells in an unknown way")
    check_split_of_rows(run.split, n)


def _to_tensors(value: Any) -> object:
    if sp.issparse(value):
        return [*map(torch.as_tensor, (value.data, value.indices, value.indptr)), list(value.shape)]
    return None if value is None else torch.as_tensor(value)


def _from_tensors(value: Any) -> Any:
    if isinstance(value, list):
        *parts, shape = value
        return sp.csr_matrix(tuple(part.numpy() for part in parts), shape=shape)
    return None if value is None else value.numpy()
