"""Models on disk as tensors and JSON: reading a file from a stranger executes nothing.

``model.pt`` holds the state dictionary (read by torch with ``weights_only=True``), ``model.json`` everything else.
"""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import torch

WEIGHTS_FILE = "model.pt"
JSON_FILE = "model.json"
_TAG = "__rmve__"


def to_json(value: object) -> object:
    """Plain JSON for what a model's registry and attributes hold; arrays and frames are tagged.

    Raises
    ------
    TypeError
        For an object that has no plain form.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return {
            _TAG: "array",
            "dtype": "str" if value.dtype.kind in "OUT" else str(value.dtype),
            "data": value.tolist(),
        }
    if isinstance(value, pd.Index):
        return to_json(value.to_numpy())
    if isinstance(value, pd.DataFrame):
        return {
            _TAG: "frame",
            "name": value.index.name,
            "index": value.index.tolist(),
            "data": {str(column): [float(v) for v in value[column]] for column in value},
        }
    if isinstance(value, dict):
        if any(not isinstance(key, str) for key in value):
            return {_TAG: "items", "data": [[to_json(key), to_json(item)] for key, item in value.items()]}
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    raise TypeError(f"A {type(value).__name__} cannot be saved with the model: {value!r}.")


def from_json(value: object) -> object:
    """Inverse of :func:`to_json` (tuples come back as lists)."""
    if isinstance(value, list):
        return [from_json(item) for item in value]
    if not isinstance(value, dict):
        return value
    match value.get(_TAG):
        case "array":
            dtype = object if value["dtype"] == "str" else np.dtype(value["dtype"])
            return np.array(value["data"], dtype=dtype)
        case "frame":
            frame = pd.DataFrame(value["data"], index=value["index"])
            frame.index.name = value["name"]
            return frame
        case "items":
            return {from_json(key): from_json(item) for key, item in value["data"]}
    return {key: from_json(item) for key, item in value.items()}


def not_a_model(folder: Path, reason: object) -> ValueError:
    """The error for files that :meth:`rmve.RMVE.save` did not write."""
    return ValueError(
        f"{str(folder)!r} does not hold a model saved by `RMVE.save`: {str(reason).rstrip('.') or 'empty'}."
    )


def write_model(folder: Path, prefix: str, state_dict: dict[str, torch.Tensor], document: dict) -> None:
    """Write both files of a model, each atomically.

    Parameters
    ----------
    folder
        An existing folder.
    prefix
        Prepended to the file names.
    state_dict
        Tensors only.
    document
        Everything else; see :func:`to_json`.
    """
    text = json.dumps(to_json(document), indent=1)
    buffer = io.BytesIO()
    torch.save({name: tensor.detach().cpu() for name, tensor in state_dict.items()}, buffer)
    for name, content in ((WEIGHTS_FILE, buffer.getvalue()), (JSON_FILE, text.encode())):
        path = folder / f"{prefix}{name}"
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_bytes(content)
        os.replace(temporary, path)


def read_model(folder: Path, prefix: str, device: torch.device | str) -> tuple[dict[str, torch.Tensor], dict]:
    """Read what :func:`write_model` wrote.

    Raises
    ------
    FileNotFoundError
        If one of the files is missing.
    ValueError
        If a file is not of this format; nothing in it is executed.
    """
    paths = [folder / f"{prefix}{name}" for name in (WEIGHTS_FILE, JSON_FILE)]
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"{str(folder)!r} holds no saved RMVE model: {path.name!r} is missing.")
    try:
        document = from_json(json.loads(paths[1].read_text(encoding="utf-8")))
        state_dict = torch.load(paths[0], map_location=device, weights_only=True)
    except Exception as error:
        raise not_a_model(folder, error) from error
    if not isinstance(document, dict) or not isinstance(state_dict, dict):
        raise not_a_model(folder, "a file has another layout")
    return state_dict, document
