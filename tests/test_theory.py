"""The bounds of the model, on a small model whose marginal likelihood and posteriors are known in closed form.

``y ~ pi``, ``z | y = k ~ N(mu_k, diag var_k)``, ``x | z ~ N(W z + b, s² I)`` with orthogonal columns of ``W``. Then
``x`` is a Gaussian mixture and each ``p(z | x, y)`` a normal with diagonal covariance. The bounds are put together
from the functions of ``rmve.maths`` as the model does it; the references come from ``torch.distributions``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MultivariateNormal, Normal, kl_divergence

from rmve.maths.estimators import assignment_term, expectation_over_y, optimal_assignment
from rmve.maths.gaussians import kl_normal, log_normal
from rmve.maths.regularization import entropy

N_CELLS, N_COMPONENTS, N_LATENT, N_GENES = 8, 4, 2, 5


pytestmark = pytest.mark.usefixtures("double_precision_and_fixed_seed")


@dataclass
class Model:
    """Parameters of the generative model and its exact densities."""

    log_weights: Tensor  # (K,)
    mean: Tensor  # (K, d)
    var: Tensor  # (K, d)
    loading: Tensor  # (G, d), orthogonal columns
    offset: Tensor  # (G,)
    noise_var: float

    def log_joint(self, x: Tensor) -> Tensor:
        """``log p(x, y = k)``, shape ``(B, K)``."""
        location = self.mean @ self.loading.T + self.offset
        covariance = self.loading @ torch.diag_embed(self.var) @ self.loading.T + self.noise_var * torch.eye(N_GENES)
        return self.log_weights + MultivariateNormal(location, covariance).log_prob(x[:, None])

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``log p(y|x)`` of shape ``(B, K)``, means and variances of ``p(z|x,y)`` of shape ``(B, K, d)``."""
        precision = 1 / self.var + self.loading.square().sum(0) / self.noise_var
        evidence = (x - self.offset) @ self.loading / self.noise_var
        mean = (self.mean / self.var + evidence[:, None]) / precision
        return self.log_joint(x).log_softmax(-1), mean, (1 / precision).expand_as(mean)

    def expected_log_likelihood(self, x: Tensor, mean_q: Tensor, var_q: Tensor) -> Tensor:
        """``E log p(x|z)`` for ``z ~ N(mean_q, var_q)`` of shape ``(B, d)``: closed form, as ``p(x|z)`` is linear."""
        at_mean = log_normal(x, mean_q @ self.loading.T + self.offset, torch.full((N_GENES,), self.noise_var))
        return at_mean - 0.5 * (var_q * self.loading.square().sum(0)).sum(-1) / self.noise_var


@pytest.fixture
def model() -> Model:
    """A model with overlapping components."""
    loading, _ = torch.linalg.qr(torch.randn(N_GENES, N_LATENT))
    return Model(
        log_weights=torch.randn(N_COMPONENTS).log_softmax(-1),
        mean=1.5 * torch.randn(N_COMPONENTS, N_LATENT),
        var=(0.5 * torch.randn(N_COMPONENTS, N_LATENT)).exp(),
        loading=loading * torch.tensor([0.8, 1.7]),
        offset=torch.randn(N_GENES),
        noise_var=0.6,
    )


@pytest.fixture
def x(model) -> Tensor:
    """Cells drawn from the model."""
    y = Categorical(logits=model.log_weights).sample((N_CELLS,))
    z = model.mean[y] + model.var[y].sqrt() * torch.randn(N_CELLS, N_LATENT)
    return z @ model.loading.T + model.offset + math.sqrt(model.noise_var) * torch.randn(N_CELLS, N_GENES)


