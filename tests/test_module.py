"""The module's loss, estimators and likelihoods against densities and sums computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
import scanpy as sc
import torch
from scvi import REGISTRY_KEYS
from torch import Tensor
from torch.distributions import Categorical, Normal, kl_divergence

from rmve.initialization import input_statistics
from rmve.maths.estimators import nodes_over_y
from rmve.maths.regularization import agreement, balance, entropy
from rmve.maths.repulsion import REPULSIONS, default_bandwidth
from rmve.maths.sparse_rows import SparseRows
from rmve.module import COUNT_LIKELIHOODS, GENE_LIKELIHOODS, Objective, RMVEModule, _given

B, G, K, D = 12, 9, 3, 2
X, BATCH = REGISTRY_KEYS.X_KEY, REGISTRY_KEYS.BATCH_KEY


@pytest.fixture(autouse=True)
def fixed_seed():
    """Run each test from the same state of torch's generator, and restore it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture
def make_module():
    """Build a small module in double precision, in evaluation mode, with parameters away from their start."""

    def build(likelihood: str = "nb", n_input: int = G, **options) -> RMVEModule:
        options = {"n_components": K, "n_latent": D, "n_hidden": 8, "n_layers": 1} | options
        module = RMVEModule(n_input, gene_likelihood=likelihood, **options).double()
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                if "offset" in name or name.startswith("mixture") or name == "log_dispersion":
                    parameter.add_(0.5 * torch.randn_like(parameter))
            module.target_sum.fill_(20.0)
        return module.eval()

    return build


@pytest.fixture
def make_batch():
    """Build a mini-batch that fits a likelihood."""

    def build(likelihood: str = "nb", n_cells: int = B, n_batch: int = 1) -> dict[str, Tensor]:
        x = torch.poisson(2.0 * torch.rand(n_cells, G, dtype=torch.float64)) + (torch.arange(G) == 0)
        if likelihood == "normal":
            x = torch.randn(n_cells, G, dtype=torch.float64)
        if likelihood == "bernoulli":
            x = (x > 1).double()
        return {X: x, BATCH: torch.arange(n_cells)[:, None] % n_batch}

    return build


def run(module: RMVEModule, tensors, estimator="exact", objective=None, with_distribution=False):
    """One pass through the module."""
    return module(
        tensors,
        inference_kwargs={"estimator": estimator, "objective": objective},
        generative_kwargs={"with_distribution": with_distribution},
        loss_kwargs={"objective": objective},
    )


def pieces(module: RMVEModule, tensors, inference, generative):
    """Log-likelihood of each node ``(S, B)``, divergence ``(B, K)`` and log-weights ``(K,)``, by torch's densities."""
    log_lik = generative["px"].log_prob(tensors[X]).sum(-1)
    q = Normal(inference["z_mean"], inference["z_var"].sqrt())
    kl = kl_divergence(q, Normal(module.mixture.mean, module.mixture.var.sqrt())).sum(-1).expand(-1, K)
    return log_lik, kl, torch.log_softmax(module.mixture.logits, -1)


# ------------------------------------------------------------------ objective


@pytest.mark.parametrize("posterior", ["full", "factorized"])
@pytest.mark.parametrize("likelihood", GENE_LIKELIHOODS)
def test_exact_bound_by_hand(make_module, make_batch, likelihood, posterior):
    """Equation 5: the loss is the negative bound, put together from torch's and scvi-tools' distributions."""
    module, tensors = make_module(likelihood, posterior=posterior), make_batch(likelihood)
    inference, generative, loss = run(module, tensors, with_distribution=True)
    log_lik, kl, log_pi = pieces(module, tensors, inference, generative)
    q = inference["log_q"].exp()
    kl_y = kl_divergence(Categorical(probs=q), Categorical(logits=module.mixture.logits))
    bound = (q.T * log_lik).sum(0) - (q * kl).sum(-1) - kl_y
    torch.testing.assert_close(loss.loss, -bound.mean(), rtol=1e-5, atol=1e-5)
    per_cell = loss.reconstruction_loss["reconstruction_loss"] + loss.kl_local["kl_local"]
    torch.testing.assert_close(per_cell, -bound, rtol=1e-5, atol=1e-5)


