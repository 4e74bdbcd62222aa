"""Two parts of a cell: their moments given the whole, and their independence under the noise that they are made for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import Binomial

from rmve.maths.splitting import MAX_BITS, split_binomial, split_negative_binomial, split_normal, thin

N = 100_000
#: Standard errors by which an average of this seed may be off.
TOLERANCE = 4.0


def assert_mean(x: Tensor, expected: float) -> None:
    """The average is the expected one up to its standard error."""
    error = x.std() / len(x) ** 0.5
    assert abs(x.mean() - expected) <= TOLERANCE * error, (x.mean().item(), expected, error.item())


def assert_covariance(x: Tensor, y: Tensor, mean: float, expected: float) -> None:
    """So is the average product of the deviations from a known mean."""
    assert_mean((x - mean) * (y - mean), expected)


def negative_binomial(mean: float, theta: float) -> Tensor:
    return torch.poisson(torch.distributions.Gamma(theta, theta / mean).sample((N,)))


def assert_is_part(part: Tensor, x: Tensor) -> None:
    """Whole molecules, no more than there are; those that are left are then whole and not negative, too."""
    assert (part.shape, part.dtype) == (x.shape, x.dtype)
    assert torch.equal(part, part.round())
    assert (part >= 0).all()
    assert (part <= x).all()


# ------------------------------------------------------------------- binomial


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_half_of_the_molecules_is_a_part(dtype):
    """On both sides of the largest count that is drawn by bits; the counts themselves stay as they are."""
    x = torch.tensor([[0, 1, 2, 61], [62, 63, 64, 100_000]], dtype=dtype).repeat(500, 1, 1)
    given = x.clone()
    part = split_binomial(x)
    assert_is_part(part, x)
    assert torch.equal(x, given)
    assert (part.amin(0)[x[0] > 0] < part.amax(0)[x[0] > 0]).all()


def test_halves_of_nothing():
    """A gene without molecules has none in either part, and a mini-batch may be empty."""
    assert torch.equal(split_binomial(torch.zeros(5, 3)), torch.zeros(5, 3))
    assert split_binomial(torch.zeros(0, 3)).shape == (0, 3)


@pytest.mark.parametrize("n", [1, 7, MAX_BITS - 1, MAX_BITS, MAX_BITS + 1, 500])
def test_moments_of_a_half(n):
    """Mean ``x / 2`` and variance ``x / 4``."""
    part = split_binomial(torch.full((N,), float(n)))
    if n > 1:
        assert_mean(part, n / 2)
    else:
        assert_mean(part, 0.5)
        assert set(part.tolist()) == {0.0, 1.0}
    assert_mean((part - n / 2 + 1 / 3) ** 2, n / 4 + 1 / 9)  # shifted: of a single molecule the square is constant


def test_distribution_of_a_half():
    """How often each number of molecules is drawn from five."""
    part = split_binomial(torch.full((N,), 5.0))
    for drawn, p in enumerate(Binomial(5, torch.tensor(0.5)).log_prob(torch.arange(6.0)).exp().tolist()):
        assert_mean((part == drawn).double(), p)


@pytest.mark.parametrize("n", [20, 200])
def test_entries_are_drawn_on_their_own(n):
    """Neighbours in a row and in a column share no random numbers."""
    part = split_binomial(torch.full((N, 2), float(n)))
    assert_covariance(part[:, 0], part[:, 1], n / 2, 0.0)
    assert_covariance(part[1:, 0], part[:-1, 0], n / 2, 0.0)


@pytest.mark.parametrize("mean", [0.3, 8.0, 120.0])
def test_halves_of_poisson_counts_are_independent(mean):
    """Uncorrelated, and each with the variance of a Poisson count of half the mean."""
    x = torch.poisson(torch.full((N,), mean))
    part = split_binomial(x)
    assert_covariance(part, x - part, mean / 2, 0.0)
    for half in (part, x - part):
        assert_mean(half, mean / 2)
        assert_covariance(half, half, mean / 2, mean / 2)


@pytest.mark.parametrize(("mean", "theta"), [(8.0, 2.0), (100.0, 5.0)])
def test_halves_of_overdispersed_counts_share_their_dispersion(mean, theta):
    """The covariance is ``mu² / (4 theta)``: what halves of molecules have in common beside the mean."""
    x = negative_binomial(mean, theta)
    part = split_binomial(x)
    assert_covariance(part, x - part, mean / 2, mean**2 / (4 * theta))


# ---------------------------------------------------------- negative binomial


def test_overdispersed_part_is_a_part():
    """Whole molecules, none of nothing, at extreme dispersions, too."""
    x = torch.tensor([0.0, 1.0, 2.0, 50.0, 5000.0]).repeat(500, 3, 1)
    given = x.clone()
    part = split_negative_binomial(x, torch.tensor([1e-6, 1.0, 1e12])[:, None].expand_as(x))
    assert_is_part(part, x)
    assert torch.equal(x, given)


@pytest.mark.parametrize("theta", [0.01, 0.5, 3.0, 50.0])
@pytest.mark.parametrize("n", [1, 2, 20, 200])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_moments_of_an_overdispersed_part(n, theta, dtype):
    """Mean ``x / 2`` and the variance of a beta-binomial count, also if the beta is all but 0 or 1."""
    part = split_negative_binomial(torch.full((N,), n, dtype=dtype), torch.full((N,), theta, dtype=dtype)).double()
    assert_mean(part, n / 2)
    assert_mean((part - n / 2 + 1 / 3) ** 2, n / 4 * (theta + n) / (theta + 1) + 1 / 9)


def test_much_overdispersion_keeps_molecules_together():
    """The limit of a small ``theta``: one part has all molecules."""
    part = split_negative_binomial(torch.full((1000,), 30.0), torch.full((1000,), 1e-5))
    assert ((part == 0) | (part == 30)).double().mean() > 0.99
    assert_mean(part / 30, 0.5)


def test_no_overdispersion_is_a_binomial_half():
    """The limit of a large ``theta``, infinity included."""
    for theta in (1e10, float("inf")):
        part = split_negative_binomial(torch.full((N,), 30.0), torch.full((N,), theta))
        assert_covariance(part, part, 15.0, 7.5)


@pytest.mark.parametrize(("mean", "theta"), [(8.0, 2.0), (2.0, 0.2), (100.0, 5.0)])
def test_parts_of_overdispersed_counts_are_independent(mean, theta):
    """Uncorrelated, and each negative binomial with half the mean and half of ``theta``."""
    x = negative_binomial(mean, theta)
    part = split_negative_binomial(x, torch.full_like(x, theta))
    assert_covariance(part, x - part, mean / 2, 0.0)
    for half in (part, x - part):
        assert_mean(half, mean / 2)
        assert_covariance(half, half, mean / 2, mean / 2 + (mean / 2) ** 2 / (theta / 2))
        assert_mean((half == 0).double(), (1 + mean / theta) ** (-theta / 2))


def test_each_entry_has_its_own_dispersion():
    """Columns with different ``theta``, mixed with entries that are not split by it."""
    x = torch.tensor([1.0, 20.0, 20.0]).repeat(N, 1)
    part = split_negative_binomial(x, torch.tensor([5.0, 0.5, 50.0]).expand_as(x))
    for column, variance in enumerate((0.25, 5 * 20.5 / 1.5, 5 * 70 / 51)):
        assert_mean((part[:, column] - x[0, column] / 2 + 1 / 3) ** 2, variance + 1 / 9)


# --------------------------------------------------------------------- normal


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_copies_of_normal_values(factor):
    """The covariance with the other copy is ``sd² - given²``: zero if the noise is of the given standard deviation."""
    sd, mean = torch.tensor([0.3, 2.0]), torch.tensor([5.0, -1.0])
    x = mean + sd * torch.randn(N, 2)
    first = split_normal(x, factor * sd)
    second = 2 * x - first
    for g in range(2):
        noise = float(sd[g] ** 2)
        assert_covariance(first[:, g], second[:, g], float(mean[g]), noise * (1 - factor**2))
        for copy in (first, second):
            assert_mean(copy[:, g], float(mean[g]))
            assert_covariance(copy[:, g], copy[:, g], float(mean[g]), noise * (1 + factor**2))


# ----------------------------------------------------------------------- thin


def test_thinned_counts_are_parts():
    """All molecules at probability 1, none at 0, whole ones between."""
    x = torch.tensor([0.0, 1.0, 40.0, 3000.0]).repeat(200, 3, 1)
    share = torch.tensor([0.0, 0.4, 1.0])[:, None].expand_as(x)
    kept = thin(x, share)
    assert_is_part(kept, x)
    assert (kept[:, 0] == 0).all()
    assert torch.equal(kept[:, 2], x[:, 2])


def test_moments_of_thinned_counts():
    """Each entry has its own probability."""
    n, share = torch.tensor([3.0, 40.0, 400.0]), torch.tensor([0.1, 0.7, 0.5])
    kept = thin(n.repeat(N, 1), share.repeat(N, 1))
    for column, (size, p) in enumerate(zip(n.tolist(), share.tolist(), strict=True)):
        assert_mean(kept[:, column], size * p)
        assert_covariance(kept[:, column], kept[:, column], size * p, size * p * (1 - p))
