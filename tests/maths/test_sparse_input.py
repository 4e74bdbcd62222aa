"""The encoder's input from sparse counts is that from dense ones."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from rmve.maths.sparse_input import differences_from_zero, first_layer, standardized_zero
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


def test_differences_from_zero(case):
    """With what a zero becomes, every entry is that of the dense formula, clipped ones included."""
    x, *constants = case
    expected = dense_formula(x, *constants)
    assert (expected[x > 0] == CLIP).any()
    assert (expected[x == 0] == -CLIP).any()
    differences = differences_from_zero(SparseRows.from_dense(x), *constants, CLIP)
    torch.testing.assert_close(differences.dense() + standardized_zero(*constants[1:], CLIP), expected)


def test_first_layer(case):
    """The products over the stored values are the dense linear layer, and so are its gradients."""
    x, *constants = case
    parameters = [torch.randn(8, 15, requires_grad=True), torch.randn(8, requires_grad=True)]
    zero = standardized_zero(*constants[1:], CLIP)
    sparse = first_layer(*parameters, zero, differences_from_zero(SparseRows.from_dense(x), *constants, CLIP))
    dense = F.linear(dense_formula(x, *constants), *parameters)
    torch.testing.assert_close(sparse, dense)
    weights = torch.randn(20, 8)
    gradients = [torch.autograd.grad((weights * product).sum(), parameters) for product in (sparse, dense)]
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected)