def test_kl_weight(make_module, make_batch):
    """The weight acts on the divergence of ``q(z|x,y)`` alone, whether given by scvi-tools or by the objective."""
    module, tensors = make_module(), make_batch()
    inference, generative, full = run(module, tensors)
    half = module.loss(tensors, inference, generative, kl_weight=0.5)
    same = module.loss(tensors, inference, generative, objective=Objective(kl_weight=0.5))
    kl = module.mixture.kl(inference["z_mean"], inference["z_var"])
    expected = full.loss - 0.5 * (inference["log_q"].exp() * kl).sum(-1).mean()
    torch.testing.assert_close(half.loss, expected)
    torch.testing.assert_close(same.loss, expected)
    torch.testing.assert_close(half.kl_local["kl_local"], full.kl_local["kl_local"])


def test_held_cells_by_hand(make_module, make_batch):
    """Equation 3 for held cells, with alpha, and equation 5 for the others of the same batch."""
    module, tensors = make_module(), make_batch()
    held = torch.arange(B) % 3 == 0
    target = torch.eye(K, dtype=torch.float64)[torch.arange(B) % K]
    alpha = torch.full((B,), 7.0, dtype=torch.float64)
    objective = Objective(target=target, held=held, alpha=alpha)
    inference, generative, loss = run(module, tensors, objective=objective, with_distribution=True)
    log_lik, kl, log_pi = pieces(module, tensors, inference, generative)
    log_q, y = inference["log_q"], target.argmax(-1)
    at = torch.arange(B)
    given = log_lik[y, at] + log_pi[y] - kl[at, y] + alpha * log_q[at, y]
    free = (log_q.exp() * (log_lik.T - kl - log_q + log_pi)).sum(-1)
    torch.testing.assert_close(loss.loss, -torch.where(held, given, free).mean(), rtol=1e-5, atol=1e-5)


def test_held_cells_with_a_soft_target(make_module, make_batch):
    """A smoothed assignment enters equation 3 as its expectation."""
    module, tensors = make_module(), make_batch()
    target = torch.softmax(torch.randn(B, K, dtype=torch.float64), -1)
    everyone, alpha = torch.ones(B, dtype=torch.bool), torch.ones(B, dtype=torch.float64)
    objective = Objective(target=target, held=everyone, alpha=alpha)
    inference, generative, loss = run(module, tensors, objective=objective, with_distribution=True)
    log_lik, kl, log_pi = pieces(module, tensors, inference, generative)
    expected = (target * (log_lik.T - kl + log_pi + inference["log_q"])).sum(-1)
    torch.testing.assert_close(loss.loss, -expected.mean(), rtol=1e-5, atol=1e-5)


def test_classifier_learns_from_labels(make_module, make_batch):
    """``q(y|x)`` of a held cell gets a gradient through alpha, and none without it."""
    module, tensors = make_module(), make_batch()
    target, everyone = torch.eye(K, dtype=torch.float64)[torch.arange(B) % K], torch.ones(B, dtype=torch.bool)
    gradient = {}
    for alpha in (0.0, 1.0):
        objective = Objective(target=target, held=everyone, alpha=torch.full((B,), alpha, dtype=torch.float64))
        module.zero_grad()
        run(module, tensors, "sample", objective)[2].loss.backward()
        gradient[alpha] = module.y_head.weight.grad.abs().sum()
    assert gradient[0.0] == 0
    assert gradient[1.0] > 0


def test_potts_prior(make_module, make_batch):
    """The neighbours' mean assignment replaces ``p(y)`` by ``pi_y exp(eta m_y)``, normalised."""
    module, tensors = make_module(), make_batch()
    near = torch.softmax(torch.randn(B, K, dtype=torch.float64), -1)
    inference, generative, plain = run(module, tensors)
    with_potts = module.loss(tensors, inference, generative, Objective(neighbor_mean=near, potts=4.0))
    log_pi = module.mixture.log_weights
    prior = (log_pi + 4.0 * near).log_softmax(-1)
    expected = plain.loss + (inference["log_q"].exp() * (log_pi - prior)).sum(-1).mean()
    torch.testing.assert_close(with_potts.loss, expected)
    torch.testing.assert_close(with_potts.kl_local["kl_local"], plain.kl_local["kl_local"])


