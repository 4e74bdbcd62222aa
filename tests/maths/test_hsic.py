"""Lemma 3: the independence criterion between a mixture's label and its latent variable in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rmve.maths.gaussians import cosine_gram, gram
from rmve.maths.hsic import gini, hsic_pairs, hsic_scatter, hsic_trace


def sample_hsic(z: Tensor, kernel_y: Tensor, bandwidth_sq: float, unbiased: bool) -> Tensor:
    """Estimate HSIC from a sample: ``tr(KHLH) / n²``, or the unbiased estimator of Song et al. (2012)."""
    n = z.shape[0]
    kernel_z = (-0.5 * torch.cdist(z, z).square() / bandwidth_sq).exp()
    if not unbiased:
        centred = kernel_z - kernel_z.mean(0) - kernel_z.mean(1, keepdim=True) + kernel_z.mean()
        return (centred * kernel_y).sum() / n**2
    kernel_z = kernel_z - kernel_z.diagonal().diag()
    kernel_y = kernel_y - kernel_y.diagonal().diag()
    return (
        (kernel_z * kernel_y).sum()
        + kernel_z.sum() * kernel_y.sum() / ((n - 1) * (n - 2))
        - 2.0 / (n - 2) * kernel_z.sum(0) @ kernel_y.sum(0)
    ) / (n * (n - 3))


@pytest.mark.parametrize("n_components", [1, 2, 7])
@pytest.mark.parametrize("function", [gram, cosine_gram])
def test_three_forms_are_equal(random_mixture, n_components, function):
    """Trace, weighted pairs and between-component scatter are one number (Lemma 3)."""
    weights, mean, var = random_mixture(n_components, 3)
    matrix = function(mean, var, 1.5)
    trace = hsic_trace(weights, matrix)
    torch.testing.assert_close(hsic_pairs(weights, matrix), trace, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(hsic_scatter(weights, matrix), trace, rtol=1e-12, atol=1e-14)
    assert (trace > 1e-3) == (n_components > 1)


@pytest.mark.parametrize("unbiased", [True, False])
def test_matches_monte_carlo(random_mixture, unbiased):
    """Sample estimates with label kernel ``1[y = y'] / w_y`` agree with the closed form (Lemma 3)."""
    n, n_repeats, n_components, bandwidth_sq = 1000, 20, 3, 1.0
    weights, mean, var = random_mixture(n_components, 2, seed=2, spread=1.5)
    estimates = []
    for _ in range(n_repeats):
        y = torch.multinomial(weights, n, replacement=True)
        z = mean[y] + var[y].sqrt() * torch.randn(n, 2)
        kernel_y = (y[:, None] == y).double() / weights[y]
        estimates.append(sample_hsic(z, kernel_y, bandwidth_sq, unbiased))
    estimates = torch.stack(estimates)
    # the n diagonal terms k(z, z) l(y, y) / n² = 1 / (n w_y) bias the first estimator by at most K / n, and
    # centring by at most twice that
    bias = 0.0 if unbiased else 2.0 * n_components / n
    error = estimates.mean() - hsic_trace(weights, gram(mean, var, bandwidth_sq))
    assert error.abs() < 4 * estimates.std() / math.sqrt(n_repeats) + bias


def test_gradients_match_closed_form(random_mixture):
    """Lemma 3 (ii): the gradients by means and variances are the closed forms, by autograd and differences."""
    bandwidth_sq = torch.tensor([0.6, 1.0, 2.0])
    weights, mean, var = random_mixture(4, 3)
    mean.requires_grad_()
    var.requires_grad_()
    hsic_trace(weights, gram(mean, var, bandwidth_sq)).backward()

    kernel = gram(mean, var, bandwidth_sq).detach()
    pair_weights = weights[:, None] * weights
    off_diagonal = pair_weights * kernel * (1 - torch.eye(4))
    inverse = 1 / (var[:, None] + var + bandwidth_sq).detach()
    direction = inverse * (mean[:, None] - mean).detach()
    by_mean = 2 * (off_diagonal[:, :, None] * direction).sum(1)
    own = (weights - weights.square()) * kernel.diagonal()
    by_var = (off_diagonal[:, :, None] * (inverse - direction.square())).sum(1) - own[:, None] / (
        2 * var.detach() + bandwidth_sq
    )
    torch.testing.assert_close(mean.grad, by_mean, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(var.grad, by_var, rtol=1e-10, atol=1e-12)
    assert torch.autograd.gradcheck(lambda m, v: hsic_trace(weights, gram(m, v, bandwidth_sq)), (mean, var))


@pytest.mark.parametrize("function", [gram, cosine_gram])
def test_zero_iff_components_coincide(random_mixture, function):
    """HSIC is zero if all components coincide, positive if one mean or one variance differs (Lemma 3 (i))."""
    weights, mean, var = random_mixture(4, 3)
    same_mean, same_var = mean[:1].repeat(4, 1), var[:1].repeat(4, 1)
    assert hsic_pairs(weights, function(same_mean, same_var, 1.0)).abs() < 1e-15
    for changed in (same_mean, same_var):
        changed[2, 1] += 0.1
        assert hsic_pairs(weights, function(same_mean, same_var, 1.0)) > 1e-6
        changed[2, 1] -= 0.1


@pytest.mark.parametrize("spread", [0.0, 0.1, 1.0, 3.0])
@pytest.mark.parametrize("bandwidth_sq", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("function", [gram, cosine_gram])
def test_between_zero_and_gini(random_mixture, function, bandwidth_sq, spread):
    """``0 <= HSIC < 1 - Σ w²`` (Lemma 3 (i))."""
    weights, mean, var = random_mixture(6, 3, spread=spread)
    value = hsic_trace(weights, function(mean, var, bandwidth_sq))
    assert 0 <= value < gini(weights)


def test_gini_bound_is_approached_by_disjoint_components(random_mixture):
    """For narrow components far apart HSIC of the unit embeddings reaches the Gini index."""
    weights, mean, var = random_mixture(5, 3, spread=100.0)
    torch.testing.assert_close(hsic_trace(weights, cosine_gram(mean, var, 1.0)), gini(weights))
    assert hsic_trace(weights, gram(mean, var, 1.0)) < 0.9 * gini(weights)


@pytest.mark.parametrize("n_components", [1, 3])
def test_gini_is_largest_for_equal_weights(n_components):
    """The Gini index is ``1 - 1/K`` for equal weights, lower for others, and zero for a single component."""
    equal = torch.full((n_components,), 1.0 / n_components)
    assert gini(equal).item() == pytest.approx(1 - 1 / n_components, abs=1e-15)
    one_hot = torch.eye(n_components)[0]
    assert gini(one_hot) == 0
    assert gini(0.7 * equal + 0.3 * one_hot) <= gini(equal)


def test_sees_covariances_at_equal_means(random_mixture):
    """With equal means HSIC is positive if variances differ, and its gradient pulls them apart (Lemma 3 (iii))."""
    weights, mean, var = random_mixture(3, 2)
    mean = torch.zeros_like(mean)
    assert hsic_trace(weights, gram(mean, var, 1.0)) > 1e-3

    var = torch.tensor([[1.0], [2.0]], requires_grad=True)
    hsic_trace(torch.tensor([0.5, 0.5]), cosine_gram(torch.zeros(2, 1), var, 1.0)).backward()
    assert var.grad[0, 0] < 0 < var.grad[1, 0]


def test_wide_kernel_sees_means_first():
    """For ``l² = s² → ∞`` squared distances are ``|D|² / s²`` at different means (Lemma 3 (iii)).

    At equal means they are of the order ``s^-4``: ``(½ |S_a - S_b|² + ¼ tr(S_a - S_b)²) / s⁴``.
    """
    bandwidth_sq = 1e4
    var = torch.tensor([[1.0, 2.0], [0.5, 0.7]])
    mean = torch.tensor([[0.3, -0.2], [1.0, 0.4]])

    def mmd_sq(mean: Tensor) -> float:
        matrix = gram(mean, var, bandwidth_sq)
        return (matrix[0, 0] + matrix[1, 1] - 2 * matrix[0, 1]).item()

    difference = var[0] - var[1]
    by_mean = (mean[0] - mean[1]).square().sum() / bandwidth_sq
    by_var = (0.5 * difference.square().sum() + 0.25 * difference.sum().square()) / bandwidth_sq**2
    assert mmd_sq(mean) == pytest.approx(by_mean.item(), rel=2e-3)
    assert mmd_sq(torch.zeros(2, 2)) == pytest.approx(by_var.item(), rel=2e-3)


@pytest.mark.parametrize("function", [gram, cosine_gram])
def test_merge_leaves_hsic_unchanged(random_mixture, function):
    """Merging two coinciding components into one does not change HSIC (Lemma 3 (iv a))."""
    weights, mean, var = random_mixture(4, 3)
    split = torch.cat([weights[:3], 0.3 * weights[3:], 0.7 * weights[3:]])
    duplicate = torch.tensor([0, 1, 2, 3, 3])
    before = hsic_trace(split, function(mean[duplicate], var[duplicate], 1.0))
    after = hsic_trace(weights, function(mean, var, 1.0))
    torch.testing.assert_close(before, after, rtol=1e-12, atol=1e-14)
    assert gini(split) > gini(weights) + 1e-3


def test_raw_hsic_rewards_small_variances(random_mixture):
    """Scaling all variances down by 100 more than doubles raw HSIC; unit-norm embeddings gain less (Lemma 3 (v))."""
    weights, mean, var = random_mixture(4, 2, seed=3, spread=1.5)

    def gain(function) -> Tensor:
        return hsic_trace(weights, function(mean, 0.01 * var, 1.0)) / hsic_trace(weights, function(mean, var, 1.0))

    assert gain(gram) > 2
    assert 1 < gain(cosine_gram) < 0.7 * gain(gram)


def test_centred_gram_has_hsic_as_trace_for_linear_kernel(random_mixture):
    """With the linear kernel HSIC is the between-component scatter of the means, the k-means counterpart."""
    weights, mean, _ = random_mixture(5, 3)
    centre = weights @ mean
    scatter = (weights[:, None] * (mean - centre).square()).sum()
    torch.testing.assert_close(hsic_trace(weights, mean @ mean.T), scatter)
