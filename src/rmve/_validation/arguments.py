"""Checks of plain arguments: numbers, choices, names of options, rows, paths."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Iterable, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

#: Precisions that training supports, in PyTorch Lightning's names.
PRECISIONS = ("32-true", "32", 32, "bf16-mixed", "bf16")


def shorten(names: Sequence, limit: int = 5) -> str:
    """The first of the names, and how many there are."""
    shown = ", ".join(repr(str(name)) for name in names[:limit])
    return shown + (f", ... ({len(names)} in all)" if len(names) > limit else "")


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def check_choice(name: str, value: object, choices: Sequence) -> None:
    """Raise ValueError unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, choices))}; got {value!r}.")


def check_string(name: str, value: object) -> None:
    """Raise TypeError unless ``value`` is a string."""
    if not isinstance(value, str):
        raise TypeError(f"`{name}` must be a string, not {value!r}.")


def check_flag(name: str, value: object) -> None:
    """Raise TypeError unless ``value`` is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"`{name}` must be True or False, not {value!r}.")


def check_positive_int(name: str, value: object, minimum: int = 1) -> None:
    """Raise unless ``value`` is an integer of at least ``minimum``."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < minimum:
        raise ValueError(f"`{name}` must be an integer of at least {minimum}; got {value!r}.")


def check_number(
    name: str, value: object, low: float = 0.0, high: float = math.inf, with_low: bool = True, with_high: bool = True
) -> None:
    """Raise ValueError unless ``value`` is a number between two others, which may themselves be left out."""
    number: Any = value if isinstance(value, Real) and not isinstance(value, bool | np.bool_) else math.nan
    above = number >= low if with_low else number > low  # false for NaN
    if not (above and (number <= high if with_high else number < high)):
        left, right = "[" if with_low else "(", "]" if with_high and high < math.inf else ")"
        raise ValueError(f"`{name}` must be a number in {left}{low:g}, {high:g}{right}; got {value!r}.")