@pytest.mark.parametrize("kind", [*REPULSIONS, None])
def test_repulsion(make_module, make_batch, kind):
    """The strength times the penalty, on the mini-batch's weights, is added; ``None`` adds nothing."""
    module, tensors = make_module(repulsion=kind), make_batch()
    inference, generative, plain = run(module, tensors)
    repelled = module.loss(tensors, inference, generative, Objective(repulsion=3.0))
    expected = plain.loss
    if kind is not None:
        weights, var = inference["log_q"].exp().mean(0), module.mixture.var
        penalty = REPULSIONS[kind](weights, module.mixture.mean, var, default_bandwidth(weights, var))
        expected = expected + 3.0 * penalty
        torch.testing.assert_close(repelled.extra_metrics["repulsion"], penalty.detach())
    torch.testing.assert_close(repelled.loss, expected)


@pytest.mark.parametrize("moves", [False, True])
@pytest.mark.parametrize("kind", REPULSIONS)
def test_what_the_repulsion_moves(make_module, make_batch, kind, moves):
    """The overlap moves the weights, and the components if asked to; the other kinds move the components always."""
    module, tensors = make_module(repulsion=kind), make_batch()
    names = ["y_head.weight", "mixture.mean"]
    parameters = dict(module.named_parameters())
    inference, generative, plain = run(module, tensors)
    repelled = module.loss(tensors, inference, generative, Objective(repulsion=3.0, repulsion_moves=moves))
    head, mean = torch.autograd.grad(repelled.loss - plain.loss, [parameters[name] for name in names])
    assert (head.abs().max() > 1e-9) == (kind == "hsic")
    assert (mean.abs().max() > 1e-9) == (moves or kind != "hsic")


def test_other_terms(make_module, make_batch):
    """Agreement, balance, confidence and the Dirichlet prior add what their formulas say."""
    module, tensors = make_module(), make_batch()
    inference, generative, plain = run(module, tensors)
    view = torch.ones_like(tensors[X])
    objective = Objective(agreement=2.0, view=view, balance=0.5, confidence=0.25, dirichlet=1.5, n_obs=100)
    loss = module.loss(tensors, inference, generative, objective)
    log_q = inference["log_q"]
    expected = plain.loss + 2.0 * agreement(log_q, module.encode(view)["log_q"]).mean()
    expected = expected + 0.5 * balance(log_q.exp().mean(0)) - 0.5 * module.mixture.log_weights.sum() / 100
    expected = expected + 0.25 * entropy(log_q).mean()
    torch.testing.assert_close(loss.loss, expected)
    assert set(loss.extra_metrics) == {"agreement", "balance", "entropy"}


def test_view_of_a_held_cell(make_module, make_batch):
    """The view of a held cell is compared with its given assignment, that of another with its ``q(y|x)``."""
    module, tensors = make_module(), make_batch()
    inference, generative, _ = run(module, tensors)
    log_q, view = inference["log_q"], torch.ones_like(tensors[X])
    held, alpha = torch.arange(B) % 3 == 0, torch.ones(B, dtype=log_q.dtype)
    target = torch.eye(log_q.shape[-1], dtype=log_q.dtype)[torch.arange(B) % log_q.shape[-1]]
    given = {"held": held, "target": target, "alpha": alpha}
    loss = module.loss(tensors, inference, generative, Objective(agreement=2.0, view=view, **given))
    log_q_view = module.encode(view)["log_q"]
    expected = -(torch.where(held[:, None], target, log_q.exp()) * log_q_view).sum(-1).mean()
    torch.testing.assert_close(loss.extra_metrics["agreement"], expected.detach())


@pytest.mark.parametrize("likelihood", GENE_LIKELIHOODS)
def test_gradient_reaches_all_parameters(make_module, make_batch, likelihood):
    """Every parameter of the full model gets a finite gradient, and all but none of them is left at zero."""
    module = make_module(likelihood, n_batch=2)
    run(module, make_batch(likelihood, n_batch=2), "sample")[2].loss.backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


# ----------------------------------------------------------------- estimators


