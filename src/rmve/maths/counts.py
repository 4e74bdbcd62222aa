"""Counts of a mini-batch as their non-zeros, the form in which training meets them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class SparseCounts:
    """A ``(B, G)`` matrix in compressed rows: the ``n`` stored values, row by row.

    It stands in for a dense tensor in a mini-batch: PyTorch Lightning moves and pins anything with these methods.

    Parameters
    ----------
    values
        Stored counts, shape ``(n,)``, floating point.
    cols
        Column of each, shape ``(n,)``, integers; no column twice in a row.
    offsets
        Where each row begins, and the end of the last one, shape ``(B + 1,)``, integers.
    n_genes
        ``G``.
    """

    values: Tensor
    cols: Tensor
    offsets: Tensor
    n_genes: int

    @classmethod
    def from_dense(cls, x: Tensor) -> SparseCounts:
        """The non-zeros of a dense matrix of shape ``(B, G)``."""
        rows, cols = x.nonzero(as_tuple=True)
        offsets = torch.zeros(x.shape[0] + 1, dtype=torch.long, device=x.device)
        torch.cumsum(torch.bincount(rows, minlength=x.shape[0]), 0, out=offsets[1:])
        return cls(x[rows, cols], cols, offsets, x.shape[1])

    @property
    def shape(self) -> tuple[int, int]:
        """``(B, G)``."""
        return len(self.offsets) - 1, self.n_genes

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
        return self.rows * self.n_genes + self.cols

    def to(self, device: torch.device, **kwargs) -> SparseCounts:
        """A copy on another device."""
        moved = (t.to(device, **kwargs) for t in (self.values, self.cols, self.offsets))
        return SparseCounts(*moved, self.n_genes)

    def pin_memory(self) -> SparseCounts:
        """A copy in page-locked memory."""
        return SparseCounts(*(t.pin_memory() for t in (self.values, self.cols, self.offsets)), self.n_genes)

    def row_sums(self, of: Tensor | None = None) -> Tensor:
        """Sum over each row of the stored values, or of other numbers in their place, shape ``(B,)``."""
        of = self.values if of is None else of
        return torch.segment_reduce(of, "sum", offsets=self.offsets, initial=0.0)

    def dense(self) -> Tensor:
        """The matrix of shape ``(B, G)``."""
        x = self.values.new_zeros(self.shape)
        x.view(-1).scatter_(0, self.places, self.values)
        return x
