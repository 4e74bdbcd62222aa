"""Checks of an AnnData object: its matrix, columns, labels, graph, coordinates and names."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from numbers import Real

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata.abc import CSCDataset, CSRDataset

from rmve._validation.arguments import shorten
from rmve.backed import check_matrix
from rmve.initialization import row_sums, stored_chunks

#: Ratio of the spread of two batches' positions from which on their units seem to differ.
MIXED_UNITS = 10.0


def _where(layer: str | None) -> str:
    return "`adata.X`" if layer is None else f"`adata.layers[{layer!r}]`"


def require_column(adata: ad.AnnData, key: str, role: str) -> pd.Series:
    """A column of ``adata.obs``; KeyError, with the columns that there are, if it is missing."""
    if key not in adata.obs:
        raise KeyError(
            f"`{role}={key!r}` is not a column of `adata.obs`. Its columns: {shorten(list(adata.obs)) or 'none'}."
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
    if adata.is_view and allow_view:
        check_structures(adata._adata_ref)
    if adata.n_obs == 0 or adata.n_vars == 0:
        raise ValueError(f"`adata` is empty: {adata.n_obs} cells x {adata.n_vars} genes.")
    if adata.is_view and not allow_view:
        raise ValueError("`adata` is a view of another AnnData. Make it independent with `adata = adata.copy()`.")
    if not adata.var_names.is_unique:
        raise ValueError("`adata.var_names` has duplicates. Call `adata.var_names_make_unique()` first.")


def check_structures(adata: ad.AnnData) -> None:
    """Raise ValueError unless all matrices can be subset, those on disk included: an AnnData is, as a whole."""
    matrices = {"`adata.X`": adata.X, "`adata.raw.X`": None if adata.raw is None else adata.raw.X}
    for part in ("layers", "obsp", "varp", "obsm", "varm"):
        matrices |= {f"`adata.{part}[{key!r}]`": x for key, x in getattr(adata, part).items()}
    for name, x in matrices.items():
        check_matrix(x, name)
        if isinstance(x, CSRDataset):
            for _ in stored_chunks(x):  # each block is checked when it is read
                pass


def get_matrix(adata: ad.AnnData, layer: str | None):
    """The data matrix of a layer.

    Raises
    ------
    KeyError
        If there is no such layer.
    ValueError
        If ``layer`` is None and ``adata.X`` is missing, or its sparse matrix points outside of itself.
    """
    if layer is None:
        if adata.X is None:
            raise ValueError("`adata.X` is None. Give the `layer` that holds the data.")
        x = adata.X
    elif layer in adata.layers:
        x = adata.layers[layer]
    else:
        raise KeyError(
            f"`layer={layer!r}` is not in `adata.layers`. Its layers: {shorten(list(adata.layers)) or 'none'}."
        )
    check_matrix(x, _where(layer))
    return x


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
            raise ValueError(f"`{name}` names a column twice: {shorten(list(keys))}.")
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


def check_known_labels(adata: ad.AnnData, key: str, known: Sequence) -> None:
    """Raise ValueError if new data has a label that the reference does not know."""
    unseen = [label for label in pd.unique(adata.obs[key]) if label not in set(known)]
    if unseen:
        raise ValueError(
            f"`adata.obs[{key!r}]` has label(s) unseen in the reference: {shorten(unseen)}. Known: "
            f"{shorten(list(known), 20)}. Mark these cells with the `unlabeled_category` to find their cluster."
        )


def check_known_batches(adata: ad.AnnData, key: str, known: Sequence) -> None:
    """Raise ValueError if new data has a batch that the model was not trained on."""
    unseen = [batch for batch in pd.unique(adata.obs[key]) if batch not in set(known)]
    if unseen:
        raise ValueError(
            f"`adata.obs[{key!r}]` has batch(es) unseen in training: {shorten(unseen)}. "
            "Map new batches with `RMVE.load_query_data(adata, model)`."
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
        If it has negative or non-finite weights, or no edges, or points to cells that do not exist.
    """
    key = neighbors_key
    if key not in adata.obsp:
        entry = adata.uns.get(key, {})
        key = entry.get("connectivities_key", "") if isinstance(entry, dict) else ""
    if key not in adata.obsp:
        raise KeyError(
            f"`neighbors_key={neighbors_key!r}` names no graph in `adata.obsp` or `adata.uns`. Make one with "
            f"`sc.pp.neighbors(adata)` or `squidpy.gr.spatial_neighbors(adata)`. `adata.obsp` has: "
            f"{shorten(list(adata.obsp)) or 'nothing'}."
        )
    graph = adata.obsp[key]
    check_matrix(graph, f"`adata.obsp[{key!r}]`")
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
            f"`spatial_key={spatial_key!r}` is not in `adata.obsm`. Its keys: {shorten(list(adata.obsm)) or 'none'}."
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
            f"`adata` lacks {len(missing)} of the model's {len(expected)} genes: {shorten(list(missing))}. "
            "`RMVE.prepare_query_anndata(adata, model)` fills them with zeros."
        )
    raise ValueError(
        "`adata` has the model's genes in another order, or more genes. "
        "Put them in order with `adata = adata[:, model.get_var_names()].copy()`."
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
