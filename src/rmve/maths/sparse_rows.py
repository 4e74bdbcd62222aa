"""Rows of a sparse matrix as tensors: the counts of a mini-batch or of a data set, the edges of a neighbour graph."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class SparseRows:
    """A ``(B, G)`` matrix in compressed rows: the ``n`` stored values, row by row.

    It stands in for a dense tensor in a mini-batch: PyTorch Lightning moves and pins anything with these methods. A
    data set that fits is kept on the device in this form, and mini-batches are taken from it there.

    Parameters
    ----------
    values
        Stored values, shape ``(n,)``, floating point.
    cols
        Column of each, shape ``(n,)``, integers; no column twice in a row. None of the values is zero.
    offsets
        Where each row begins, and the end of the last one, shape ``(B + 1,)``, integers.
    n_cols
        ``G``.
    """

    values: Tensor
    cols: Tensor
    offsets: Tensor
    n_cols: int

    @classmethod
    def from_dense(cls, x: Tensor) -> SparseRows:
        """The non-zeros of a dense matrix of shape ``(B, G)``."""
        rows, cols = x.nonzero(as_tuple=True)
        offsets = torch.zeros(x.shape[0] + 1, dtype=torch.long, device=x.device)
        torch.cumsum(torch.bincount(rows, minlength=x.shape[0]), 0, out=offsets[1:])
        return cls(x[rows, cols], cols, offsets, x.shape[1])

    @classmethod
    def from_scipy(cls, x) -> SparseRows:
        """A SciPy sparse matrix, or anything that makes one; shares its memory where types allow."""
        x = sp.csr_matrix(x)
        if not x.has_canonical_format or not x.data.all():
            x = x.astype(np.float32)  # a copy, in which sums of small types do not wrap around
            x.sum_duplicates()
            x.eliminate_zeros()
        values, cols, offsets = (
            torch.from_numpy(array.astype(dtype, copy=False))
            for array, dtype in ((x.data, np.float32), (x.indices, np.int64), (x.indptr, np.int64))
        )
        return cls(values, cols, offsets, x.shape[1])

    @property
    def shape(self) -> tuple[int, int]:
        """``(B, G)``."""
        return len(self.offsets) - 1, self.n_cols

    @property
    def device(self) -> torch.device:
        """Where the values are."""
        return self.values.device

    @cached_property
    def rows(self) -> Tensor:
        """Row of each stored value, shape ``(n,)``."""
        return torch.repeat_interleave(self.offsets.diff(), output_size=len(self.values))

    @cached_property
    def places(self) -> Tensor:
        """Index of each stored value in the flattened dense matrix, shape ``(n,)``."""
        return self.rows * self.n_cols + self.cols

    def to(self, device: torch.device, **kwargs) -> SparseRows:
        """A copy on another device."""
        values, cols, offsets = (t.to(device, **kwargs) for t in (self.values, self.cols, self.offsets))
        return SparseRows(values, cols, offsets, self.n_cols)

    def with_values(self, values: Tensor) -> SparseRows:
        """Other numbers in the place of the stored values, shape ``(n,)``; zeros among them are no longer stored."""
        kept = values != 0
        offsets = torch.zeros_like(self.offsets)
        torch.cumsum(self.row_sums(kept.to(self.values.dtype)), 0, out=offsets[1:])
        return SparseRows(values[kept], self.cols[kept], offsets, self.n_cols)

    def pin_memory(self) -> SparseRows:
        """A copy in page-locked memory."""
        values, cols, offsets = (t.pin_memory() for t in (self.values, self.cols, self.offsets))
        return SparseRows(values, cols, offsets, self.n_cols)

    def row_sums(self, of: Tensor | None = None) -> Tensor:
        """Sum over each row of the stored values, or of other numbers in their place, shape ``(B,)``."""
        of = self.values if of is None else of
        return torch.segment_reduce(of, "sum", offsets=self.offsets, initial=0.0)

    def take(self, rows: Tensor) -> SparseRows:
        """Some rows, in the order of their indices ``rows``, an integer tensor on the same device."""
        begin = self.offsets[rows]
        length = self.offsets[rows + 1] - begin
        offsets = torch.zeros(len(rows) + 1, dtype=torch.long, device=self.device)
        torch.cumsum(length, 0, out=offsets[1:])
        place = torch.repeat_interleave(begin - offsets[:-1], length)
        place += torch.arange(len(place), device=self.device)
        return SparseRows(self.values[place], self.cols[place].long(), offsets, self.n_cols)

    def times(self, dense: Tensor) -> Tensor:
        """Product with a dense matrix of shape ``(G, H)``, without gradient; shape ``(B, H)``."""
        with torch.no_grad():  # one bag for each row: a weighted sum of rows of the dense matrix
            weights = self.values.to(dense.dtype)
            return F.embedding_bag(
                self.cols, dense, self.offsets, mode="sum", per_sample_weights=weights, include_last_offset=True
            )

    def transposed(self) -> SparseRows:
        """The transposed matrix, shape ``(G, B)``; on the CPU, where SciPy does it."""
        x = self.to_scipy().tocsc()
        values, cols, offsets = (torch.from_numpy(array) for array in (x.data, x.indices, x.indptr))
        return SparseRows(values, cols, offsets, self.shape[0])

    def to_scipy(self) -> sp.csr_matrix:
        """The matrix in SciPy's form; on the CPU it shares the memory."""
        arrays = (t.numpy(force=True) for t in (self.values, self.cols, self.offsets))
        return sp.csr_matrix(tuple(arrays), shape=self.shape)

    def dense(self) -> Tensor:
        """The matrix of shape ``(B, G)``."""
        x = self.values.new_zeros(self.shape)
        x.view(-1).scatter_(0, self.places, self.values)
        return x
