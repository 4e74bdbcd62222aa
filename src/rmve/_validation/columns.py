"""Checks of columns of ``adata.obs``: batches, labels, covariates, size factors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Real

import anndata as ad
import numpy as np
import pandas as pd

from rmve._validation.arguments import shorten

#: Largest size of a covariate: the square of what a network makes of it is a number in single precision.
MAX_COVARIATE = 1e15
#: What the values of a column of categories may be, as pandas calls it, and what RMVE calls it.
KINDS = {"string": "text", "integer": "numbers", "floating": "numbers", "mixed-integer-float": "numbers"}
KINDS |= {"boolean": "True and False", "empty": "nothing"}


def require_column(adata: ad.AnnData, key: str, role: str) -> pd.Series:
    """A column of ``adata.obs``.

    Raises
    ------
    KeyError
        With the columns that there are, if it is missing.
    ValueError
        If there are two of that name.
    """
    if key not in adata.obs:
        raise KeyError(
            f"`{role}={key!r}` is not a column of `adata.obs`. Its columns: {shorten(list(adata.obs)) or 'none'}."
        )
    column = adata.obs[key]
    if not isinstance(column, pd.Series):
        raise ValueError(f"`{role}={key!r}` names {column.shape[1]} columns of `adata.obs`. Rename all but one.")
    return column


def get_keys(name: str, keys: object) -> list[str] | None:
    """Names of columns as a list.

    Raises
    ------
    TypeError
        If they are no list of strings.
    ValueError
        If a name is given twice.
    """
    if keys is None:
        return None
    if isinstance(keys, str | bytes) or not isinstance(keys, Iterable):
        raise TypeError(f"`{name}` must be a list of column names, not {keys!r}.")
    keys = list(keys)
    if any(not isinstance(key, str) for key in keys):
        raise TypeError(f"`{name}` must be a list of strings, names of columns, not {keys!r}.")
    if len(set(keys)) < len(keys):
        raise ValueError(f"`{name}` names a column twice: {shorten(keys)}.")
    return keys


def _kind(values: Iterable) -> str:
    """What categories are: text, numbers, or something else."""
    found = pd.api.types.infer_dtype(np.array([*values], dtype=object), skipna=True)
    return KINDS.get(found, found)


def _is_storable(text: str) -> bool:
    """Whether text has no NUL, at which pandas ends it when it makes categories, and is made of whole characters."""
    return "\0" not in text and text == text.encode("utf-8", "replace").decode("utf-8")


def _check_categories(column: pd.Series, key: str, role: str) -> None:
    """Raise ValueError unless the values are all text, all numbers, or True and False, and pandas tells them apart."""
    values = column.cat.categories if isinstance(column.dtype, pd.CategoricalDtype) else pd.unique(column)
    if values.dtype == np.float16:
        raise ValueError(
            f"`adata.obs[{key!r}]` (`{role}`) holds float16 numbers, which cannot be categories. Convert it with "
            f"`adata.obs[{key!r}] = adata.obs[{key!r}].astype('float32')`."
        )
    odd = [value for value in values if isinstance(value, str) and not _is_storable(value)]
    if odd:
        raise ValueError(
            f"`adata.obs[{key!r}]` (`{role}`) holds text with a NUL character or half of a character, for example "
            f"{odd[0]!r}, which cannot be stored. Rename these values."
        )
    kind = _kind(values)
    if kind not in KINDS.values():
        raise ValueError(
            f"`adata.obs[{key!r}]` (`{role}`) must hold text or numbers, not {kind}, for example {values[0]!r}. Convert it "
            f"with `adata.obs[{key!r}] = adata.obs[{key!r}].astype(str)`."
        )


def check_columns(
    adata: ad.AnnData,
    batch_key: str | None,
    labels_key: str | None,
    size_factor_key: str | None,
    categorical_covariate_keys: Sequence[str] | None,
    continuous_covariate_keys: Sequence[str] | None,
) -> None:
    """Raise unless the columns of ``adata.obs`` exist and are complete.

    Raises
    ------
    KeyError
        If a column is missing.
    ValueError
        If a column has missing values (of a label, too: give unlabelled cells the ``unlabeled_category``) or values of
        several types, a size factor is not positive, or a covariate is not finite.
    """
    categorical = [("batch_key", batch_key), ("labels_key", labels_key)]
    categorical += [("categorical_covariate_keys", key) for key in categorical_covariate_keys or []]
    for role, key in categorical:
        if key is None:
            continue
        column = require_column(adata, key, role)
        missing = int(column.isna().sum())
        if missing:
            hint = (
                "Give unlabelled cells the `unlabeled_category`"
                if role == "labels_key"
                else "Fill them in or remove these cells"
            )
            raise ValueError(f"`adata.obs[{key!r}]` (`{role}`) has {missing} missing value(s). {hint}.")
        if role != "labels_key":  # those have a check of their own
            _check_categories(column, key, role)
    for key in continuous_covariate_keys or []:
        column = require_column(adata, key, "continuous_covariate_keys")
        size = np.abs(_numbers(column))
        if not np.isfinite(size).all():
            raise ValueError(f"`adata.obs[{key!r}]` (`continuous_covariate_keys`) must hold finite numbers.")
        if not (size <= MAX_COVARIATE).all():
            raise ValueError(
                f"`adata.obs[{key!r}]` (`continuous_covariate_keys`) holds numbers above {MAX_COVARIATE:g}, for example "
                f"{size.max():g}. Scale it to a standard deviation of 1."
            )
    if size_factor_key is not None:
        values = _numbers(require_column(adata, size_factor_key, "size_factor_key"))
        limits = np.finfo(np.float32)
        if not ((values >= limits.tiny) & (values <= limits.max)).all():
            raise ValueError(f"`adata.obs[{size_factor_key!r}]` (`size_factor_key`) must hold positive finite numbers.")


def _numbers(column: pd.Series) -> np.ndarray:
    """The values in double precision; NaN where there are none."""
    if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_complex_dtype(column):
        return np.full(len(column), np.nan)
    return column.to_numpy(float, na_value=np.nan)


def check_labels(adata: ad.AnnData, key: str, unlabeled_category: object) -> None:
    """Raise unless the labels are strings, if the mark of unlabelled cells is one.

    Raises
    ------
    TypeError
        If that mark is neither a string nor a number.
    ValueError
        If labels are of another type.
    """
    if not isinstance(unlabeled_category, str | Real) or isinstance(unlabeled_category, bool):
        raise TypeError(f"`unlabeled_category` must be a string or a number, not {unlabeled_category!r}.")
    if unlabeled_category != unlabeled_category:
        raise TypeError("`unlabeled_category` must be a string or a number, not NaN.")
    if key not in adata.obs:
        return
    if isinstance(unlabeled_category, str):
        other = [value for value in adata.obs[key].unique() if not isinstance(value, str)]
        if other:
            raise ValueError(
                f"`adata.obs[{key!r}]` (`labels_key`) holds labels that are no strings, for example {other[0]!r}. "
                f"Convert them with `adata.obs[{key!r}] = adata.obs[{key!r}].astype(str)`."
            )
    _check_categories(adata.obs[key], key, "labels_key")


def check_known(adata: ad.AnnData, key: str, role: str, known: Sequence, advice: str) -> None:
    """Raise ValueError if a column of new data has a category that the model does not know, or has them as another type.

    Parameters
    ----------
    adata
        New cells.
    key, role
        The column, and the argument that named it.
    known
        The model's categories.
    advice
        What to do with cells of an unknown category.
    """
    new = pd.unique(adata.obs[key])
    check_same_type(key, role, new, known)
    unseen = [value for value in new if value not in set(known)]
    if unseen:
        what, where = {
            "batch_key": ("batch(es)", "training"),
            "labels_key": ("label(s)", "the reference"),
        }.get(role, ("value(s)", "training"))
        raise ValueError(
            f"`adata.obs[{key!r}]` has {what} unseen in {where}: {shorten(unseen)}. Known: "
            f"{shorten(list(known), 20)}. {advice}"
        )


def check_same_type(key: str, role: str, new: Iterable, known: Sequence) -> None:
    """Raise ValueError if categories are text where the model has numbers, or the other way round."""
    theirs, ours = _kind(new), _kind(list(known))
    if theirs != ours and "nothing" not in (theirs, ours):
        convert = "str" if ours == "text" else type(list(known)[0]).__name__
        raise ValueError(
            f"`adata.obs[{key!r}]` (`{role}`) holds {theirs}; the model was trained with {ours}: "
            f"{shorten(list(known), 20)}. Convert it with `adata.obs[{key!r}] = adata.obs[{key!r}].astype({convert!r})`."
        )


def check_known_covariates(adata: ad.AnnData, known: Mapping[str, Sequence]) -> None:
    """Raise ValueError if a categorical covariate of new data has a value that the model does not know."""
    for key, values in known.items():
        role = "categorical_covariate_keys"
        check_known(adata, key, role, values, "Train the model with such cells, too.")
