"""Double precision, a fixed seed and random mixtures for the tests of the mathematics."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

Mixture = tuple[Tensor, Tensor, Tensor]


@pytest.fixture(autouse=True)
def exact_mathematics(double_precision_and_fixed_seed):
    """Every test of this folder is in double precision, from a fixed seed."""


@pytest.fixture
def random_mixture() -> Callable[..., Mixture]:
    """Build the weights ``(K,)``, means ``(K, d)`` and variances ``(K, d)`` of a mixture with a given seed."""

    def build(n_components: int = 4, n_latent: int = 3, seed: int = 0, spread: float = 1.0) -> Mixture:
        generator = torch.Generator().manual_seed(seed)
        weights = (0.5 * torch.randn(n_components, generator=generator)).softmax(-1)
        mean = spread * torch.randn(n_components, n_latent, generator=generator)
        var = (0.5 * torch.randn(n_components, n_latent, generator=generator)).exp()
        return weights, mean, var

    return build
