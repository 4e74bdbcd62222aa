"""Whether the index arrays of a sparse matrix stay inside it.

SciPy believes them: a column that does not exist makes its compiled code write outside of an array. Files are read without a
check, so every matrix is looked at before anything is done with it.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp


def check_structure(x, name: str) -> None:
    """Raise ValueError unless each stored value of a sparse matrix has a place in it; others pass.

    Parameters
    ----------
    x
        A matrix; if it is a SciPy one, it is neither changed nor converted.
    name
        What to call it in the error.
    """
    if not sp.issparse(x):
        return
    if x.format in ("csr", "csc"):
        across = x.shape[1] if x.format == "csr" else x.shape[0]
        check_offsets(x.indptr, sum(x.shape) - across, len(x.indices), len(x.data), name)
        _check_range(x.indices[: int(x.indptr[-1])], across, name)
    elif x.format == "coo":
        if any(len(places) != len(x.data) for places in x.coords):
            raise _damaged(name, "it has more places than values, or fewer")
        for places, size in zip(x.coords, x.shape, strict=True):
            _check_range(places, size, name)
    elif x.format == "bsr":
        rows, columns = (size // block for size, block in zip(x.shape, x.blocksize, strict=True))
        check_offsets(x.indptr, rows, len(x.indices), len(x.data), name)
        _check_range(x.indices[: int(x.indptr[-1])], columns, name)


def check_offsets(indptr, n: int, n_indices: int, n_values: int, name: str) -> None:
    """Raise ValueError unless the offsets of compressed rows ascend and end within the stored values.

    Parameters
    ----------
    indptr
        Where each row begins, and the end of the last one.
    n
        Number of rows.
    n_indices, n_values
        Number of stored columns and values.
    name
        What to call the matrix in the error.
    """
    indptr = np.asarray(indptr)
    if indptr.shape != (n + 1,) or indptr.dtype.kind not in "iu":
        raise _damaged(name, f"`indptr` must be {n + 1} integers; it is {indptr.dtype} of shape {indptr.shape}")
    if indptr[0] != 0 or (indptr[1:] < indptr[:-1]).any():
        raise _damaged(name, "`indptr` does not ascend from 0")
    if n_indices != n_values or int(indptr[-1]) > n_values:
        raise _damaged(name, f"`indptr` ends at {indptr[-1]}, of {n_indices} indices and {n_values} values")


def _check_range(indices: np.ndarray, size: int, name: str) -> None:
    if not len(indices):
        return
    if indices.ndim != 1 or indices.dtype.kind not in "iu":
        raise _damaged(name, f"its indices are {indices.dtype} of shape {indices.shape}")
    low, high = indices.min(), indices.max()
    if low < 0 or high >= size:
        raise _damaged(name, f"its indices go from {low} to {high}, of {size}")


def _damaged(name: str, reason: str) -> ValueError:
    return ValueError(f"{name} is not a valid sparse matrix: {reason}. The file is damaged, or was made to do harm.")
