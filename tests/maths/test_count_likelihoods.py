"""Likelihoods from the decoder's logits: the same values and gradients as softmax and likelihood one after the other."""

from __future__ import annotations

import pytest
import torch

from rmve.maths import count_likelihoods, likelihoods
from rmve.maths.sparse_rows import SparseRows

N_CELLS, N_GENES = 12, 30


@pytest.fixture
def case():
    """Counts small, at the edge of the table and large, with logits and parameters over a wide range."""
    x = torch.poisson((2.0 * torch.randn(N_CELLS, N_GENES)).exp())
    x[0] = 0.0  # a cell without counts
    x[:, 0] = 0.0  # a gene without counts
    x[1, 1:4] = torch.tensor([1e5, count_likelihoods.TABLE, count_likelihoods.TABLE + 1])
    logits = 2.0 * torch.randn(N_CELLS, N_GENES)
    logits[2, 2] = 200.0  # the other proportions of this cell underflow
    log_theta = 2.0 * torch.randn(N_GENES)
    log_theta[3] = 12.0
    zero_logits = 2.0 * torch.randn(N_CELLS, N_GENES)
    zero_logits[3, :2] = torch.tensor([40.0, -40.0])
    return x, logits, 3.0 + torch.randn(N_CELLS, 1), log_theta, zero_logits


def both(name, case, dtype):
    """Values and gradients of the fast and of the plain version."""
    x, logits, library, log_theta, zero_logits = (tensor.to(dtype) for tensor in case)
    counts, arguments = SparseRows.from_dense(x), {"poisson": [logits], "nb": [logits, log_theta]}
    arguments = arguments.get(name, [logits, log_theta, zero_logits])
    fast = {
        "nb": count_likelihoods.negative_binomial,
        "zinb": count_likelihoods.zero_inflated_negative_binomial,
        "poisson": count_likelihoods.poisson,
    }[name]
    plain = {
        "nb": likelihoods.negative_binomial,
        "zinb": likelihoods.zero_inflated_negative_binomial,
        "poisson": likelihoods.poisson,
    }[name]
    weights = torch.linspace(-1.0, 2.0, N_CELLS, dtype=dtype)
    results = []
    for function in (
        lambda logits, *others: fast(counts, logits, library, *others),
        lambda logits, *others: plain(x, logits.log_softmax(-1) + library, *others),
    ):
        leaves = [argument.clone().requires_grad_() for argument in arguments]
        value = function(*leaves)
        results.append([value.detach(), *torch.autograd.grad(weights @ value, leaves)])
    return zip(*results, strict=True)


@pytest.mark.parametrize("name", ["nb", "zinb", "poisson"])
def test_same_as_plain(case, name):
    """Values and gradients agree to the last digits in double precision."""
    for fast, plain in both(name, case, torch.float64):
        torch.testing.assert_close(fast, plain, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["nb", "zinb", "poisson"])
def test_single_precision(case, name):
    """In single precision they differ by rounding only, and are finite."""
    for fast, plain in both(name, case, torch.float32):
        assert torch.isfinite(fast).all()
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-4)


def test_no_gradient_where_none_is_asked():
    """A fixed dispersion gets none."""
    counts = SparseRows.from_dense(torch.tensor([[0.0, 2.0]]))
    logits = torch.zeros(1, 2, requires_grad=True)
    log_theta = torch.zeros(2)
    count_likelihoods.negative_binomial(counts, logits, torch.zeros(1, 1), log_theta).sum().backward()
    assert log_theta.grad is None
    assert logits.grad is not None
