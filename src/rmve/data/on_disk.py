"""Matrices that are read in blocks, and those that stay on disk: an h5ad opened with ``backed="r"``, or ``anndata.io.sparse_dataset`` of h5ad or zarr.

Rows are read in runs, never one by one and never all at once. Training reads a random set of short runs at a time and
draws its mini-batches from the cells in them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy.sparse as sp
from anndata.abc import CSCDataset, CSRDataset

from rmve.maths.sparse_structure import check_offsets, check_structure

#: Cells in a run that is read at once, and cells that are in memory at once.
RUN_LENGTH, CELLS_IN_MEMORY = 256, 32_768
#: Wanted rows at most this far apart are read in one run.
MAX_GAP = 64
#: Rows of a block, where all of a matrix is read and nothing else is said.
CHUNK = 4096


def is_on_disk(x) -> bool:
    """Whether a data matrix is a file's, and not in memory."""
    return isinstance(x, CSRDataset | CSCDataset) or not (isinstance(x, np.ndarray) or sp.issparse(x))


def read_rows(x, rows: np.ndarray):
    """Rows of a matrix in memory or on disk, as a NumPy array or SciPy matrix.

    Parameters
    ----------
    x
        Shape ``(n, G)``.
    rows
        Indices, ascending.
    """
    if not is_on_disk(x):
        return x[rows]
    breaks = np.flatnonzero(np.diff(rows) > MAX_GAP) + 1
    blocks = []
    for run in np.split(rows, breaks):
        if len(run):
            block = x[int(run[0]) : int(run[-1]) + 1]
            check_structure(block, "The matrix on disk")
            blocks.append(block if len(run) == block.shape[0] else block[run - run[0]])
    if len(blocks) == 1:
        return blocks[0]
    return sp.vstack(blocks, format="csr") if sp.issparse(blocks[0]) else np.concatenate(blocks)


def check_matrix(x, name: str) -> None:
    """Raise ValueError unless a sparse matrix, in memory or on disk, can be read: see :func:`check_structure`.

    On disk, the places of the values are checked with each block that :func:`read_rows` reads.
    """
    if isinstance(x, CSRDataset | CSCDataset):
        n, group = x.shape[0 if isinstance(x, CSRDataset) else 1], x.group
        check_offsets(group["indptr"][...], n, group["indices"].shape[0], group["data"].shape[0], name)
    else:
        check_structure(x, name)


def shuffled_runs(indices: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Sorted indices in short runs, the runs in random order."""
    runs = np.array_split(indices, -(-len(indices) // RUN_LENGTH))
    return np.concatenate([runs[i] for i in rng.permutation(len(runs))])


def batches_in_memory(batches: list[np.ndarray], rng: np.random.Generator | None) -> Iterator[list[np.ndarray]]:
    """Mini-batches in groups that are read together.

    Parameters
    ----------
    batches
        Rows of each mini-batch, those of a run together.
    rng
        Shuffles the rows within a group; ``None`` leaves them.

    Yields
    ------
    The rows of each mini-batch of a group.
    """
    size = max(1, CELLS_IN_MEMORY // len(batches[0]))
    for first in range(0, len(batches), size):
        group = batches[first : first + size]
        if rng is None:
            yield group
        else:
            rows = rng.permutation(np.concatenate(group))
            yield np.split(rows, np.cumsum([len(batch) for batch in group])[:-1])


def row_chunks(x, rows: np.ndarray | None = None, size: int | None = None) -> Iterator[np.ndarray]:
    """Rows of a dense, sparse or backed matrix as dense ``float32`` blocks of at most ``size`` rows; ``rows`` ascend."""
    for block in stored_chunks(x, rows, size):
        yield to_dense(block)


def to_dense(block) -> np.ndarray:
    """A dense or sparse matrix as a ``float32`` array; entries that stand twice are added up in that type."""
    return np.ascontiguousarray(block.astype(np.float32).toarray() if sp.issparse(block) else block, dtype=np.float32)


def stored_chunks(x, rows: np.ndarray | None = None, size: int | None = None) -> Iterator:
    """The same blocks as they are stored, dense or sparse."""
    rows = np.arange(x.shape[0]) if rows is None else rows
    size = CHUNK if size is None else size
    for start in range(0, len(rows), size):
        yield read_rows(x, rows[start : start + size])


def row_sums(x) -> np.ndarray:
    """Total of each row of a dense, sparse or backed matrix, shape ``(n,)``."""
    blocks = [x] if sp.issparse(x) else stored_chunks(x)
    return np.concatenate([np.asarray(block.sum(axis=1), dtype=np.float64).ravel() for block in blocks])


def share_of_zeros(x, max_cells: int = 2000) -> float:
    """Share of zeros among the values of the first cells.

    Parameters
    ----------
    x
        Data in memory or on disk, shape ``(n, G)``.
    max_cells
        Number of cells that are looked at.
    """
    n_cells = min(x.shape[0], max_cells)
    n_nonzero = sum(int((block != 0).sum()) for block in stored_chunks(x, np.arange(n_cells)))
    return 1.0 - n_nonzero / (n_cells * x.shape[1])