def random_q(model: Model, x: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """A variational distribution at a distance from the exact posterior: logits, means and variances."""
    log_q, mean_q, var_q = model.posterior(x)
    return (
        log_q + scale * torch.randn_like(log_q),
        mean_q + scale * torch.randn_like(mean_q),
        var_q * (scale * torch.randn_like(mean_q)).exp(),
    )


def labelled_bound(model: Model, x: Tensor, one_hot: Tensor, mean_q: Tensor, var_q: Tensor) -> Tensor:
    """``E_{q(z|x,y)} log p(x|z) + log p(y) - KL[q(z|x,y) || p(z|y)]`` at the label, shape ``(B,)``."""
    pick = one_hot[:, :, None]
    likelihood = model.expected_log_likelihood(x, (pick * mean_q).sum(1), (pick * var_q).sum(1))
    kl = kl_normal(mean_q, var_q, model.mean, model.var)
    return likelihood + (one_hot * (model.log_weights - kl)).sum(-1)


def unlabelled_bound(
    model: Model, x: Tensor, logits: Tensor, mean_q: Tensor, var_q: Tensor, kind: str = "exact"
) -> Tensor:
    """``E_{q(y|x)} {E log p(x|z) - KL[q(z|x,y) || p(z|y)]} - KL[q(y|x) || p(y)]``, shape ``(B,)``."""

    def likelihood(weights: Tensor) -> Tensor:
        pick = weights[:, :, None]
        return model.expected_log_likelihood(x, (pick * mean_q).sum(1), (pick * var_q).sum(1))

    kl = kl_normal(mean_q, var_q, model.mean, model.var)
    latent = assignment_term(logits.log_softmax(-1), model.log_weights, kl)
    return expectation_over_y(likelihood, logits, kind) - latent


def divergence_from_posterior(model: Model, x: Tensor, mean_q: Tensor, var_q: Tensor) -> Tensor:
    """``KL[q(z|x,y) || p(z|x,y)]`` for each label, shape ``(B, K)``."""
    _, mean, var = model.posterior(x)
    return kl_divergence(Independent(Normal(mean_q, var_q.sqrt()), 1), Independent(Normal(mean, var.sqrt()), 1))


def label(k: int) -> Tensor:
    """The label ``k`` for each cell as one-hot rows."""
    return torch.eye(N_COMPONENTS)[k].expand(N_CELLS, N_COMPONENTS)


# --- the bounds -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.01, 0.3, 2.0])
def test_bound_below_log_likelihood(model, x, scale):
    """An unlabelled cell's bound is below ``log p(x)`` for any ``q``, by the divergence from the exact posterior."""
    log_likelihood = model.log_joint(x).logsumexp(-1)
    for _ in range(20):
        logits, mean_q, var_q = random_q(model, x, scale)
        gap = log_likelihood - unlabelled_bound(model, x, logits, mean_q, var_q)
        assert gap.min() > 0
        log_q, log_posterior = logits.log_softmax(-1), model.posterior(x)[0]
        divergence = log_q - log_posterior + divergence_from_posterior(model, x, mean_q, var_q)
        torch.testing.assert_close(gap, (log_q.exp() * divergence).sum(-1))


def test_bound_tight_at_posterior(model, x):
    """At the exact posterior an unlabelled cell's bound is ``log p(x)``, and its gradient by ``q`` is zero."""
    leaves = [p.clone().requires_grad_() for p in model.posterior(x)]
    bound = unlabelled_bound(model, x, *leaves)
    torch.testing.assert_close(bound, model.log_joint(x).logsumexp(-1), rtol=1e-12, atol=1e-12)
    for gradient in torch.autograd.grad(bound.sum(), leaves):
        assert gradient.abs().max() < 1e-12


@pytest.mark.parametrize("scale", [0.0, 0.3, 2.0])
def test_labelled_bound(model, x, scale):
    """A labelled cell's bound is below ``log p(x, y)`` by ``KL[q(z|x,y) || p(z|x,y)]``, and tight at the posterior."""
    _, mean_q, var_q = random_q(model, x, scale)
    divergence = divergence_from_posterior(model, x, mean_q, var_q)
    for k in range(N_COMPONENTS):
        gap = model.log_joint(x)[:, k] - labelled_bound(model, x, label(k), mean_q, var_q)
        torch.testing.assert_close(gap, divergence[:, k], rtol=1e-10, atol=1e-12)
        assert scale == 0 or gap.min() > 0


def test_labelled_bound_gives_classifier_no_gradient(model, x):
    """In ``log q(y|x) - log[q(y|x) / p(y)]`` the classifier cancels; only an added ``alpha log q(y|x)`` trains it."""
    logits, mean_q, var_q = random_q(model, x, 0.5)
    logits.requires_grad_()
    log_q = (label(1) * logits.log_softmax(-1)).sum(-1)
    kl = kl_normal(mean_q, var_q, model.mean, model.var)[:, 1]
    likelihood = model.expected_log_likelihood(x, mean_q[:, 1], var_q[:, 1])
    with_bracket = likelihood - kl + log_q - (log_q - model.log_weights[1])
    torch.testing.assert_close(with_bracket, labelled_bound(model, x, label(1), mean_q, var_q))

    (gradient,) = torch.autograd.grad(with_bracket.sum(), logits, retain_graph=True)
    assert gradient.abs().max() < 1e-15
    alpha = 3.0
    (gradient,) = torch.autograd.grad((with_bracket + alpha * log_q).sum(), logits)
    torch.testing.assert_close(gradient, alpha * (label(1) - logits.detach().softmax(-1)))


def test_divergence_of_classifier_is_no_bound_for_labelled_cells(model, x):
    """With ``- KL[q(y|x) || p(y)]`` in place of ``log p(y)`` the objective can exceed ``log p(x, y)``."""
    _, mean, var = model.posterior(x)
    log_q = model.log_weights.expand(N_CELLS, N_COMPONENTS)
    kl_of_classifier = assignment_term(log_q, model.log_weights, torch.zeros_like(log_q))
    wrong = labelled_bound(model, x, label(1), mean, var) - model.log_weights[1] - kl_of_classifier
    assert (wrong > model.log_joint(x)[:, 1] + 0.1).all()


@pytest.mark.parametrize("scale", [0.0, 0.5])
def test_unsupervised_bound_is_expected_labelled_bound(model, x, scale):
    """Summing the label out: the unlabelled bound is ``E_{q(y|x)}`` of the labelled bound plus ``H[q(y|x)]``."""
    logits, mean_q, var_q = random_q(model, x, scale)
    labelled = torch.stack([labelled_bound(model, x, label(k), mean_q, var_q) for k in range(N_COMPONENTS)], -1)
    expected = (logits.softmax(-1) * labelled).sum(-1) + entropy(logits.log_softmax(-1))
    torch.testing.assert_close(unlabelled_bound(model, x, logits, mean_q, var_q), expected)


def test_best_classifier_is_softmax_of_labelled_bounds(model, x):
    """Over ``q(y|x)`` the unlabelled bound is largest, ``log Σ_k exp(labelled bound)``, at their softmax."""
    logits, mean_q, var_q = random_q(model, x, 0.5)
    labelled = torch.stack([labelled_bound(model, x, label(k), mean_q, var_q) for k in range(N_COMPONENTS)], -1)
    best = unlabelled_bound(model, x, labelled, mean_q, var_q)
    torch.testing.assert_close(best, labelled.logsumexp(-1))
    assert (best > unlabelled_bound(model, x, logits, mean_q, var_q)).all()


def test_sampled_bound_is_unbiased(model, x):
    """With one categorical draw for the likelihood and the divergences summed, the bound is right on average."""
    q = [p[:1] for p in random_q(model, x, 0.3)]
    exact = unlabelled_bound(model, x[:1], *q)
    n = 20_000
    draws = unlabelled_bound(model, x[:1].expand(n, N_GENES), *(p.expand(n, *p.shape[1:]) for p in q), kind="sample")
    assert draws.std() > 0.01
    assert (draws.mean() - exact[0]).abs() < 4 * draws.std() / math.sqrt(n)


# --- Lemma 1 --------------------------------------------------------------------------------------------


def test_lemma1_cross_entropy_is_weighted_kmeans(model, x):
    """Lemma 1: with ``Sigma_k = s² I`` the divergences are weighted k-means plus a constant minus an entropy.

    ``Σ_y q(y|x) KL[q(z|x,y) || p(z|y)] = 1/(2s²) Σ_y q(y|x) E|z - mu_y|² + d/2 log(2 pi s²) - Σ_y q(y|x) H[q(z|x,y)]``.
    """
    scale_sq = 0.7
    logits, mean_q, var_q = random_q(model, x, 0.5)
    q = logits.softmax(-1)
    divergence = (q * kl_normal(mean_q, var_q, model.mean, torch.tensor(scale_sq))).sum(-1)
    entropy_z = (q * Independent(Normal(mean_q, var_q.sqrt()), 1).entropy()).sum(-1)
    kmeans = (q * ((mean_q - model.mean).square() + var_q).sum(-1)).sum(-1)
    cross_entropy = kmeans / (2 * scale_sq) + 0.5 * N_LATENT * math.log(2 * math.pi * scale_sq)
    torch.testing.assert_close(divergence, cross_entropy - entropy_z)

    z = mean_q + var_q.sqrt() * torch.randn(20_000, *mean_q.shape)
    draws = (q * (z - model.mean).square().sum(-1)).sum(-1)
    assert ((draws.mean(0) - kmeans).abs() < 4 * draws.std(0) / math.sqrt(20_000)).all()


def test_lemma1_for_general_covariances_is_weighted_mahalanobis(model, x):
    """For any ``Sigma_k`` the cross-entropy is the weighted Mahalanobis distance plus ``½ log|Sigma_k|``."""
    logits, mean_q, var_q = random_q(model, x, 0.5)
    q = logits.softmax(-1)
    divergence = (q * kl_normal(mean_q, var_q, model.mean, model.var)).sum(-1)
    entropy_z = (q * Independent(Normal(mean_q, var_q.sqrt()), 1).entropy()).sum(-1)
    mahalanobis = (((mean_q - model.mean).square() + var_q) / model.var).sum(-1)
    cross_entropy = (q * 0.5 * (mahalanobis + model.var.log().sum(-1) + N_LATENT * math.log(2 * math.pi))).sum(-1)
    torch.testing.assert_close(divergence, cross_entropy - entropy_z)


def test_lemma1_best_means_are_the_kmeans_update(model, x):
    """The divergences are stationary at the responsibility-weighted means of the cells."""
    logits, mean_q, var_q = random_q(model, x, 0.5)
    q = logits.softmax(-1)[:, :, None]
    update = ((q * mean_q).sum(0) / q.sum(0)).requires_grad_()
    divergence = (q[..., 0] * kl_normal(mean_q, var_q, update, torch.tensor(0.7))).sum()
    (gradient,) = torch.autograd.grad(divergence, update)
    assert gradient.abs().max() < 1e-13


def test_lemma1_entropy_is_not_a_constant(model, x):
    """Without the entropy the best ``q(z|x,y)`` is a point; with it the divergence alone is least at ``Sigma_y``."""
    scale_sq = torch.tensor(0.7)
    _, mean_q, _ = random_q(model, x, 0.5)

    def gradient(value: float, with_entropy: bool) -> Tensor:
        var_q = torch.full_like(mean_q, value).requires_grad_()
        term = kl_normal(mean_q, var_q, model.mean, scale_sq).sum()
        if not with_entropy:
            term = term + 0.5 * var_q.log().sum()
        return torch.autograd.grad(term, var_q)[0]

    assert gradient(1e-6, with_entropy=False).min() > 0.5
    assert gradient(0.5, with_entropy=True).max() < 0
    assert gradient(0.7, with_entropy=True).abs().max() < 1e-14
    assert gradient(0.9, with_entropy=True).min() > 0


# --- Remark 2 -------------------------------------------------------------------------------------------


@pytest.fixture
def factorised(model, x) -> tuple[Tensor, Tensor, Tensor]:
    """A ``q(z|x)`` that does not depend on ``y``: means and variances ``(B, d)``, and its divergences ``(B, K)``."""
    mean_q = (x - model.offset) @ model.loading / model.loading.square().sum(0)
    var_q = (0.5 * torch.randn(N_CELLS, N_LATENT)).exp()
    return mean_q, var_q, kl_normal(mean_q[:, None], var_q[:, None], model.mean, model.var)


def factorised_bound(model: Model, x: Tensor, logits: Tensor, mean_q: Tensor, var_q: Tensor) -> Tensor:
    """The unlabelled bound for ``q(y, z|x) = q(y|x) q(z|x)``."""
    shape = (len(x), N_COMPONENTS, N_LATENT)
    return unlabelled_bound(model, x, logits, mean_q[:, None].expand(shape), var_q[:, None].expand(shape))


def vade_assignment(log_weights: Tensor, mean: Tensor, var: Tensor, mean_q: Tensor, var_q: Tensor) -> Tensor:
    """``log E_{q(z|x)} p(y = k|z)`` by Gauss-Hermite quadrature, shape ``(B, K)``."""
    nodes, weights = (torch.as_tensor(v) for v in np.polynomial.hermite_e.hermegauss(60))
    n_latent = mean.shape[-1]
    grid = torch.cartesian_prod(*[nodes] * n_latent).reshape(-1, n_latent)
    log_grid_weights = torch.cartesian_prod(*[weights] * n_latent).reshape(-1, n_latent).log().sum(-1)
    z = mean_q + var_q.sqrt() * grid[:, None]
    log_assignment = (log_weights + log_normal(z[:, :, None], mean, var)).log_softmax(-1)
    return (log_assignment + log_grid_weights[:, None, None]).logsumexp(0).log_softmax(-1)


def test_remark2_factorised_bound_is_vade(model, x, factorised):
    """Remark 2: for ``q(y, z|x) = q(y|x) q(z|x)`` the bound is that of VaDE (Jiang et al. 2017, eq. 12)."""
    mean_q, var_q, _ = factorised
    logits = torch.randn(N_CELLS, N_COMPONENTS)
    gamma = logits.softmax(-1)
    vade = (
        model.expected_log_likelihood(x, mean_q, var_q)
        - 0.5
        * (
            gamma * (model.var.log() + (var_q[:, None] + (mean_q[:, None] - model.mean).square()) / model.var).sum(-1)
        ).sum(-1)
        + (gamma * (model.log_weights.exp() / gamma).log()).sum(-1)
        + 0.5 * (1 + var_q.log()).sum(-1)
    )
    torch.testing.assert_close(factorised_bound(model, x, logits, mean_q, var_q), vade)


def test_remark2_best_assignment(model, x, factorised):
    """The factorised bound is largest, ``E log p(x|z) + log Σ_k pi_k exp(-KL_k)``, at ``q* ∝ pi_k exp(-KL_k)``.

    Equally ``q* ∝ pi_k exp(E_{q(z|x)} log N(z; mu_k, Sigma_k))``. An amortised ``q(y|x)`` is never better.
    """
    mean_q, var_q, kl = factorised
    log_q, value = optimal_assignment(model.log_weights, kl)
    best = factorised_bound(model, x, log_q, mean_q, var_q)
    torch.testing.assert_close(best, model.expected_log_likelihood(x, mean_q, var_q) + value)
    expected_log_density = log_normal(mean_q[:, None], model.mean, model.var) - 0.5 * (var_q[:, None] / model.var).sum(
        -1
    )
    torch.testing.assert_close(log_q, (model.log_weights + expected_log_density).log_softmax(-1))
    for scale in (0.1, 1.0, 5.0):
        amortised = log_q + scale * torch.randn(N_CELLS, N_COMPONENTS)
        assert (best > factorised_bound(model, x, amortised, mean_q, var_q)).all()
    assert (best < model.log_joint(x).logsumexp(-1)).all()


def test_vade_assignment_is_never_better(model, x, factorised):
    """VaDE's ``q(y|x) = E_{q(z|x)} p(y|z)`` loses ``KL`` to the best assignment, averaged or from one draw of ``z``."""
    mean_q, var_q, kl = factorised
    log_best, _ = optimal_assignment(model.log_weights, kl)
    best = factorised_bound(model, x, log_best, mean_q, var_q)
    averaged = vade_assignment(model.log_weights, model.mean, model.var, mean_q, var_q)
    z = mean_q + var_q.sqrt() * torch.randn(N_CELLS, N_LATENT)
    one_draw = (model.log_weights + log_normal(z[:, None], model.mean, model.var)).log_softmax(-1)
    for log_q in (averaged, one_draw):
        loss = best - factorised_bound(model, x, log_q, mean_q, var_q)
        torch.testing.assert_close(loss, (log_q.exp() * (log_q - log_best)).sum(-1))
        assert loss.min() > 0


def test_vade_assignment_can_lose_much():
    """With a narrow and a wide component and ``q(z|x)`` between them VaDE's assignment loses more than 0.1 nat."""
    log_weights = torch.tensor([0.5, 0.5]).log()
    mean, var = torch.zeros(2, 1), torch.tensor([[0.05], [1.0]])
    mean_q, var_q = torch.zeros(1, 1), torch.tensor([[0.5]])
    kl = kl_normal(mean_q[:, None], var_q[:, None], mean, var)
    _, best = optimal_assignment(log_weights, kl)
    loss = best + assignment_term(vade_assignment(log_weights, mean, var, mean_q, var_q), log_weights, kl)
    assert loss.item() > 0.1
