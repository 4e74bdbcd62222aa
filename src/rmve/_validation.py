"""Every check of user input, once. Each error says what is wrong, in which key, and what to do."""

from __future__ import annotations

import difflib
import math
import os
import warnings
from collections.abc import Iterable, Sequence
from numbers import Real
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata.abc import CSCDataset

from rmve.initialization import row_sums, stored_chunks

#: Ratio of the spread of two batches' positions from which on their units seem to differ.
MIXED_UNITS = 10.0


def _where(layer: str | None) -> str:
    return "`adata.X`" if layer is None else f"`adata.layers[{layer!r}]`"


def _shorten(names: Sequence, limit: int = 5) -> str:
    shown = ", ".join(repr(str(name)) for name in names[:limit])
    return shown + (f", ... ({len(names)} in all)" if len(names) > limit else "")


def require_column(adata: ad.AnnData, key: str, role: str) -> pd.Series:
    """A column of ``adata.obs``; KeyError, with the columns that there are, if it is missing."""
    if key not in adata.obs:
        raise KeyError(
            f"`{role}={key!r}` is not a column of `adata.obs`. Its columns: {_shorten(list(adata.obs)) or 'none'}."
        )
    return adata.obs[key]


def check_anndata(adata: ad.AnnData, allow_view: bool = False) -> None:
    """Raise unless ``adata`` is a non-empty AnnData that owns its data (or may be a view).

    Raises
    ------
    TypeError
        If it is not an AnnData.
    ValueError
        If it is empty, a view, or has duplicated gene names.
    """
    if not isinstance(adata, ad.AnnData):
        raise TypeError(f"`adata` must be an AnnData, not {type(adata).__name__}.")
    if adata.n_obs == 0 or adata.n_vars == 0:
        raise ValueError(f"`adata` is empty: {adata.n_obs} cells x {adata.n_vars} genes.")
    if adata.is_view and not allow_view:
        raise ValueError("`adata` is a view of another AnnData. Make it independent with `adata = adata.copy()`.")
    if not adata.var_names.is_unique:
        raise ValueError("`adata.var_names` has duplicates. Call `adata.var_names_make_unique()` first.")


def get_matrix(adata: ad.AnnData, layer: str | None):
    """The data matrix of a layer.

    Raises
    ------
    KeyError
        If there is no such layer.
    ValueError
        If ``layer`` is None and ``adata.X`` is missing.
    """
    if layer is None:
        if adata.X is None:
            raise ValueError("`adata.X` is None. Give the `layer` that holds the data.")
        return adata.X
    if layer not in adata.layers:
        raise KeyError(
            f"`layer={layer!r}` is not in `adata.layers`. Its layers: {_shorten(list(adata.layers)) or 'none'}."
        )
    return adata.layers[layer]


def _values(x):
    """Blocks of the stored values of a matrix: all that can be non-zero."""
    if sp.issparse(x):
        yield x.data
    else:
        for block in stored_chunks(x):
            yield block.data if sp.issparse(block) else block


def check_finite(adata: ad.AnnData, layer: str | None) -> None:
    """Raise unless all values of the matrix are finite numbers.

    Raises
    ------
    TypeError
        If the matrix does not hold numbers.
    ValueError
        If it holds NaN or infinite values, or is on disk by columns.
    """
    x = get_matrix(adata, layer)
    if isinstance(x, CSCDataset):
        raise ValueError(
            f"{_where(layer)} is on disk and stored by columns, so every mini-batch of cells would read all of it. Store "
            "it by rows: `adata = adata.to_memory(); adata.X = adata.X.tocsr(); adata.write_h5ad(...)`."
        )
    if not (np.issubdtype(x.dtype, np.number) or x.dtype == bool) or np.issubdtype(x.dtype, np.complexfloating):
        raise TypeError(f"{_where(layer)} must hold numbers, not {x.dtype}.")
    for values in _values(x):
        if not np.isfinite(values).all():
            raise ValueError(f"{_where(layer)} holds NaN or infinite values. Remove or impute them first.")