def test_sample_has_the_exact_expectation(make_module, make_batch):
    """Averaged over many copies of a cell, the one-sample loss is the exact one."""
    module = make_module()
    one = make_batch(n_cells=1)
    many = {name: value.expand(20_000, -1) for name, value in one.items()}
    losses = {}
    for estimator in ("exact", "sample"):
        with torch.no_grad():
            losses[estimator] = run(module, many, estimator)[2].reconstruction_loss["reconstruction_loss"]
    q = module.encode(one[X])["log_q"].exp()
    assert q.max() < 0.9, "the test needs an uncertain cell"
    error = (losses["sample"].var() / 20_000 + losses["exact"].var() / 20_000).sqrt()
    assert (losses["sample"].mean() - losses["exact"].mean()).abs() < 4 * error
    assert losses["sample"].var() > losses["exact"].var()


def test_estimators_agree_on_a_certain_cell(make_module, make_batch):
    """Where ``q(y|x)`` is all but one-hot, the three estimators have the same expectation."""
    module = make_module()
    with torch.no_grad():
        module.y_head.bias[1] += 40.0
    many = {name: value.expand(5_000, -1) for name, value in make_batch(n_cells=1).items()}
    means, errors = [], []
    for estimator in ("exact", "sample", "gumbel"):
        with torch.no_grad():
            loss = run(module, many, estimator)[2].reconstruction_loss["reconstruction_loss"]
        means.append(loss.mean())
        errors.append((loss.var() / 5_000).sqrt())
    assert max(means) - min(means) < 5 * max(errors)


def test_draws_follow_the_component(make_module):
    """A one-hot ``y`` picks its component's mean and variance; a relaxed one interpolates both."""
    module = make_module()
    z_mean, z_var = torch.randn(B, K, D), torch.rand(B, K, D)
    y = torch.nn.functional.one_hot(torch.arange(B) % K, K).float()
    draws = module.draw_z(z_mean, z_var, y.expand(20_000, B, K))
    at = torch.arange(B)
    torch.testing.assert_close(draws.mean(0), z_mean[at, at % K], atol=0.05, rtol=0)
    torch.testing.assert_close(draws.var(0), z_var[at, at % K], atol=0.05, rtol=0)
    halfway = module.draw_z(z_mean, torch.zeros_like(z_var), torch.full((1, B, K), 1 / K))
    torch.testing.assert_close(halfway[0], z_mean.mean(1))


def test_held_cells_draw_from_their_target(make_module, make_batch):
    """A held cell is decoded from the component it is given, whatever ``q(y|x)`` says."""
    module, tensors = make_module(), make_batch()
    with torch.no_grad():
        module.mean_offset[:] = 0.0
        module.mean_offset[2] = 1000.0
        module.y_head.bias[0] += 40.0
    held = torch.arange(B) < 4
    target = torch.eye(K, dtype=torch.float64)[torch.full((B,), 2)]
    objective = Objective(target=target, held=held, alpha=torch.ones(B, dtype=torch.float64))
    z = module.inference(**module._get_inference_input(tensors), estimator="sample", objective=objective)["z"]
    assert (z[held] > 500).all()
    assert (z[~held] < 500).all()


def test_exact_sums_over_components(make_module, make_batch):
    """The exact estimator decodes once per component, weighted by ``q(y|x)``."""
    module, tensors = make_module(), make_batch()
    outputs = module.inference(**module._get_inference_input(tensors), estimator="exact")
    assert outputs["z"].shape == (K, B, D)
    torch.testing.assert_close(outputs["weights"], outputs["log_q"].exp().T)


def test_moments_of_q_z(make_module, make_batch):
    """``qz`` has the mean and variance of the mixture ``Σ_y q(y|x) q(z|x,y)``."""
    module, tensors = make_module(), make_batch()
    with torch.no_grad():
        module.mean_offset.mul_(10.0)
    outputs = module.inference(**module._get_inference_input(tensors), n_samples=20_000)
    sd = outputs["qz"].stddev
    assert (outputs["z_var"].mean(1) < 0.8 * sd.square()).any(), "the test needs components that lie apart"
    torch.testing.assert_close(outputs["z"].mean(0) / sd, outputs["qz"].mean / sd, atol=0.05, rtol=0)
    torch.testing.assert_close(outputs["z"].var(0) / sd.square(), torch.ones_like(sd), atol=0.1, rtol=0)


