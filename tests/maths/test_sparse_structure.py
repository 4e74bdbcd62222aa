"""Sparse matrices that point outside of themselves are refused before anything is done with them."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from rmve.maths.sparse_structure import check_structure


def spoilt(format: str, part: str, at: int, value: int):
    """A small matrix with one entry of an index array replaced, as a reader without checks makes it."""
    x = sp.random(6, 5, density=0.5, format=format, rng=np.random.default_rng(0))
    getattr(x, part)[at] = value
    return x


@pytest.mark.parametrize(
    "kind", [sp.csr_matrix, sp.csc_matrix, sp.coo_matrix, sp.csr_array, sp.bsr_matrix, sp.dia_matrix, np.array]
)
def test_sound_matrices_pass(kind):
    """All formats, with and without values, also with unsorted or doubled columns and spare room."""
    dense = np.arange(30.0).reshape(6, 5) % 4
    check_structure(kind(dense), "x")
    check_structure(kind(np.zeros((6, 5))), "x")
    doubled = sp.csr_matrix((np.ones(3), np.array([4, 1, 1]), np.array([0, 3, 3])), shape=(2, 5))
    check_structure(doubled, "x")
    check_structure(sp.csr_matrix((np.ones(9), np.zeros(9, int), np.array([0, 3, 3])), shape=(2, 5)), "x")


@pytest.mark.parametrize("format", ["csr", "csc"])
@pytest.mark.parametrize(
    ("part", "at", "value"),
    [
        ("indices", 0, 10**9),
        ("indices", -1, 6),
        ("indices", 3, -1),
        ("indptr", 2, 10**9),
        ("indptr", 2, -1),
        ("indptr", 1, 14),
        ("indptr", -1, 10**6),
        ("indptr", 0, 1),
    ],
)
def test_indices_outside(format, part, at, value):
    """The error names the matrix and what is wrong with it."""
    with pytest.raises(ValueError, match=r"`x` is not a valid sparse matrix: .*The file is damaged"):
        check_structure(spoilt(format, part, at, value), "`x`")


@pytest.mark.parametrize("part", ["row", "col"])
@pytest.mark.parametrize("value", [10**6, -1])
def test_places_outside(part, value):
    """A matrix of places is checked, too."""
    with pytest.raises(ValueError, match="not a valid sparse matrix"):
        check_structure(spoilt("coo", part, 2, value), "`x`")


@pytest.mark.parametrize("part", ["data", "indices", "indptr"])
def test_arrays_of_other_lengths(part):
    """Arrays that were cut off are refused."""
    x = sp.random(6, 5, density=0.5, format="csr", rng=np.random.default_rng(0))
    setattr(x, part, getattr(x, part)[:-1])
    with pytest.raises(ValueError, match="not a valid sparse matrix"):
        check_structure(x, "`x`")


@pytest.mark.parametrize("part", ["indices", "indptr"])
def test_indices_that_are_no_integers(part):
    """Floating-point indices are refused."""
    x = sp.random(6, 5, density=0.5, format="csr", rng=np.random.default_rng(0))
    setattr(x, part, getattr(x, part).astype(float))
    with pytest.raises(ValueError, match="not a valid sparse matrix"):
        check_structure(x, "`x`")
