"""Dropout with 16 random bits: torch's distribution, mean one, off in evaluation."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rmve.maths.dropout import Dropout, dropout_mask, use_cheap_dropout


@pytest.mark.parametrize("p", [0.1, 0.2, 0.5, 0.9])
def test_mask(p):
    """Elements are zero with probability ``p``, independently of their neighbours, and one on average."""
    n = 400_000
    mask = dropout_mask(torch.Size([n // 100 + 1, 100]), p, torch.device("cpu"), torch.float64)
    assert mask.unique().numel() == 2
    assert mask.max() == pytest.approx(1 / (1 - p), rel=1e-3)
    dropped = (mask == 0).double().view(-1)
    sd = (p * (1 - p) / n) ** 0.5
    assert dropped.mean() == pytest.approx(p, abs=5 * sd)
    for lag in (1, 2, 3, 4):  # four elements share a random word
        assert (dropped[lag:] * dropped[:-lag]).mean() == pytest.approx(p * p, abs=6 * sd)


def test_layer():
    """In training the gradient is dropped with the value; in evaluation nothing is."""
    layer, x = Dropout(0.5), torch.ones(50, 40, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    torch.testing.assert_close(x.grad, y.detach())
    assert (y == 0).any()
    assert layer.eval()(x) is x
    assert (Dropout(0.0)(x) == x).all()
    assert (Dropout(1.0)(x) == 0).all()


def test_seed():
    """torch's seed fixes the mask."""
    masks = []
    with torch.random.fork_rng(devices=[]):
        for _ in range(2):
            torch.manual_seed(1)
            masks.append(Dropout(0.3)(torch.ones(100)))
    torch.testing.assert_close(*masks)


def test_in_a_network():
    """Every dropout of a network is exchanged, at its own rate."""
    network = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout(0.4)), nn.Dropout(0.1))
    use_cheap_dropout(network)
    assert [(type(m), m.p) for m in network.modules() if isinstance(m, nn.Dropout)] == [(Dropout, 0.4), (Dropout, 0.1)]
