"""Checks of an AnnData object as a whole, its matrix and its genes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata.abc import CSCDataset, CSRDataset

from rmve._validation.arguments import shorten
from rmve.data.on_disk import check_matrix, stored_chunks
from rmve.likelihoods import get_likelihood

#: Packages whose matrices stay on disk and are read by rows.
ON_DISK = ("anndata", "h5py", "zarr")
#: Largest number in single precision, in which RMVE computes.
LARGEST = float(np.finfo(np.float32).max)
#: Cells that tell whether a matrix holds counts.
PEEK = 200


def _where(layer: str | None) -> str:
    return "`adata.X`" if layer is None else f"`adata.layers[{layer!r}]`"


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
    for name in ("obs", "var"):
        if not isinstance(getattr(adata, name), pd.DataFrame):
            raise TypeError(f"`adata.{name}` is not in memory. Read it with `adata = adata.to_memory()`.")
    if adata.is_view and allow_view:
        check_structures(adata)
    if adata.n_obs == 0 or adata.n_vars == 0:
        raise ValueError(f"`adata` is empty: {adata.n_obs} cells x {adata.n_vars} genes.")
    if adata.is_view and not allow_view:
        copy = "to_memory" if adata.isbacked else "copy"  # a part of a file has no copy
        raise ValueError(f"`adata` is a view of another AnnData. Make it independent with `adata = adata.{copy}()`.")
    if not adata.var_names.is_unique:
        raise ValueError("`adata.var_names` has duplicates. Call `adata.var_names_make_unique()` first.")


def check_structures(adata: ad.AnnData) -> None:
    """Raise ValueError unless all matrices can be subset, those on disk included: an AnnData is, as a whole.

    Of a view, that is all that it is a view of.
    """
    adata = adata._adata_ref if adata.is_view else adata
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


@dataclass(frozen=True)
class Values:
    """What the values of a matrix are like, from one pass over it.

    Attributes
    ----------
    low, high
        Smallest and largest stored value; 0 if there is none.
    uncountable
        First value that is negative or fractional, so no count; ``None`` if there is none.
    totals
        Sum of each row, shape ``(n,)``.
    """

    low: float
    high: float
    uncountable: float | None
    totals: np.ndarray


def check_finite(adata: ad.AnnData, layer: str | None) -> Values:
    """What the values of a matrix are like; raise unless all are finite numbers.

    Raises
    ------
    TypeError
        If it is no matrix of NumPy, SciPy or a file, or does not hold numbers that can be computed with.
    ValueError
        If it holds NaN or infinite values, or is on disk by columns.
    """
    x = get_matrix(adata, layer)
    where = _where(layer)
    package = type(x).__module__.partition(".")[0]
    if type(x) is not np.ndarray and not sp.issparse(x) and package not in ON_DISK:
        advice = f"Read it into memory with `{where[1:-1]} = {where[1:-1]}.compute()`" if package == "dask" else ""
        advice = advice or "Convert it to a NumPy array or a SciPy matrix"
        raise TypeError(
            f"{where} is a {type(x).__name__} of {package}, which RMVE cannot read. {advice}, or open the h5ad file with "
            '`anndata.read_h5ad(path, backed="r")`.'
        )
    if isinstance(x, CSCDataset):
        raise ValueError(
            f"{_where(layer)} is on disk and stored by columns, so every mini-batch of cells would read all of it. Store "
            "it by rows: `adata = adata.to_memory(); adata.X = adata.X.tocsr(); adata.write_h5ad(...)`."
        )
    if not (np.issubdtype(x.dtype, np.number) or x.dtype == bool) or np.issubdtype(x.dtype, np.complexfloating):
        raise TypeError(f"{where} must hold numbers, not {x.dtype}.")
    if x.dtype.kind == "f" and (x.dtype.itemsize not in (4, 8) or not x.dtype.isnative):
        raise TypeError(
            f"{where} holds {x.dtype} numbers, which cannot be computed with. Convert them with "
            f"`{where[1:-1]} = {where[1:-1]}.astype('float32')`."
        )
    low, high, uncountable, totals = 0.0, 0.0, None, []
    for block in [x] if sp.issparse(x) else stored_chunks(x):
        values = block.data if sp.issparse(block) else block
        if not np.isfinite(values).all():
            raise ValueError(f"{where} holds NaN or infinite values. Remove or impute them first.")
        if values.dtype == np.float64 and values.size and max(values.max(), -values.min()) > LARGEST:
            raise ValueError(f"{where} holds values above {LARGEST:.3g}, the largest in single precision. Scale them.")
        if values.size:
            low, high = min(low, float(values.min())), max(high, float(values.max()))
        if uncountable is None:
            bad = values[(values < 0) | (values != np.round(values))]
            uncountable = float(bad[0]) if bad.size else None
        totals.append(np.asarray(block.sum(axis=1), dtype=np.float64).ravel())
    return Values(low, high, uncountable, np.concatenate(totals))


def check_values(adata: ad.AnnData, layer: str | None, likelihood: str, values: Values) -> None:
    """Raise unless the values fit the likelihood.

    Parameters
    ----------
    adata, layer
        Cells, and where their values are.
    likelihood
        ``gene_likelihood`` of the model.
    values
        From :func:`check_finite`.

    Raises
    ------
    ValueError
        If the likelihood has a problem with a value (:meth:`rmve.likelihoods.Likelihood.problem`), or takes counts and a
        cell has none.
    """
    expected = get_likelihood(likelihood)
    examples = [values.low, values.high]
    problem = expected.problem(np.array(examples if values.uncountable is None else [values.uncountable, *examples]))
    if problem is not None:
        advice = ""
        if expected.takes_counts:
            where = _where_counts_are(adata, layer)
            advice = f" {where}, or use `gene_likelihood='normal'` for log-normalised values."
        raise ValueError(f"{_where(layer)} has {problem}.{advice}")
    if not expected.takes_counts:
        return
    empty = np.flatnonzero(values.totals == 0)
    if empty.size:
        raise ValueError(
            f"{empty.size} cell(s) in {_where(layer)} have no counts, the first is {adata.obs_names[empty[0]]!r}. "
            "Remove them with `sc.pp.filter_cells(adata, min_counts=1)`."
        )


def _where_counts_are(adata: ad.AnnData, layer: str | None) -> str:
    """Advice on the counts: the layers that hold some, ``adata.raw``, or ``X``."""
    layers = [name for name in adata.layers if name != layer and _looks_like_counts(adata.layers[name], _where(name))]
    if layers:
        return f"Give the layer with the counts to `setup_anndata`, here `layer={layers[0]!r}`"
    if layer is not None and adata.X is not None and _looks_like_counts(adata.X, _where(None)):
        return "`adata.X` holds counts: leave out `layer`"
    if adata.raw is not None and _looks_like_counts(adata.raw.X, "`adata.raw.X`"):
        missing = len(adata.var_names.difference(adata.raw.var_names))
        if missing:
            return f"`adata.raw` holds counts, but lacks {missing} of the genes in `adata.var_names`: leave these out first"
        return (
            "`adata.raw` holds counts: `adata.layers['counts'] = adata.raw[:, adata.var_names].X`, and "
            "`layer='counts'` to `setup_anndata` (`--layer raw` on the command line)"
        )
    return "There are none in `adata`: neither another layer nor `adata.raw` holds counts. Read them from the original file"


def _looks_like_counts(x, name: str) -> bool:
    check_matrix(x, name)
    block = next(stored_chunks(x, np.arange(min(PEEK, x.shape[0]))))
    values = block.data if sp.issparse(block) else np.asarray(block)
    return (
        values.dtype.kind in "biuf" and values.size > 0 and bool(((values >= 0) & (values == np.round(values))).all())
    )


def check_genes(var_names: pd.Index, expected: Sequence[str]) -> None:
    """Raise unless new data has the model's genes in the model's order.

    Raises
    ------
    ValueError
        If genes are missing, superfluous, or in another order.
    """
    names = pd.Index(expected)
    if len(var_names) == len(names) and (var_names.astype(str) == names.astype(str)).all():
        return
    missing = names.difference(var_names)
    if len(missing):
        raise ValueError(
            f"`adata` lacks {len(missing)} of the model's {len(names)} genes: {shorten(list(missing))}. "
            "`RMVE.prepare_query_anndata(adata, model)` fills them with zeros."
        )
    raise ValueError(
        "`adata` has the model's genes in another order, or more genes. "
        "Put them in order with `adata = adata[:, model.get_var_names()].copy()`."
    )
