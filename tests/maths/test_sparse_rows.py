"""Rows of a sparse matrix: back and forth, taken, summed, multiplied."""

from __future__ import annotations

import pytest
import scipy.sparse as sp
import torch

from rmve.maths.sparse_rows import SparseRows


@pytest.fixture
def dense() -> torch.Tensor:
    """Counts with an empty row and an empty column."""
    x = torch.poisson(torch.full((9, 7), 0.6))
    x[3] = 0.0
    x[:, 2] = 0.0
    return x


@pytest.fixture(params=["torch", "scipy"])
def rows(request, dense) -> SparseRows:
    """The same counts, from a dense tensor or a SciPy matrix."""
    return SparseRows.from_dense(dense) if request.param == "torch" else SparseRows.from_scipy(sp.csr_array(dense))


def test_round_trip(rows, dense):
    """The dense matrix comes back."""
    assert rows.shape == dense.shape
    torch.testing.assert_close(rows.dense().to(dense.dtype), dense)


def test_places(rows, dense):
    """Each stored value is at its row, column and flat place."""
    torch.testing.assert_close(dense[rows.rows, rows.cols], rows.values.to(dense.dtype))
    torch.testing.assert_close(dense.view(-1)[rows.places], rows.values.to(dense.dtype))


def test_sums(rows, dense):
    """Sums of the stored values and of other numbers in their place; an empty row sums to zero."""
    torch.testing.assert_close(rows.row_sums().to(dense.dtype), dense.sum(-1))
    torch.testing.assert_close(rows.row_sums(torch.ones_like(rows.values)).to(dense.dtype), (dense > 0).sum(-1) * 1.0)


def test_take(rows, dense):
    """Rows in any order, also twice."""
    index = torch.tensor([8, 3, 0, 0, 5])
    torch.testing.assert_close(rows.take(index).dense().to(dense.dtype), dense[index])


def test_product(rows, dense):
    """The product with a dense matrix."""
    factor = torch.randn(7, 4)
    torch.testing.assert_close(rows.times(factor), dense @ factor)


def test_transposed(rows, dense):
    """Columns become rows, an empty one included."""
    torch.testing.assert_close(rows.transposed().dense().to(dense.dtype), dense.T)
    factor = torch.randn(9, 4)
    torch.testing.assert_close(rows.transposed().times(factor), dense.T @ factor)


def test_with_values(rows, dense):
    """Other numbers in place of the stored ones; zeros among them are no longer stored, and the rest is as it was."""
    given = rows.dense()
    values = rows.values * (torch.arange(len(rows.values)) % 3)
    values[rows.rows == 5] = 0.0
    expected = torch.zeros_like(given)
    expected[rows.rows, rows.cols] = values
    other = rows.with_values(values)
    assert other.shape == rows.shape
    assert len(other.values) == len(other.cols) == other.offsets[-1] == (values != 0).sum() < len(values)
    assert (other.values != 0).all()
    assert other.offsets.dtype == rows.offsets.dtype
    torch.testing.assert_close(other.dense(), expected)
    torch.testing.assert_close(other.row_sums(), expected.sum(-1))
    torch.testing.assert_close(rows.dense(), given)
    torch.testing.assert_close(rows.with_values(rows.values).dense(), given)


def test_with_values_that_are_all_zero(rows):
    """An empty matrix of the same shape is left."""
    none = rows.with_values(torch.zeros_like(rows.values))
    assert len(none.values) == 0
    torch.testing.assert_close(none.dense(), torch.zeros_like(rows.dense()))


def test_to_scipy(rows, dense):
    """SciPy's form of the same matrix, empty row and column included; it comes back from there."""
    x = rows.to_scipy()
    assert isinstance(x, sp.csr_matrix)
    assert (x.shape, x.nnz) == (rows.shape, len(rows.values))
    assert (x.toarray() == dense.numpy()).all()
    torch.testing.assert_close(SparseRows.from_scipy(x).dense().to(dense.dtype), dense)


def test_move(rows, dense):
    """A copy on a device is the same matrix."""
    torch.testing.assert_close(rows.to(torch.device("cpu")).dense().to(dense.dtype), dense)
    assert rows.device.type == "cpu"