# ---------------------------------------------------------- inputs and outputs


@pytest.mark.parametrize("likelihood", COUNT_LIKELIHOODS)
def test_standardize_is_scanpys_preprocessing(cells, likelihood):
    """On the training data, the input is scanpy's normalize_total, log1p and scale(max_value=10)."""
    counts = torch.from_numpy(cells.X.toarray())
    counts[:, 5] = 0.0
    counts[7, 5] = 3.0  # alone: beyond the limit after scaling
    counts[:, 6] = 0.0
    cells.X = counts.numpy()
    stats = input_statistics(cells.X, likelihood)
    module = RMVEModule(cells.n_vars, 2, gene_likelihood=likelihood)
    module.set_input_statistics(
        *(torch.as_tensor(value) for value in (stats.mean, stats.sd)),
        stats.target_sum,
        stats.size_factor_scale,
        torch.as_tensor(stats.output_bias),
    )
    ours = module.standardize(counts, module.log_library(counts, None)).numpy()
    sc.pp.normalize_total(cells)
    sc.pp.log1p(cells)
    theirs = sc.pp.scale(cells.X, max_value=10)
    np.testing.assert_allclose(ours, theirs, rtol=0.003, atol=1e-4)  # scanpy divides by n - 1, here by n
    assert ours[7, 5] == 10.0
    assert (ours[:, 6] == 0).all()


def test_standardize_of_other_likelihoods(make_module):
    """Normal input is z-scored without normalising; binary input is taken as it is."""
    x = 5.0 + torch.randn(B, G, dtype=torch.float64)
    module = make_module("normal")
    module.input_mean.fill_(5.0)
    module.input_sd.fill_(2.0)
    torch.testing.assert_close(module.standardize(x, None), (x - 5.0) / 2.0)
    assert make_module("bernoulli").standardize(x, None) is x


def test_size_factors_replace_totals(make_module):
    """A size factor, in its own unit, stands for the total count."""
    module = make_module()
    module.size_factor_scale.fill_(50.0)
    x, factor = torch.full((B, G), 2.0, dtype=torch.float64), torch.full((B, 1), 4.0, dtype=torch.float64)
    assert torch.allclose(module.log_library(x, None).exp(), x.sum(-1, keepdim=True))
    torch.testing.assert_close(module.log_library(x, factor).exp(), 50.0 * factor)


@pytest.mark.parametrize("likelihood", GENE_LIKELIHOODS)
@pytest.mark.parametrize("n_samples", [1, 4])
def test_shapes(make_module, make_batch, likelihood, n_samples):
    """Several draws add a leading axis to latent points, parameters and distribution."""
    module, tensors = make_module(likelihood), make_batch(likelihood)
    _, generative = module(tensors, inference_kwargs={"n_samples": n_samples}, compute_loss=False)
    shape = (B, G) if n_samples == 1 else (n_samples, B, G)
    assert generative["px"].sample().shape == shape
    assert all(value.shape == shape for value in generative["parameters"].values())
    assert module.sample(tensors, n_samples=n_samples).shape == ((B, G) if n_samples == 1 else (B, G, n_samples))


@pytest.mark.parametrize("likelihood", GENE_LIKELIHOODS)
@pytest.mark.parametrize("n_samples", [1, 3])
def test_log_likelihood_is_the_distributions(make_module, make_batch, likelihood, n_samples):
    """The fast likelihood equals the density of the distribution object, for one and several draws."""
    module, tensors = make_module(likelihood), make_batch(likelihood)
    _, generative = module(tensors, inference_kwargs={"n_samples": n_samples}, compute_loss=False)
    ours = module.log_likelihood(tensors[X], generative["parameters"])
    theirs = generative["px"].log_prob(tensors[X]).sum(-1)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("likelihood", COUNT_LIKELIHOODS)
def test_means_add_up_to_the_library(make_module, make_batch, likelihood):
    """The decoder's proportions are scaled to each cell's total count."""
    module, tensors = make_module(likelihood), make_batch(likelihood)
    _, generative = module(tensors, compute_loss=False)
    torch.testing.assert_close(generative["parameters"]["log_mu"].exp().sum(-1), tensors[X].sum(-1))
    torch.testing.assert_close(generative["px"].get_normalized("scale").sum(-1), torch.ones(B, dtype=torch.float64))