def check_names(what: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Raise TypeError for a name of an option that does not exist, with the one that may be meant."""
    known = sorted(known)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
            hint = f"Did you mean {near[0]!r}?" if near else f"There are: {shorten(known, 50)}"
            raise TypeError(f"{name!r} is not an option of {what}. {hint.rstrip('?.')}{'?' if near else '.'}")


def check_n_components(n_components: int, n_obs: int | None, n_labels: int) -> None:
    """Raise unless the number of components is a whole number that the data can fill.

    Raises
    ------
    TypeError
        If it is not an integer.
    ValueError
        If it is below 1, above the number of cells, or below the number of labels.
    """
    if not isinstance(n_components, int | np.integer) or isinstance(n_components, bool):
        raise TypeError(f"`n_components` must be an integer or None, not {n_components!r}.")
    if n_components < 1:
        raise ValueError(f"`n_components` must be at least 1; got {n_components}.")
    if n_obs is not None and n_components > n_obs:
        raise ValueError(f"`n_components={n_components}` is more than the {n_obs} cell(s) of `adata`.")
    if n_components < n_labels:
        raise ValueError(f"`n_components={n_components}` is less than the {n_labels} labels in `labels_key`.")


def check_n_positions(n_known: int, n_latent: int, n_held_out: int = 0) -> None:
    """Raise ValueError unless a linear map from the latent space is determined by the cells with a position.

    Parameters
    ----------
    n_known
        Cells with a position.
    n_latent
        Dimensions of the latent space.
    n_held_out
        Of these cells, those that judge the map.
    """
    needed = n_latent + 2 + n_held_out
    if n_known < needed:
        judges = f", {n_held_out} of them to judge the map" if n_held_out else ""
        raise ValueError(
            f"A linear map from {n_latent} latent dimensions needs at least {needed} cells with a position{judges}; "
            f"there are {n_known}. Give more positions, or fewer latent dimensions (`n_latent`)."
        )


def check_start(start: object, n_obs: int) -> np.ndarray:
    """Partition to start from, as integers of shape ``(n_obs,)``.

    Raises
    ------
    ValueError
        If it is not one integer in ``[0, n_obs)`` for each cell.
    """
    start = np.asarray(start)
    if start.shape != (n_obs,) or start.dtype.kind not in "iu":
        raise ValueError(
            f"`start` must be {n_obs} integers, one for each cell, not of shape {start.shape} and type {start.dtype}."
        )
    if start.min() < 0 or start.max() >= n_obs:
        raise ValueError(f"`start` must lie in [0, {n_obs}); it goes from {start.min()} to {start.max()}.")
    return start.astype(np.int64)


def check_split(train_size: float | None, validation_size: float | None, early_stopping: bool, n_obs: int) -> None:
    """Raise ValueError unless the shares of training and validation cells leave some for what is asked."""
    if train_size is not None:
        check_number("train_size", train_size, 0.0, 1.0, with_low=False)
        if math.ceil(train_size * n_obs) < 2:
            raise ValueError(f"`train_size={train_size}` leaves fewer than two of {n_obs} cells. Raise it.")
    if validation_size is not None:
        check_number("validation_size", validation_size, 0.0, 1.0, with_high=False)
        if train_size is not None and train_size + validation_size > 1.0 + 1e-9:
            raise ValueError(
                f"`train_size={train_size}` and `validation_size={validation_size}` are more than all cells."
            )
    if early_stopping and (validation_size == 0 or (train_size == 1.0 and validation_size is None)):
        raise ValueError("`early_stopping` needs validation cells. Leave out `train_size`, or lower it.")


def check_training_options(precision: object, plan_kwargs: object) -> None:
    """Raise ValueError for options of scvi-tools' and Lightning's training that RMVE does without.

    Half precision with 5 bits of exponent overflows at the counts of one cell; whole models in low precision lose small
    updates; and a compiled training step was measured to be slower than the plain one, whose gradients are hand-derived.
    """
    if precision not in PRECISIONS:
        raise ValueError(
            f"`precision={precision!r}` is not supported: counts and their likelihood need the range and digits of "
            "single precision. Use '32-true', or 'bf16-mixed' for matrix products in bfloat16."
        )
    if isinstance(plan_kwargs, dict) and plan_kwargs.get("compile"):
        raise ValueError(
            "`compile=True` is not supported: the costly parts of the training step are derived by hand, and compiling "
            "what is left made it slower. Leave it out."
        )


def get_indices(indices: object, n_obs: int) -> np.ndarray | None:
    """Rows as integers, from row numbers or from a mask; ``None`` stays ``None``.

    Raises
    ------
    ValueError
        If they are no rows of ``n_obs`` cells.
    """
    if indices is None:
        return None
    rows = np.asarray(indices)
    if rows.ndim != 1 or rows.size == 0 or rows.dtype.kind not in "biu":
        raise ValueError(
            f"`indices` must be row numbers, or a mask with an entry for each cell; got {_brief(indices)}."
        )
    if rows.dtype.kind == "b":
        if len(rows) != n_obs or not rows.any():
            raise ValueError(
                f"`indices` is a mask of {len(rows)} entries, {rows.sum()} of them True, for {n_obs} cells."
            )
        return np.flatnonzero(rows)
    if rows.min() < 0 or rows.max() >= n_obs:
        raise ValueError(f"`indices` must lie in [0, {n_obs}); they go from {rows.min()} to {rows.max()}.")
    return rows


def get_folder(name: str, path: object) -> Path:
    """A path of a folder that may or may not exist.

    Raises
    ------
    TypeError
        If it is no path.
    ValueError
        If it holds a NUL character.
    FileExistsError
        If it is a file.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"`{name}` must be a path, not {path!r}.")
    if "\0" in os.fsdecode(path):
        raise ValueError(f"`{name}` must not hold a NUL character; got {os.fsdecode(path)!r}.")
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"`{name}` must be a folder, but {str(folder)!r} is a file.")
    return folder


def check_prefix(prefix: str | None) -> None:
    """Raise unless ``prefix`` can begin the name of a file, and leads to no other folder.

    Raises
    ------
    TypeError
        If it is not a string.
    ValueError
        If it begins with a dot or holds a character that has a meaning in paths.
    """
    if prefix is None:
        return
    check_string("prefix", prefix)
    if prefix.startswith((".", "~")) or any(character in prefix for character in "/\\:\0"):
        raise ValueError(f"`prefix` begins names of files: no '.' at its start, no '/', '\\' or ':'; got {prefix!r}.")
