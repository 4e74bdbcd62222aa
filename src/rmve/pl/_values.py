"""What a name says of each cell: a column of ``adata.obs``, or the values of a gene."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from rmve._validation.arguments import shorten
from rmve.data.on_disk import is_on_disk, stored_chunks

#: Names that an error suggests, at most.
MAX_SUGGESTIONS = 3


def find_column(adata: AnnData, name: str, layer: str | None = None, use_raw: bool | None = None) -> pd.Series:
    """A column of ``adata.obs``, or the values of a gene.

    A column goes before a gene of the same name, as in scanpy.

    Parameters
    ----------
    adata
        Cells, in memory or on disk.
    name
        The column, or the gene.
    layer
        Layer with the values of the gene; ``None`` is ``adata.X``.
    use_raw
        Whether the values of the gene are those of ``adata.raw``. ``None``: if there are any, and no layer is given.

    Raises
    ------
    KeyError
        If there is no such column, gene or layer.
    ValueError
        If both a layer and ``adata.raw`` are asked for, ``adata.raw`` is missing, or several genes have the name.
    """
    if layer is not None and use_raw:
        raise ValueError("`layer` and `use_raw=True` exclude each other. Leave one of them out.")
    if use_raw and adata.raw is None:
        raise ValueError("`use_raw=True` needs `adata.raw`, which is missing.")
    if layer is not None and layer not in adata.layers:
        raise KeyError(
            f"`layer={layer!r}` is not in `adata.layers`.{suggestion(layer, adata.layers)} "
            f"Its keys: {shorten(list(adata.layers)) or 'none'}."
        )
    if name in adata.obs:
        return adata.obs[name]
    raw = adata.raw if use_raw or (use_raw is None and layer is None) else None
    part = raw if raw is not None and (use_raw or name in raw.var_names) else adata
    values = part.X if layer is None else adata.layers[layer]
    if name in part.var_names and values is not None:
        return pd.Series(_gene(values, part.var_names, name), index=adata.obs_names)
    columns = shorten(list(adata.obs.columns), 20) or "none"
    near = suggestion(name, [*adata.obs.columns, *part.var_names])
    raise KeyError(f"{name!r} is neither a column of `adata.obs` nor a gene.{near} The columns: {columns}.")


def read_mask(adata: AnnData, mask: str | Sequence[bool] | np.ndarray | None) -> np.ndarray:
    """Cells that a mask chooses, shape ``(n,)``, as scanpy reads ``mask_obs``.

    Parameters
    ----------
    adata
        Cells.
    mask
        Boolean column of ``adata.obs``, or a boolean for each cell; ``None`` chooses all.

    Raises
    ------
    KeyError
        If there is no such column.
    ValueError
        If the mask is not boolean, or of other cells.
    """
    if mask is None:
        return np.ones(adata.n_obs, dtype=bool)
    if isinstance(mask, str) and mask not in adata.obs:
        near = suggestion(mask, adata.obs.columns)
        raise KeyError(f"`mask_obs={mask!r}` is not a column of `adata.obs`.{near}")
    values = pd.Series(adata.obs[mask] if isinstance(mask, str) else mask)
    if not pd.api.types.is_bool_dtype(values):
        raise ValueError(f"`mask_obs` must be boolean; its values are {values.dtype}.")
    if len(values) != adata.n_obs:
        raise ValueError(f"`mask_obs` has {len(values)} entries, and there are {adata.n_obs} cells.")
    return values.to_numpy(bool, na_value=False)


def is_number(column: pd.Series) -> bool:
    """Whether a column holds numbers, as against categories."""
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def suggestion(name: object, known: Iterable[object]) -> str:
    """A sentence that asks whether similar names are meant, whatever their case; empty if there are none.

    Parameters
    ----------
    name
        What was not found.
    known
        Names that there are.
    """
    by_lower: dict[str, str] = {}
    for other in map(str, known):
        by_lower.setdefault(other.lower(), other)
    near = difflib.get_close_matches(str(name).lower(), by_lower, n=MAX_SUGGESTIONS)
    return f" Did you mean {' or '.join(repr(by_lower[other]) for other in near)}?" if near else ""


def _gene(x, genes: pd.Index, name: str) -> np.ndarray:
    """Values of one gene, shape ``(n,)``; a matrix on disk is read in blocks of rows."""
    columns = np.flatnonzero(genes == name)
    if len(columns) > 1:
        raise ValueError(f"{len(columns)} genes are called {name!r}. Call `adata.var_names_make_unique()` first.")
    blocks = stored_chunks(x) if is_on_disk(x) else [x]
    values = [block[:, columns] for block in blocks]
    return np.concatenate([np.ravel(each.toarray() if sp.issparse(each) else np.asarray(each)) for each in values])