def test_covariates_reach_the_decoder(make_module, make_batch):
    """Batch, categorical and continuous covariates change the output; the encoder sees them only when asked to."""
    tensors = make_batch(n_batch=2) | {
        REGISTRY_KEYS.CAT_COVS_KEY: torch.arange(B)[:, None] % 3,
        REGISTRY_KEYS.CONT_COVS_KEY: torch.randn(B, 1, dtype=torch.float64),
    }
    others = {
        BATCH: 1 - tensors[BATCH],
        REGISTRY_KEYS.CAT_COVS_KEY: (tensors[REGISTRY_KEYS.CAT_COVS_KEY] + 1) % 3,
        REGISTRY_KEYS.CONT_COVS_KEY: tensors[REGISTRY_KEYS.CONT_COVS_KEY] + 1.0,
    }
    for encode in (False, True):
        module = make_module(n_batch=2, n_cats_per_cov=[3], n_continuous_cov=1, encode_covariates=encode)
        inference = module.inference(**module._get_inference_input(tensors))

        def decode(tensors, module=module, inference=inference):
            return module.generative(**module._get_generative_input(tensors, inference))["parameters"]["log_mu"]

        for key, value in others.items():
            changed = tensors | {key: value}
            assert not torch.allclose(decode(tensors), decode(changed)), key
            log_q = module.encode(**module._get_inference_input(changed))["log_q"]
            assert torch.equal(log_q, inference["log_q"]) != encode, key


def test_transform_batch(make_module, make_batch):
    """Decoding as if all cells were of one batch equals giving them that batch, and differs from the other."""
    module, tensors = make_module(n_batch=2), make_batch(n_batch=2)
    inference = module.inference(**module._get_inference_input(tensors))
    inputs = module._get_generative_input(tensors, inference)
    as_0, as_1 = (module.generative(**inputs, transform_batch=b)["parameters"]["log_mu"] for b in (0, 1))
    plain = module.generative(**inputs)["parameters"]["log_mu"]
    torch.testing.assert_close(as_0[::2], plain[::2])
    torch.testing.assert_close(as_1[1::2], plain[1::2])
    assert not torch.allclose(as_0, as_1)


def test_factorized_posterior_does_not_depend_on_the_component(make_module, make_batch):
    """In the VaDE case ``q(z|x)`` is one normal for all components."""
    module = make_module(posterior="factorized")
    outputs = module.encode(make_batch()[X])
    assert outputs["z_mean"].shape == (B, 1, D)
    assert not hasattr(module, "mean_offset")


def test_starting_statistics_of_the_normal_likelihood(make_module):
    """The decoder starts at the genes' means and variances."""
    module = make_module("normal")
    mean, sd = torch.arange(1.0, G + 1), torch.arange(1.0, G + 1) / 2
    module.set_input_statistics(mean, sd, 1.0, 1.0, mean)
    torch.testing.assert_close(module.x_head.bias.detach(), mean.double())
    torch.testing.assert_close((0.5 * module.log_dispersion).exp().detach(), sd.double())


# ------------------------------------------------------------ marginal likelihood


def test_marginal_likelihood_by_quadrature(make_module, make_batch):
    """With one latent dimension, importance sampling meets the integral, and the bound lies below it."""
    module, tensors = make_module("normal", n_latent=1), make_batch("normal")
    grid = torch.linspace(-12, 12, 1201, dtype=torch.float64)[:, None, None].expand(-1, B, 1)
    with torch.no_grad():
        generated = module.generative(grid, None, tensors[BATCH], with_distribution=False)
        log_integrand = module.log_likelihood(tensors[X], generated["parameters"]) + module.mixture.log_prob(grid)
        exact = log_integrand.logsumexp(0) + torch.log(grid[1, 0, 0] - grid[0, 0, 0])
        bound = torch.stack([-run(module, tensors)[2].loss for _ in range(50)]).mean()
    estimate = module.marginal_ll(tensors, n_mc_samples=2000, n_mc_samples_per_pass=500)
    torch.testing.assert_close(estimate, exact, atol=0.05, rtol=0)
    assert bound < exact.mean()
    mean = module.marginal_ll(tensors, n_mc_samples=500, return_mean=True, n_mc_samples_per_pass=500)
    assert mean == pytest.approx(exact.mean().item(), abs=0.05)


