"""Closed forms for Gaussians against quadrature, Monte Carlo and the formulas for full covariance matrices."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import scipy.stats
import torch
from torch.distributions import Independent, Normal, kl_divergence

from rmve.maths import gaussians


@pytest.fixture
def pair(random_mixture):
    """Two Gaussians in three dimensions as ``(mean_a, var_a, mean_b, var_b)``."""
    _, mean, var = random_mixture(2, 3, seed=1)
    return mean[0], var[0], mean[1], var[1]


@pytest.fixture
def rotated(pair):
    """The same two Gaussians in rotated coordinates, with full covariance matrices."""
    mean_a, var_a, mean_b, var_b = pair
    rotation, _ = torch.linalg.qr(torch.randn(3, 3))
    assert (rotation - torch.eye(3)).abs().max() > 0.1
    return (
        rotation @ mean_a,
        rotation @ var_a.diag() @ rotation.T,
        rotation @ mean_b,
        rotation @ var_b.diag() @ rotation.T,
    )


def test_log_normal_matches_torch(pair):
    """``log_normal`` is the log-density of independent normals, also where shapes broadcast."""
    mean, var, _, _ = pair
    z = torch.randn(5, 4, 3)
    expected = Independent(Normal(mean, var.sqrt()), 1).log_prob(z)
    torch.testing.assert_close(gaussians.log_normal(z, mean, var), expected)


def test_kl_normal_matches_torch(pair):
    """``kl_normal`` is the Kullback-Leibler divergence, in the same direction as its arguments."""
    mean_a, var_a, mean_b, var_b = pair
    a = Independent(Normal(mean_a, var_a.sqrt()), 1)
    b = Independent(Normal(mean_b, var_b.sqrt()), 1)
    torch.testing.assert_close(gaussians.kl_normal(*pair), kl_divergence(a, b))
    torch.testing.assert_close(gaussians.kl_normal(mean_b, var_b, mean_a, var_a), kl_divergence(b, a))
    assert (kl_divergence(a, b) - kl_divergence(b, a)).abs() > 1e-3


def test_kl_normal_is_positive_and_zero_at_equality(random_mixture):
    """The divergence of ``K`` components from each other is zero on the diagonal and positive off it."""
    _, mean, var = random_mixture(6, 3)
    kl = gaussians.between_components(gaussians.kl_normal, mean, var)
    assert torch.equal(kl.diagonal(), torch.zeros(6))
    assert (kl + torch.eye(6)).min() > 0


@pytest.mark.parametrize(("mean_b", "var_b"), [(0.3, 0.5), (2.0, 3.0), (0.0, 0.01)])
def test_bhattacharyya_matches_quadrature(mean_b, var_b):
    """In one dimension the distance is ``-log ∫ sqrt(p_a p_b)``."""
    a, b = scipy.stats.norm(0.0, 1.0), scipy.stats.norm(mean_b, math.sqrt(var_b))
    coefficient, _ = scipy.integrate.quad(
        lambda z: math.sqrt(a.pdf(z) * b.pdf(z)), -12.0, 12.0, epsabs=1e-13, limit=500, points=[mean_b]
    )
    distance = gaussians.bhattacharyya(*(torch.tensor([v]) for v in (0.0, 1.0, mean_b, var_b)))
    assert distance.item() == pytest.approx(-math.log(coefficient), abs=1e-9)


def test_bhattacharyya_matches_full_matrix_formula(pair, rotated):
    """The distance is ``⅛ D'S⁻¹D + ½ log(|S| / sqrt(|S_a||S_b|))`` and does not depend on the axes."""
    mean_a, cov_a, mean_b, cov_b = rotated
    mid, difference = 0.5 * (cov_a + cov_b), mean_a - mean_b
    expected = 0.125 * difference @ torch.linalg.solve(mid, difference) + 0.5 * (
        torch.logdet(mid) - 0.5 * (torch.logdet(cov_a) + torch.logdet(cov_b))
    )
    torch.testing.assert_close(gaussians.bhattacharyya(*pair), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bhattacharyya_is_never_negative(dtype):
    """Rounding never makes the distance of nearly equal Gaussians negative, and equal ones are at zero."""
    var = (3.0 * torch.randn(1000, 4)).exp().to(dtype)
    mean = torch.zeros_like(var)
    assert torch.equal(gaussians.bhattacharyya(mean, var, mean, var), torch.zeros(1000, dtype=dtype))
    nearly = var * (1 + 4 * torch.finfo(dtype).eps)
    assert gaussians.bhattacharyya(mean, var, mean, nearly).min() >= 0


def test_wasserstein_matches_full_matrix_formula(pair, rotated):
    """The squared distance is ``|D|² + tr(S_a + S_b - 2 (S_a^½ S_b S_a^½)^½)`` in any axes."""
    mean_a, cov_a, mean_b, cov_b = (v.numpy() for v in rotated)
    root = scipy.linalg.sqrtm(cov_a)
    cross = np.real(scipy.linalg.sqrtm(root @ cov_b @ root))
    expected = np.sum((mean_a - mean_b) ** 2) + np.trace(cov_a + cov_b - 2 * cross)
    assert gaussians.wasserstein2_sq(*pair).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("bandwidth_sq", [torch.tensor(0.7), torch.tensor([0.2, 1.0, 5.0])])
def test_expected_rbf_matches_monte_carlo(pair, bandwidth_sq):
    """``expected_rbf`` is the mean of the RBF kernel over independent draws of the two Gaussians."""
    mean_a, var_a, mean_b, var_b = pair
    n = 200_000
    a = mean_a + var_a.sqrt() * torch.randn(n, 3)
    b = mean_b + var_b.sqrt() * torch.randn(n, 3)
    kernel = (-0.5 * ((a - b).square() / bandwidth_sq).sum(-1)).exp()
    error = kernel.mean() - gaussians.expected_rbf(*pair, bandwidth_sq)
    assert error.abs() < 4 * kernel.std() / math.sqrt(n)


def test_expected_rbf_matches_full_matrix_formula(pair, rotated):
    """``|G|^½ |A|^-½ exp(-½ D'A⁻¹D)`` with ``A = S_a + S_b + G``, for ``G = l² I`` in any axes."""
    bandwidth_sq = 1.3
    mean_a, cov_a, mean_b, cov_b = rotated
    width = bandwidth_sq * torch.eye(3)
    total, difference = cov_a + cov_b + width, mean_a - mean_b
    expected = (width.det() / total.det()).sqrt() * (-0.5 * difference @ torch.linalg.solve(total, difference)).exp()
    torch.testing.assert_close(gaussians.expected_rbf(*pair, bandwidth_sq), expected)


def test_expected_rbf_matches_full_matrix_formula_with_bandwidth_per_dimension(pair):
    """The same formula with ``G`` diagonal, one length scale for each dimension."""
    bandwidth_sq = torch.tensor([0.2, 1.0, 5.0])
    mean_a, var_a, mean_b, var_b = pair
    total, difference = (var_a + var_b + bandwidth_sq).diag(), mean_a - mean_b
    expected = (bandwidth_sq.diag().det() / total.det()).sqrt() * (
        -0.5 * difference @ torch.linalg.solve(total, difference)
    ).exp()
    torch.testing.assert_close(gaussians.expected_rbf(*pair, bandwidth_sq), expected)


def test_expected_rbf_of_points_is_the_kernel(pair):
    """With vanishing variances the expected kernel is the kernel between the means."""
    mean_a, _, mean_b, _ = pair
    zero = torch.zeros(3)
    kernel = (-0.5 * (mean_a - mean_b).square().sum() / 0.7).exp()
    torch.testing.assert_close(gaussians.expected_rbf(mean_a, zero, mean_b, zero, 0.7), kernel)


def test_between_components_evaluates_each_pair(random_mixture):
    """Entry ``(a, b)`` is the function of components ``a`` and ``b`` in this order."""
    _, mean, var = random_mixture(3, 2)
    matrix = gaussians.between_components(gaussians.kl_normal, mean, var)
    for a in range(3):
        for b in range(3):
            torch.testing.assert_close(matrix[a, b], gaussians.kl_normal(mean[a], var[a], mean[b], var[b]))


@pytest.mark.parametrize("bandwidth_sq", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("function", [gaussians.gram, gaussians.cosine_gram])
def test_gram_is_symmetric_and_positive_definite(random_mixture, function, bandwidth_sq):
    """Gram matrices of distinct components are symmetric with positive eigenvalues."""
    _, mean, var = random_mixture(8, 3)
    matrix = function(mean, var, bandwidth_sq)
    torch.testing.assert_close(matrix, matrix.T)
    assert torch.linalg.eigvalsh(matrix).min() > 0


def test_gram_of_overlapping_components_is_positive_semidefinite(random_mixture):
    """With duplicates the smallest eigenvalue is zero to rounding, never below."""
    _, mean, var = random_mixture(4, 3)
    mean, var = mean.repeat(3, 1), var.repeat(3, 1)
    eigenvalues = torch.linalg.eigvalsh(gaussians.gram(mean, var, 1.0))
    assert eigenvalues.min() > -1e-14
    assert (eigenvalues > 1e-8).sum() == 4


def test_cosine_gram_is_the_scaled_gram(random_mixture):
    """``rho_ab = K_ab / sqrt(K_aa K_bb)``."""
    _, mean, var = random_mixture(5, 3)
    bandwidth_sq = torch.tensor([0.5, 1.0, 2.0])
    gram = gaussians.gram(mean, var, bandwidth_sq)
    norm = gram.diagonal().sqrt()
    torch.testing.assert_close(gaussians.cosine_gram(mean, var, bandwidth_sq), gram / norm[:, None] / norm)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cosine_gram_has_unit_diagonal_and_bounds(random_mixture, dtype):
    """The diagonal is exactly one and, for distinct components, every other entry is in ``(0, 1)``."""
    _, mean, var = random_mixture(10, 3)
    rho = gaussians.cosine_gram(mean.to(dtype), var.to(dtype), 3.0)
    off_diagonal = rho[~torch.eye(10, dtype=torch.bool)]
    assert torch.equal(rho.diagonal(), torch.ones(10, dtype=dtype))
    assert 0 < off_diagonal.min()
    assert off_diagonal.max() < 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cosine_gram_never_exceeds_one_in_high_dimension(dtype):
    """Rounding never lifts the cosine of nearly equal components above one, whatever their variances."""
    generator = torch.Generator().manual_seed(0)
    var = (2.0 * torch.randn(1, 200, generator=generator)).exp() * (
        1 + 1e-6 * torch.randn(10, 200, generator=generator)
    )
    rho = gaussians.cosine_gram(torch.zeros(10, 200, dtype=dtype), var.to(dtype), 0.01)
    assert rho.max() <= 1
    assert rho.min() > 1 - 1e-6


def test_cosine_gram_is_one_only_for_equal_components(random_mixture):
    """Entries are one for the same mean and variances, below one if either differs."""
    _, mean, var = random_mixture(1, 3)
    shift = torch.tensor([[0.0, 1e-3, 0.0]])
    rho = gaussians.cosine_gram(
        torch.cat([mean, mean, mean + shift, mean]), torch.cat([var, var, var, var * (1 + shift)]), 1.0
    )
    assert rho[0, 1] == 1
    assert rho[0, 2] < 1
    assert rho[0, 3] < 1
    assert rho[2, 3] < 1
