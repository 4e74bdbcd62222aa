"""Parts of a cell's molecules: exact moments, whole numbers, and independence where the theory says so."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import betabinom, binom, chi2, nbinom
from torch import Tensor

from rmve.maths.splitting import MAX_BITS, halve, split_binomial, split_negative_binomial, split_normal, thin

N_DRAWS = 40_000
#: Standard errors that a correct function is allowed to be off.
MAX_ERRORS = 4.5
THETA = 3.0


def draw(name: str, counts: Tensor, theta: float = THETA) -> Tensor:
    """One part of the counts by the split of that name."""
    return (
        split_binomial(counts)
        if name == "binomial"
        else split_negative_binomial(counts, torch.full_like(counts, theta))
    )


def negative_binomial(mean: float, theta: float, n: int = N_DRAWS) -> Tensor:
    """Counts: Poisson with a rate that is Gamma distributed."""
    return torch.poisson(mean / theta * torch._standard_gamma(torch.full((n,), theta)))


def covariance(first: Tensor, second: Tensor) -> tuple[float, float]:
    """Covariance of two samples and its standard error."""
    products = (first - first.mean()) * (second - second.mean())
    return float(products.mean()), float(products.std() / len(products) ** 0.5)


def assert_independent(first: Tensor, second: Tensor) -> None:
    """Pearson's test on the table of two samples, each cut into six classes at its quantiles."""
    levels = torch.linspace(0, 1, 7)[1:-1]
    rows, cols = (torch.bucketize(x.contiguous(), torch.quantile(x, levels).unique()) for x in (first, second))
    table = torch.zeros(int(rows.max()) + 1, int(cols.max()) + 1)
    table.index_put_((rows, cols), torch.ones(len(rows)), accumulate=True)
    table = table[table.sum(1) > 0][:, table.sum(0) > 0]
    expected = table.sum(1, keepdim=True) * table.sum(0) / table.sum()
    statistic = float(((table - expected).square() / expected).sum())
    assert chi2.sf(statistic, (table.shape[0] - 1) * (table.shape[1] - 1)) > 1e-4


def assert_distribution(sample: Tensor, probability) -> None:
    """Pearson's test of whole numbers against their probabilities, those expected less than ten times left out."""
    observed = torch.bincount(sample.long())
    expected = len(sample) * torch.as_tensor(probability(range(len(observed))))
    enough = expected >= 10
    statistic = float(((observed - expected).square() / expected)[enough].sum())
    assert chi2.sf(statistic, int(enough.sum())) > 1e-4


# ------------------------------------------------------------ given the counts


