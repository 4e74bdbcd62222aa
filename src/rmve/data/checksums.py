"""Checksums of columns and arrays, by which a later call sees whether they changed."""

from __future__ import annotations

import json
import zlib
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from rmve.maths.sparse_structure import check_structure


def column_checksum(values: pd.Series | pd.Index) -> tuple[str, int]:
    """Kind and checksum of a column's values, whether they are stored as categories or not."""
    plain = pd.Series(np.asarray(values))
    kind = pd.api.types.infer_dtype(plain)
    if kind == "string":  # any text: pandas' hashes are of whole characters
        return kind, zlib.crc32(json.dumps(plain.tolist()).encode())
    hashes = pd.util.hash_pandas_object(plain, index=False).to_numpy()
    return kind, zlib.crc32(hashes.tobytes())


def array_checksum(x: Any, name: str = "") -> object:
    """Shape, type and, in memory, checksum of an array, a frame or a sparse matrix."""
    if x is None:
        return None
    if isinstance(x, pd.DataFrame | pd.Series):
        x = x.to_numpy()
    if sp.issparse(x):
        check_structure(x, f"`{name}`")
        x = x.tocsr()  # another order in memory is no change
        x = x if x.has_sorted_indices else x.sorted_indices()
        return (x.shape, *(array_checksum(part) for part in (x.data, x.indices, x.indptr)))
    if not isinstance(x, np.ndarray):
        return (tuple(x.shape), str(x.dtype))
    if x.dtype == object:
        return (x.shape, zlib.crc32(repr(x.tolist()).encode()))
    return (x.shape, str(x.dtype), zlib.crc32(np.ascontiguousarray(x).view(np.uint8).reshape(-1).data))