def test_marginal_likelihood_grows_with_samples(make_module, make_batch):
    """The importance-sampled bound gets tighter with more proposals, also when they do not fill the last pass."""
    module, tensors = make_module(), make_batch()
    few, many = (
        np.mean([module.marginal_ll(tensors, n, return_mean=True, n_mc_samples_per_pass=20) for _ in range(20)])
        for n in (1, 50)
    )
    assert few < many


# ------------------------------------------------------------------- positions


@pytest.fixture
def place(make_module, make_batch):
    """A module with two coordinates, a mini-batch, its assignment and positions, of which one is unknown."""
    module = make_module(n_spatial=2)
    outputs = module.inference(make_batch()[X])
    positions = torch.randn(B, 2, dtype=torch.float64)
    positions[3] = torch.nan
    return module, outputs, outputs["log_q"].exp(), positions


def test_position_loss_is_the_expected_squared_error(place):
    """By Monte Carlo over y and z, for cells with a position that are not held out."""
    module, outputs, assignment, positions = place
    held_out = torch.arange(B) % 4 == 0
    module.space_var.copy_(torch.tensor([0.5, 0.2]))  # signal to noise 1 and 4
    loss = module.position_loss(assignment, outputs, positions, held_out)
    n = 200_000
    y = Categorical(assignment).sample((n,))
    rows = torch.arange(B)
    mean, sd = outputs["z_mean"][rows, y], outputs["z_var"][rows, y].sqrt()
    squared = (positions - module.space_head(mean + sd * torch.randn_like(mean))).square().mean(0)
    counted = ~held_out & positions.isfinite().all(-1)
    expected = 0.5 * (squared[counted] * torch.tensor([1.0, 4.0])).sum() / B
    torch.testing.assert_close(loss, expected, rtol=0.02, atol=0.0)


def test_held_out_positions_teach_nothing_but_the_variance(place):
    """Their gradient is zero; in training their error becomes the running variance, in evaluation it does not."""
    module, outputs, assignment, positions = place
    nothing = module.position_loss(assignment, outputs, positions, torch.ones(B, dtype=torch.bool))
    assert nothing.item() == 0.0
    torch.testing.assert_close(module.space_var, torch.ones(2, dtype=torch.float64))
    module.train()
    for _ in range(2000):
        module.position_loss(assignment, outputs, positions, torch.ones(B, dtype=torch.bool))
    known = positions.isfinite().all(-1)
    residual = positions[known][:, None] - module.space_head(outputs["z_mean"][known])
    spread = outputs["z_var"][known] @ module.space_head.weight.square().T
    expected = (assignment[known][..., None] * (residual.square() + spread)).sum(1).mean(0)
    torch.testing.assert_close(module.space_var, expected.detach())


def test_coordinates_without_signal_keep_a_small_weight(place):
    """No less than the least signal, so that a coordinate can start to be learned."""
    module, outputs, assignment, positions = place
    none = torch.zeros(B, dtype=torch.bool)
    module.space_var.fill_(1.0)
    weak = module.position_loss(assignment, outputs, positions, none, min_signal=0.2)
    module.space_var.fill_(1.0 / 1.2)  # explained to unexplained variance: just the least that counts
    torch.testing.assert_close(weak, module.position_loss(assignment, outputs, positions, none, min_signal=0.1))
    module.space_var.fill_(0.5)
    torch.testing.assert_close(5.0 * weak, module.position_loss(assignment, outputs, positions, none, min_signal=0.2))


def test_unknown_positions_give_no_gradient(place):
    """Cells without a position pull the map nowhere, also in the factorised posterior."""
    module, outputs, assignment, positions = place
    positions[:] = torch.nan
    assert module.position_loss(assignment, outputs, positions, torch.zeros(B, dtype=torch.bool)).item() == 0.0


