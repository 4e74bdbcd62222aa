"""Models on disk as tensors and JSON: reading a file from a stranger executes nothing.

``model.pt`` holds the state dictionary (read by torch with ``weights_only=True``), ``model.json`` everything else, and the
SHA-256 of each file of the model and of its own content: a file that was changed, or that belongs to another model, is refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from rmve._files import before, new_folder, replacing_together, sha256_of

WEIGHTS_FILE = "model.pt"
JSON_FILE = "model.json"
_TAG = "__rmve__"
#: Key of the SHA-256 of the files, and that of the document itself among them.
DIGESTS, _DOCUMENT = "sha256", "document"


def to_json(value: object) -> Any:
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


def from_json(value: Any) -> Any:
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


def _no_model(folder: Path, name: str) -> FileNotFoundError:
    return FileNotFoundError(f"{str(folder)!r} holds no saved RMVE model: {name!r} is missing.")


def write_model(
    folder: Path,
    prefix: str,
    state_dict: dict[str, torch.Tensor],
    document: dict,
    others: Mapping[str, Callable[[Path], None]] | None = None,
) -> None:
    """Write the files of a model as one: whatever happens, the folder holds the old model or the new one.

    Parameters
    ----------
    folder
        Made if there is none.
    prefix
        Prepended to the file names.
    state_dict
        Tensors only.
    document
        Everything else; see :func:`to_json`.
    others
        Names of other files that belong to the model, and what writes each to a path.
    """
    document = to_json(document)

    def write_weights(path: Path) -> None:
        write_tensors(path, {name: tensor.detach().cpu() for name, tensor in state_dict.items()})

    def write(into: Path) -> None:
        digests = {}
        for name, writer in {WEIGHTS_FILE: write_weights, **(others or {})}.items():
            writer(into / f"{prefix}{name}")
            digests[name] = sha256_of(into / f"{prefix}{name}")
        text = json.dumps({DIGESTS: digests | {_DOCUMENT: _digest(document)}, **document}, indent=1)
        (into / f"{prefix}{JSON_FILE}").write_text(text, encoding="utf-8")

    if not folder.exists():
        with new_folder(folder) as into:
            write(into)
        return
    index, wanted = f"{prefix}{JSON_FILE}", {}
    with contextlib.suppress(OSError, ValueError):  # there is none, or it is spoilt and is to be replaced
        digests = read_document(folder, prefix)[DIGESTS]
        wanted = {f"{prefix}{name}": digest for name, digest in digests.items() if name != _DOCUMENT}
    with replacing_together(folder, index, wanted) as into:
        write(into)


def write_tensors(path: Path, content: object) -> None:
    """Write what ``torch.save`` makes; a full disk is an OSError."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    path.write_bytes(buffer.getbuffer())


def read_tensors(folder: Path, name: str, content: bytes, device: torch.device | str) -> Any:
    """Inverse of :func:`write_tensors`, for plain tensors and containers: nothing in a file is executed."""
    try:
        return torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    except Exception as error:  # torch's message advises to execute what the file holds
        raise not_a_model(folder, f"{name!r} is damaged, or holds other things than tensors") from error


def read_document(folder: Path, prefix: str = "") -> dict:
    """The document of a model, with the SHA-256 of its files under ``"sha256"``.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If it was changed since it was written, or is none.
    """
    name = f"{prefix}{JSON_FILE}"
    text = (folder / name).read_bytes()
    try:
        document = json.loads(text)
        if not isinstance(document, dict):
            raise ValueError(f"{name!r} has another layout")
        digests = document.pop(DIGESTS, None)
        if not isinstance(digests, dict) or digests.get(_DOCUMENT) != _digest(document):
            raise ValueError(f"{name!r} was changed since it was written, or is of another version")
        return {**from_json(document), DIGESTS: digests}
    except Exception as error:
        raise not_a_model(folder, error) from error


def read_file(folder: Path, prefix: str, name: str) -> tuple[bytes, dict]:
    """A file of a model, and the document that it belongs to; both as they were written together.

    Raises
    ------
    FileNotFoundError
        If one of the two is missing.
    ValueError
        If they do not belong together.
    """
    earlier = None
    while True:  # another process may put a new model in place between the two reads
        document, missing = read_document(folder, prefix), True
        digests = document[DIGESTS]
        for own in (f"{prefix}{name}", before(f"{prefix}{name}", str(digests.get(name)))):
            with contextlib.suppress(FileNotFoundError):
                content, missing = (folder / own).read_bytes(), False
                if hashlib.sha256(content).hexdigest() == digests.get(name):
                    return content, document
        if digests == earlier:
            if missing:
                raise _no_model(folder, f"{prefix}{name}")
            raise not_a_model(folder, f"{prefix + name!r} was changed, or belongs to another '{prefix}{JSON_FILE}'")
        earlier = digests


def read_model(folder: Path, prefix: str, device: torch.device | str) -> tuple[dict[str, torch.Tensor], dict]:
    """Read what :func:`write_model` wrote.

    Raises
    ------
    FileNotFoundError
        If one of the files is missing.
    ValueError
        If a file is not of this format, or not as it was written; nothing in it is executed.
    """
    if not (folder / f"{prefix}{JSON_FILE}").is_file():
        raise _no_model(folder, f"{prefix}{JSON_FILE}")
    content, document = read_file(folder, prefix, WEIGHTS_FILE)
    state_dict = read_tensors(folder, f"{prefix}{WEIGHTS_FILE}", content, device)
    if not isinstance(state_dict, dict) or not all(
        isinstance(name, str) and torch.is_tensor(value) for name, value in state_dict.items()
    ):
        raise not_a_model(folder, f"'{prefix}{WEIGHTS_FILE}' has another layout")
    return state_dict, document


def _digest(document: dict) -> str:
    """SHA-256 of a document's content, whatever its layout."""
    return hashlib.sha256(json.dumps(document, separators=(",", ":")).encode()).hexdigest()