def check_values(adata: ad.AnnData, layer: str | None, likelihood: str) -> None:
    """Raise unless the values fit the likelihood.

    Raises
    ------
    ValueError
        For a count likelihood: negative or fractional values, or a cell without counts. For ``"bernoulli"``:
        values outside ``[0, 1]``.
    """
    x = get_matrix(adata, layer)
    for values in _values(x):
        if likelihood == "bernoulli":
            if values.size and (values.min() < 0 or values.max() > 1):
                raise ValueError(
                    f"{_where(layer)} has values outside [0, 1], which `gene_likelihood='bernoulli'` needs."
                )
        elif likelihood != "normal":
            bad = values[(values < 0) | (values != np.round(values))]
            if bad.size:
                kind = "negative" if bad[0] < 0 else "fractional"
                raise ValueError(
                    f"{_where(layer)} has {kind} values (for example {bad[0]:.4g}), but `gene_likelihood={likelihood!r}` "
                    "needs raw counts. Give the layer with the counts as `layer` to `setup_anndata`, or use "
                    "`gene_likelihood='normal'` for log-normalised values."
                )
    if likelihood not in ("normal", "bernoulli"):
        empty = np.flatnonzero(row_sums(x) == 0)
        if empty.size:
            raise ValueError(
                f"{empty.size} cell(s) in {_where(layer)} have no counts, the first is {adata.obs_names[empty[0]]!r}. "
                "Remove them with `sc.pp.filter_cells(adata, min_counts=1)`."
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
        If a column has missing values (of a label, too: give unlabelled cells the ``unlabeled_category``), a
        size factor is not positive, or a covariate is not finite.
    """
    for name, keys in (
        ("categorical_covariate_keys", categorical_covariate_keys),
        ("continuous_covariate_keys", continuous_covariate_keys),
    ):
        if keys is None:
            continue
        if isinstance(keys, str | bytes) or not isinstance(keys, Iterable):
            raise TypeError(f"`{name}` must be a list of column names, not {keys!r}.")
        if any(not isinstance(key, str) for key in keys):
            raise TypeError(f"`{name}` must be a list of strings, names of columns, not {keys!r}.")
        if len(set(keys)) < len(keys):
            raise ValueError(f"`{name}` names a column twice: {_shorten(list(keys))}.")
    categorical = [("batch_key", batch_key), ("labels_key", labels_key)]
    categorical += [("categorical_covariate_keys", key) for key in categorical_covariate_keys or []]
    for role, key in categorical:
        if key is None:
            continue
        missing = int(require_column(adata, key, role).isna().sum())
        if missing:
            hint = (
                "Give unlabelled cells the `unlabeled_category`"
                if role == "labels_key"
                else "Fill them in or remove these cells"
            )
            raise ValueError(f"`adata.obs[{key!r}]` (`{role}`) has {missing} missing value(s). {hint}.")
    for key in continuous_covariate_keys or []:
        column = require_column(adata, key, "continuous_covariate_keys")
        numeric = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_complex_dtype(column)
        if not numeric or not np.isfinite(column.to_numpy(float)).all():
            raise ValueError(f"`adata.obs[{key!r}]` (`continuous_covariate_keys`) must hold finite numbers.")
    if size_factor_key is not None:
        column = require_column(adata, size_factor_key, "size_factor_key")
        values = column.to_numpy(float) if pd.api.types.is_numeric_dtype(column) else np.array([np.nan])
        if not (np.isfinite(values).all() and (values > 0).all()):
            raise ValueError(f"`adata.obs[{size_factor_key!r}]` (`size_factor_key`) must hold positive finite numbers.")


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
    if key not in adata.obs or not isinstance(unlabeled_category, str):
        return
    other = [value for value in adata.obs[key].unique() if not isinstance(value, str)]
    if other:
        raise ValueError(
            f"`adata.obs[{key!r}]` (`labels_key`) holds labels that are no strings, for example {other[0]!r}. "
            f"Convert them with `adata.obs[{key!r}] = adata.obs[{key!r}].astype(str)`."
        )


def find_graph(adata: ad.AnnData, neighbors_key: str):
    """The neighbour graph that ``neighbors_key`` names, in ``adata.obsp`` or through ``adata.uns``.

    Returns
    -------
    The ``(n, n)`` connectivity matrix.

    Raises
    ------
    KeyError
        If there is none of that name.
    ValueError
        If it has negative or non-finite weights, or no edges.
    """
    key = neighbors_key
    if key not in adata.obsp:
        entry = adata.uns.get(key, {})
        key = entry.get("connectivities_key", "") if isinstance(entry, dict) else ""
    if key not in adata.obsp:
        raise KeyError(
            f"`neighbors_key={neighbors_key!r}` names no graph in `adata.obsp` or `adata.uns`. Make one with "
            f"`sc.pp.neighbors(adata)` or `squidpy.gr.spatial_neighbors(adata)`. `adata.obsp` has: "
            f"{_shorten(list(adata.obsp)) or 'nothing'}."
        )
    graph = adata.obsp[key]
    values = graph.data if sp.issparse(graph) else np.asarray(graph)
    if values.size == 0 or not np.isfinite(values).all() or values.min() < 0 or values.max() == 0:
        raise ValueError(f"`adata.obsp[{key!r}]` must have finite, non-negative weights and at least one edge.")
    return graph


def get_coordinates(adata: ad.AnnData, spatial_key: str) -> np.ndarray:
    """Coordinates of the cells, shape ``(n, 1 to 3)``, with rows of NaN where unknown.

    Raises
    ------
    KeyError
        If ``adata.obsm`` has no such key.
    ValueError
        If the array is not numeric, has more than three columns, infinite or partly missing rows, or fewer
        than three cells with a position.
    """
    if spatial_key not in adata.obsm:
        raise KeyError(
            f"`spatial_key={spatial_key!r}` is not in `adata.obsm`. Its keys: {_shorten(list(adata.obsm)) or 'none'}."
        )
    coordinates = np.asarray(adata.obsm[spatial_key])
    try:
        if coordinates.dtype.kind in "US":  # NumPy would read numbers in it
            raise TypeError
        coordinates = coordinates.astype(np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"`adata.obsm[{spatial_key!r}]` must hold numbers.") from None
    if coordinates.ndim != 2 or not 1 <= coordinates.shape[1] <= 3:
        raise ValueError(f"`adata.obsm[{spatial_key!r}]` must have 1 to 3 columns; its shape is {coordinates.shape}.")
    missing = np.isnan(coordinates)
    if np.isinf(coordinates).any() or (missing.any(1) != missing.all(1)).any():
        raise ValueError(
            f"`adata.obsm[{spatial_key!r}]` has infinite or partly missing rows. A cell of unknown position is a row of NaN."
        )
    if (~missing.any(1)).sum() < 3:
        raise ValueError(f"`adata.obsm[{spatial_key!r}]` has fewer than three cells with a position.")
    constant = np.flatnonzero(np.nanmax(coordinates, 0) == np.nanmin(coordinates, 0))
    if len(constant):
        raise ValueError(
            f"Column {constant[0]} of `adata.obsm[{spatial_key!r}]` is the same for all cells. Drop it: "
            "there is nothing to map to."
        )
    return coordinates


def check_n_positions(n_known: int, n_latent: int) -> None:
    """Raise ValueError unless a linear map from the latent space is determined by the cells with a position."""
    if n_known < n_latent + 2:
        raise ValueError(
            f"A linear map from {n_latent} latent dimensions needs at least {n_latent + 2} cells with a position; "
            f"there are {n_known}. Give more positions, or fewer latent dimensions (`n_latent`)."
        )


def warn_of_mixed_units(adata: ad.AnnData, spatial_key: str, batch_key: str) -> None:
    """Warn if the positions of one batch are spread :data:`MIXED_UNITS` times wider than another's."""
    coordinates = pd.DataFrame(get_coordinates(adata, spatial_key)).groupby(adata.obs[batch_key].to_numpy())
    spread = np.sqrt((coordinates.std() ** 2).mean(axis=1)).dropna()
    spread = spread[spread > 0]
    if len(spread) > 1 and spread.max() > MIXED_UNITS * spread.min():
        warnings.warn(
            f"The positions in `adata.obsm[{spatial_key!r}]` are spread over {spread.max():.3g} in batch "
            f"{str(spread.idxmax())!r} of `adata.obs[{batch_key!r}]` and over {spread.min():.3g} in {str(spread.idxmin())!r}. "
            "One map serves all batches: bring them to the same unit and frame first.",
            UserWarning,
            stacklevel=3,
        )


def check_genes(var_names: pd.Index, expected: Sequence[str]) -> None:
    """Raise unless new data has the model's genes in the model's order.

    Raises
    ------
    ValueError
        If genes are missing, superfluous, or in another order.
    """
    expected = pd.Index(expected)
    if len(var_names) == len(expected) and (var_names.astype(str) == expected.astype(str)).all():
        return
    missing = expected.difference(var_names)
    if len(missing):
        raise ValueError(
            f"`adata` lacks {len(missing)} of the model's {len(expected)} genes: {_shorten(list(missing))}. "
            "`RMVE.prepare_query_anndata(adata, model)` fills them with zeros."
        )
    raise ValueError(
        "`adata` has the model's genes in another order, or more genes. "
        "Put them in order with `adata = adata[:, model.get_var_names()].copy()`."
    )


def check_choice(name: str, value: object, choices: Sequence) -> None:
    """Raise ValueError unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, choices))}; got {value!r}.")


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


def check_start(start: object, n_obs: int, n_components: int) -> np.ndarray:
    """Partition to start from, as integers of shape ``(n_obs,)``.

    Raises
    ------
    ValueError
        If it is not one integer in ``[0, n_components)`` for each cell.
    """
    start = np.asarray(start)
    if start.shape != (n_obs,) or start.dtype.kind not in "iu":
        raise ValueError(
            f"`start` must be {n_obs} integers, one for each cell, not of shape {start.shape} and type {start.dtype}."
        )
    if start.min() < 0 or start.max() >= n_components:
        raise ValueError(f"`start` must lie in [0, {n_components}); it goes from {start.min()} to {start.max()}.")
    return start.astype(np.int64)


def check_positive_int(name: str, value: object, minimum: int = 1) -> None:
    """Raise unless ``value`` is an integer of at least ``minimum``."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < minimum:
        raise ValueError(f"`{name}` must be an integer of at least {minimum}; got {value!r}.")


def check_string(name: str, value: object) -> None:
    """Raise TypeError unless ``value`` is a string."""
    if not isinstance(value, str):
        raise TypeError(f"`{name}` must be a string, not {value!r}.")


def check_number(
    name: str, value: object, low: float = 0.0, high: float = math.inf, with_low: bool = True, with_high: bool = True
) -> None:
    """Raise ValueError unless ``value`` is a number between two others, which may themselves be left out."""
    number = isinstance(value, Real) and not isinstance(value, bool | np.bool_)
    above = number and (value >= low if with_low else value > low)  # false for NaN
    if not (above and (value <= high if with_high else value < high)):
        left, right = "[" if with_low else "(", "]" if with_high and high < math.inf else ")"
        raise ValueError(f"`{name}` must be a number in {left}{low:g}, {high:g}{right}; got {value!r}.")


def check_flag(name: str, value: object) -> None:
    """Raise TypeError unless ``value`` is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"`{name}` must be True or False, not {value!r}.")


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


def check_names(what: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Raise TypeError for a name of an option that does not exist, with the one that may be meant."""
    known = sorted(known)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
            hint = f"Did you mean {near[0]!r}?" if near else f"There are: {_shorten(known, 50)}"
            raise TypeError(f"{name!r} is not an option of {what}. {hint.rstrip('?.')}{'?' if near else '.'}")


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


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def get_folder(name: str, path: object) -> Path:
    """A path of a folder that may or may not exist.

    Raises
    ------
    TypeError
        If it is no path.
    FileExistsError
        If it is a file.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"`{name}` must be a path, not {path!r}.")
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"`{name}` must be a folder, but {str(folder)!r} is a file.")
    return folder


def check_prefix(prefix: object) -> None:
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


#: Precisions that training supports, in PyTorch Lightning's names.
PRECISIONS = ("32-true", "32", 32, "bf16-mixed", "bf16")


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


def check_known_labels(adata: ad.AnnData, key: str, known: Sequence) -> None:
    """Raise ValueError if new data has a label that the reference does not know."""
    unseen = [label for label in pd.unique(adata.obs[key]) if label not in set(known)]
    if unseen:
        raise ValueError(
            f"`adata.obs[{key!r}]` has label(s) unseen in the reference: {_shorten(unseen)}. Known: "
            f"{_shorten(list(known), 20)}. Mark these cells with the `unlabeled_category` to find their cluster."
        )


def check_known_batches(adata: ad.AnnData, key: str, known: Sequence) -> None:
    """Raise ValueError if new data has a batch that the model was not trained on."""
    unseen = [batch for batch in pd.unique(adata.obs[key]) if batch not in set(known)]
    if unseen:
        raise ValueError(
            f"`adata.obs[{key!r}]` has batch(es) unseen in training: {_shorten(unseen)}. "
            "Map new batches with `RMVE.load_query_data(adata, model)`."
        )


def check_key_added(adata: ad.AnnData, key: str, registered: Sequence[str | None]) -> None:
    """Raise unless results can be written under ``key`` without losing the user's data.

    Raises
    ------
    TypeError
        If it is not a string.
    ValueError
        If it is empty, holds ``/`` (which h5ad cannot store), or names a column that is not a result of this model.
    """
    if not isinstance(key, str):
        raise TypeError(f"`key_added` must be a string, not {type(key).__name__}.")
    if not key or "/" in key:
        raise ValueError(f"`key_added` must not be empty or hold '/'; got {key!r}.")
    if key in registered or (key in adata.obs and key not in adata.uns):
        raise ValueError(f"`key_added={key!r}` would overwrite `adata.obs[{key!r}]`. Choose another name.")