def test_loss_adds_the_positions(make_module, make_batch):
    """The total is the bound plus the weight times the positions' loss, for held cells under their given assignment."""
    module, batch = make_module(n_spatial=2, posterior="factorized"), make_batch()
    outputs = module.inference(batch[X])
    generated = module.generative(outputs["z"], outputs["library"], batch[BATCH])
    positions, held_out = torch.randn(B, 2, dtype=torch.float64), torch.zeros(B, dtype=torch.bool)
    plain = module.loss(batch, outputs, generated, Objective()).loss
    full = module.loss(batch, outputs, generated, Objective(positions=positions, held_out=held_out, spatial=7.0))
    expected = module.position_loss(outputs["log_q"].exp(), outputs, positions, held_out)
    torch.testing.assert_close(full.loss, plain + 7.0 * expected)
    torch.testing.assert_close(full.extra_metrics["position_loss"], expected.detach())


# ------------------------------------------------------------- the fast training step


@pytest.mark.parametrize("posterior", ["full", "factorized"])
@pytest.mark.parametrize("likelihood", ["nb", "zinb", "poisson"])
@pytest.mark.parametrize("phase", ["held", "joint"])
def test_training_step_is_the_plain_one(make_module, make_batch, likelihood, posterior, phase):
    """With sparse counts, one draw and an objective, loss and gradients are those of the plain forward pass."""
    module, tensors = make_module(likelihood, posterior=posterior), make_batch(likelihood)
    target = torch.softmax(torch.randn(B, K, dtype=torch.float64), -1)
    options = {"neighbor_mean": target, "potts": 2.0, "repulsion": 3.0, "repulsion_moves": True}
    if phase == "held":
        options = {"target": target, "held": torch.ones(B, dtype=torch.bool), "alpha": torch.full((B,), 2.0)}
    objective = Objective(kl_weight=0.7, **options)
    sparse = {**tensors, X: SparseRows.from_dense(tensors[X])}

    def plain():
        inputs = module._get_inference_input(tensors)
        outputs = module.encode(**inputs)
        y, weights = nodes_over_y(_given(outputs["log_q"], objective), "sample")
        outputs |= {"z": module.draw_z(outputs["z_mean"], outputs["z_var"], y)[0], "weights": weights}
        generated = module.generative(**module._get_generative_input(tensors, outputs), with_distribution=False)
        return module.loss(tensors, outputs, generated, objective=objective)

    def fast():
        return module(
            sparse,
            inference_kwargs={"objective": objective},
            generative_kwargs={"with_distribution": False, "as_logits": True},
            loss_kwargs={"objective": objective},
        )[2]

    parameters = [p for p in module.parameters() if p.requires_grad]
    results = []
    for function in (plain, fast):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            loss = function()
        gradients = torch.autograd.grad(loss.loss, parameters, allow_unused=True)
        results.append([loss.loss, loss.reconstruction_loss_sum, loss.kl_local_sum, *gradients])
    for expected, found in zip(*results, strict=True):
        if expected is None:
            assert found is None or not found.any()
        else:
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("estimator", ["exact", "gumbel"])
def test_other_estimators_with_sparse_counts(make_module, make_batch, estimator):
    """Estimators with several decoder passes, too, give the same loss from sparse and from dense counts."""
    module, tensors = make_module(), make_batch()
    losses = []
    for x, as_logits in ((tensors[X], False), (SparseRows.from_dense(tensors[X]), True)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            batch, objective = {**tensors, X: x}, Objective()
            _, _, loss = module(
                batch,
                inference_kwargs={"estimator": estimator, "objective": objective},
                generative_kwargs={"with_distribution": False, "as_logits": as_logits},
                loss_kwargs={"objective": objective},
            )
        losses.append(loss.loss)
    torch.testing.assert_close(*losses)


def test_encoder_of_sparse_counts(make_module, make_batch):
    """Without gradient the first layer is a sparse product; what comes out is the same."""
    module, tensors = make_module(), make_batch()
    inputs = module._get_inference_input(tensors)
    with torch.inference_mode():
        sparse = module.encode(**{**inputs, "x": SparseRows.from_dense(inputs["x"])})
        dense = module.encode(**inputs)
    for name, value in dense.items():
        torch.testing.assert_close(sparse[name], value)
