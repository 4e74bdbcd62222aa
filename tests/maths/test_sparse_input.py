"""The encoder's input from sparse counts is that from dense ones."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from rmve.maths.sparse_input import first_layer, standardized
from rmve.maths.sparse_rows import SparseRows

CLIP = 1.5


@pytest.fixture
def case():
    """Counts and constants with which zeros and counts are clipped, some from each side."""
    x = torch.poisson(torch.full((20, 15), 0.7))
    scale, mean, sd = 0.5 + torch.rand(20, 1), torch.rand(15), 0.1 + torch.rand(15)
    mean[0], sd[0] = 5.0, 0.5
    return x, scale, mean, sd


def dense_formula(x, scale, mean, sd):
    """Logarithm, standardisation and clip of every entry."""
    return ((torch.log1p(x * scale) - mean) / sd).clamp(-CLIP, CLIP)


def test_standardized(case):
    """Every entry is that of the dense formula, clipped ones included."""
    x, *constants = case
    expected = dense_formula(x, *constants)
    assert (expected[x > 0] == CLIP).any()
    assert (expected[x == 0] == -CLIP).any()
    torch.testing.assert_close(standardized(SparseRows.from_dense(x), *constants, CLIP), expected)


def test_first_layer(case):
    """The sparse product is the dense linear layer."""
    x, *constants = case
    weight, bias = torch.randn(8, 15), torch.randn(8)
    product = first_layer(SparseRows.from_dense(x), *constants, CLIP, weight, bias)
    torch.testing.assert_close(product, F.linear(dense_formula(x, *constants), weight, bias))