@pytest.mark.parametrize("name", ["binomial", "negative_binomial"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_parts_are_counts(name, dtype):
    """Whole numbers from zero to the count, of its type and shape; the counts themselves stay as they are."""
    counts = torch.cat([torch.arange(MAX_BITS + 5), torch.tensor([1_000, 100_000])]).to(dtype).repeat(50, 1)
    given = counts.clone()
    part = draw(name, counts)
    assert part.dtype == dtype
    assert part.shape == counts.shape
    assert part.device == counts.device
    assert torch.equal(part, part.round())
    assert (part >= 0).all()
    assert (part <= counts).all()
    assert (part[:, 0] == 0).all()
    assert torch.equal(counts, given)
    assert torch.equal(part + (counts - part), counts)


@pytest.mark.parametrize("name", ["binomial", "negative_binomial"])
@pytest.mark.parametrize("shape", [(0,), (3, 0), ()])
def test_parts_of_nothing(name, shape):
    """No entries, and one zero."""
    assert draw(name, torch.zeros(shape)).shape == shape
    assert not draw(name, torch.zeros(shape)).any()


@pytest.mark.parametrize("x", [1, 2, 3, 20, MAX_BITS - 1, MAX_BITS, MAX_BITS + 1, 300])
def test_binomial_moments(x):
    """Mean ``x / 2`` and variance ``x / 4``, by bits and, above their number, by torch's own draws."""
    part = split_binomial(torch.full((N_DRAWS,), float(x)))
    assert abs(part.mean() - x / 2) < MAX_ERRORS * (x / 4 / N_DRAWS) ** 0.5
    kurtosis = float(binom.stats(x, 0.5, moments="k")) + 2
    assert abs(part.var() - x / 4) < MAX_ERRORS * x / 4 * max(kurtosis, 0.01) ** 0.5 / N_DRAWS**0.5
    assert_distribution(part, lambda values: binom.pmf(list(values), x, 0.5))


@pytest.mark.parametrize("theta", [0.2, 3.0, 1e3])
@pytest.mark.parametrize("x", [1, 2, 7, 100])
def test_beta_binomial_moments(x, theta):
    """Mean ``x / 2`` and variance ``x/4 (theta + x) / (theta + 1)``, and the whole distribution."""
    part = draw("negative_binomial", torch.full((N_DRAWS,), float(x)), theta)
    variance = x / 4 * (theta + x) / (theta + 1)
    assert betabinom.var(x, theta / 2, theta / 2) == pytest.approx(variance)
    assert abs(part.mean() - x / 2) < MAX_ERRORS * (variance / N_DRAWS) ** 0.5
    squared = (part - x / 2).square()
    assert abs(squared.mean() - variance) <= MAX_ERRORS * squared.std() / N_DRAWS**0.5
    assert_distribution(part, lambda values: betabinom.pmf(list(values), x, theta / 2, theta / 2))


def test_no_overdispersion():
    """The largest ``theta`` gives a binomial split."""
    part = draw("negative_binomial", torch.full((N_DRAWS,), 9.0), 1e12)
    assert_distribution(part, lambda values: binom.pmf(list(values), 9, 0.5))


@pytest.mark.parametrize("theta", [1e-6, 0.01, 0.05])
def test_large_overdispersion_in_single_precision(theta):
    """The molecules of a gene with a small ``theta`` fall nearly all on one side."""
    counts = torch.full((N_DRAWS,), 10.0, dtype=torch.float32)
    part = draw("negative_binomial", counts, theta)
    assert_distribution(part, lambda values: betabinom.pmf(list(values), 10, theta / 2, theta / 2))
    assert abs(part.mean() - 5) < MAX_ERRORS * 5 / N_DRAWS**0.5


def test_entries_are_split_on_their_own():
    """Two entries of a cell, and two splits of one entry, have nothing in common."""
    counts = torch.full((N_DRAWS, 2), 10.0)
    part, again = split_binomial(counts), split_binomial(counts)
    assert_independent(part[:, 0], part[:, 1])
    assert_independent(part[:, 0], again[:, 0])


def test_bits_are_fair():
    """Each share of a large count is as likely as its mirror image: no bit is favoured."""
    part = split_binomial(torch.full((N_DRAWS,), float(MAX_BITS)))
    more, less = int((part > MAX_BITS / 2).sum()), int((part < MAX_BITS / 2).sum())
    assert abs(more - less) < MAX_ERRORS * (more + less) ** 0.5


def test_halved_counts():
    """Each molecule is kept with probability ``2^-times``, the molecules of large counts, too."""
    counts = torch.tensor([40.0, 40.0, 40.0, 100.0, 0.0]).expand(N_DRAWS, 5)
    times = torch.tensor([0, 1, 3, 2, 2]).expand(N_DRAWS, 5)
    kept = halve(counts, times)
    assert kept.dtype == counts.dtype
    assert torch.equal(kept, kept.round())
    share = 0.5 ** times[0]
    variance = counts[0] * share * (1 - share)
    assert ((kept.mean(0) - counts[0] * share).abs() <= MAX_ERRORS * (variance / N_DRAWS).sqrt()).all()
    torch.testing.assert_close(kept.var(0), variance, rtol=0.05, atol=0)
    assert halve(torch.zeros(0), torch.zeros(0)).shape == (0,)


def test_thinned_counts():
    """Mean ``share x`` and variance ``share (1 - share) x``; all molecules stay where the share is one."""
    counts, share = torch.full((N_DRAWS, 3), 40.0), torch.tensor([0.1, 0.6, 1.0]).expand(N_DRAWS, 3)
    kept = thin(counts, share)
    assert kept.dtype == counts.dtype
    assert torch.equal(kept, kept.round())
    variance = 40 * share[0] * (1 - share[0])
    assert ((kept.mean(0) - 40 * share[0]).abs() <= MAX_ERRORS * (variance / N_DRAWS).sqrt()).all()
    torch.testing.assert_close(kept.var(0), variance, rtol=0.05, atol=0)
    assert torch.equal(kept[:, 2], counts[:, 2])


# ----------------------------------------------- parts that know nothing of each other


@pytest.mark.parametrize("mean", [0.3, 4.0, 200.0])
def test_halves_of_poisson_counts_are_independent(mean):
    """Both halves are Poisson with half of the mean, and independent."""
    x = torch.poisson(torch.full((N_DRAWS,), mean))
    first = split_binomial(x)
    value, error = covariance(first, x - first)
    assert abs(value) < MAX_ERRORS * error
    assert_independent(first, x - first)
    for half in (first, x - first):
        assert abs(half.mean() - mean / 2) < MAX_ERRORS * (mean / 2 / N_DRAWS) ** 0.5
        assert half.var() == pytest.approx(mean / 2, rel=0.05)


@pytest.mark.parametrize(("mean", "theta"), [(2.0, 0.5), (10.0, 3.0), (100.0, 10.0)])
def test_parts_of_negative_binomial_counts_are_independent(mean, theta):
    """Both parts are negative binomial with half of the mean and half of ``theta``, and independent."""
    x = negative_binomial(mean, theta)
    first = draw("negative_binomial", x, theta)
    value, error = covariance(first, x - first)
    assert abs(value) < MAX_ERRORS * error
    assert_independent(first, x - first)
    success = theta / (theta + mean)
    for part in (first, x - first):
        assert_distribution(part, lambda values: nbinom.pmf(list(values), theta / 2, success))


@pytest.mark.parametrize(("mean", "theta"), [(2.0, 0.5), (10.0, 3.0)])
def test_binomial_halves_of_negative_binomial_counts_share_a_factor(mean, theta):
    """Their covariance is ``mu² / 4 theta``, a quarter of what the variance exceeds the mean by."""
    x = negative_binomial(mean, theta)
    first = split_binomial(x)
    value, error = covariance(first, x - first)
    assert abs(value - mean**2 / (4 * theta)) < MAX_ERRORS * error
    assert value > 10 * error
    success = theta / (theta + mean / 2)
    assert_distribution(first, lambda values: nbinom.pmf(list(values), theta, success))


@pytest.mark.parametrize(("factor", "sign"), [(0.3, -1), (3.0, 1)])
def test_parts_by_another_dispersion_are_dependent(factor, sign):
    """A ``theta`` that is too small splits too unevenly, one that is too large too evenly."""
    x = negative_binomial(10.0, THETA)
    first = draw("negative_binomial", x, factor * THETA)
    value, error = covariance(first, x - first)
    assert sign * value > MAX_ERRORS * error


def test_copies_of_normal_values_are_independent():
    """Two copies around the same mean, each of twice the variance; their mean is the value itself."""
    mean, sd = torch.tensor([-1.0, 5.0]), torch.tensor([0.5, 2.0])
    x = mean + sd * torch.randn(N_DRAWS, 2)
    first = split_normal(x, sd)
    second = 2 * x - first
    assert first.dtype == x.dtype
    for g in range(2):
        value, error = covariance(first[:, g], second[:, g])
        assert abs(value) < MAX_ERRORS * error
        assert_independent(first[:, g], second[:, g])
        for copy in (first[:, g], second[:, g]):
            assert abs(copy.mean() - mean[g]) < MAX_ERRORS * sd[g] * (2 / N_DRAWS) ** 0.5
            assert copy.var() == pytest.approx(2 * float(sd[g]) ** 2, rel=0.05)


def test_same_seed_same_part():
    """The draws come from torch's generator."""
    x = torch.poisson(torch.full((100,), 50.0))
    parts = []
    for _ in range(2):
        torch.manual_seed(3)
        parts.append((split_binomial(x), draw("negative_binomial", x)))
    assert torch.equal(parts[0][0], parts[1][0])
    assert torch.equal(parts[0][1], parts[1][1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", ["binomial", "negative_binomial"])
def test_on_a_gpu(name):
    """The same moments, and the part stays where the counts are."""
    x = torch.full((N_DRAWS, 2), 10.0, device="cuda")
    x[:, 1] = 100.0
    part = draw(name, x)
    assert part.device == x.device
    torch.testing.assert_close(part.mean(0).cpu(), torch.tensor([5.0, 50.0]), rtol=0.02, atol=0)
