"""The module as a whole: shapes, covariates, the training step and the marginal likelihood."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scvi import REGISTRY_KEYS

from rmve.likelihoods import LIKELIHOODS
from rmve.maths.estimators import nodes_over_y
from rmve.maths.sparse_rows import SparseRows
from rmve.module._objective import Objective, given

# those of `make_module` and `make_batch`
B, G, K, D = 12, 9, 3, 2
X, BATCH = REGISTRY_KEYS.X_KEY, REGISTRY_KEYS.BATCH_KEY

pytestmark = pytest.mark.usefixtures("fixed_seed")


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("n_samples", [1, 4])
def test_shapes(make_module, make_batch, likelihood, n_samples):
    """Several draws add a leading axis to latent points, parameters and distribution."""
    module, tensors = make_module(likelihood), make_batch(likelihood)
    _, generative = module(tensors, inference_kwargs={"n_samples": n_samples}, compute_loss=False)
    shape = (B, G) if n_samples == 1 else (n_samples, B, G)
    assert generative["px"].sample().shape == shape
    outputs = ("location", *module.likelihood.heads)
    assert all(generative["parameters"][name].shape == shape for name in outputs)
    assert module.sample(tensors, n_samples=n_samples).shape == ((B, G) if n_samples == 1 else (B, G, n_samples))


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_gradient_reaches_all_parameters(make_module, make_batch, run_module, likelihood):
    """Every parameter of the full model gets a finite gradient, and all but none of them is left at zero."""
    module = make_module(likelihood, n_batch=2)
    run_module(module, make_batch(likelihood, n_batch=2), "sample")[2].loss.backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


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
            generated = module.generative(**module._get_generative_input(tensors, inference))
            return module.likelihood.log_mean(generated["parameters"])

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
    as_0, as_1, plain = (
        module.likelihood.log_mean(module.generative(**inputs, transform_batch=batch)["parameters"])
        for batch in (0, 1, None)
    )
    torch.testing.assert_close(as_0[::2], plain[::2])
    torch.testing.assert_close(as_1[1::2], plain[1::2])
    assert not torch.allclose(as_0, as_1)


def test_starting_statistics_of_the_normal_likelihood(make_module):
    """The decoder starts at the genes' means and variances."""
    module = make_module("normal")
    mean, sd = torch.arange(1.0, G + 1), torch.arange(1.0, G + 1) / 2
    module.set_input_statistics(mean, sd, 1.0, 1.0, mean)
    torch.testing.assert_close(module.x_head.bias.detach(), mean.double())
    torch.testing.assert_close((0.5 * module.log_dispersion).exp().detach(), sd.double())


@pytest.mark.parametrize("posterior", ["full", "factorized"])
@pytest.mark.parametrize("likelihood", ["nb", "zinb", "poisson"])
@pytest.mark.parametrize("phase", ["held", "joint"])
def test_training_step_is_the_plain_one(make_module, make_batch, likelihood, posterior, phase):
    """With sparse counts, one draw and an objective, loss and gradients are those of the plain forward pass."""
    module, tensors = make_module(likelihood, posterior=posterior), make_batch(likelihood)
    target = torch.softmax(torch.randn(B, K, dtype=torch.float64), -1)
    options = {"neighbor_mean": target, "neighbor_weight": 2.0, "repulsion_weight": 3.0, "repulsion_moves": True}
    if phase == "held":
        options = {"target": target, "held": torch.ones(B, dtype=torch.bool), "label_weight": torch.full((B,), 2.0)}
    objective = Objective(kl_weight=0.7, **options)
    sparse = {**tensors, X: SparseRows.from_dense(tensors[X])}

    def plain():
        inputs = module._get_inference_input(tensors)
        outputs = module.encode(**inputs)
        y, weights = nodes_over_y(given(outputs["log_q"], objective), "sample")
        outputs |= {"z": module.draw_z(outputs["z_mean"], outputs["z_var"], y)[0], "weights": weights}
        generated = module.generative(**module._get_generative_input(tensors, outputs), with_distribution=False)
        return module.loss(tensors, outputs, generated, objective=objective)

    def fast():
        return module(
            sparse,
            inference_kwargs={"objective": objective},
            generative_kwargs={"with_distribution": False},
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
    for x in (tensors[X], SparseRows.from_dense(tensors[X])):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            batch, objective = {**tensors, X: x}, Objective()
            _, _, loss = module(
                batch,
                inference_kwargs={"estimator": estimator, "objective": objective},
                generative_kwargs={"with_distribution": False},
                loss_kwargs={"objective": objective},
            )
        losses.append(loss.loss)
    torch.testing.assert_close(*losses)


def test_marginal_likelihood_by_quadrature(make_module, make_batch, run_module):
    """With one latent dimension, importance sampling meets the integral, and the bound lies below it."""
    module, tensors = make_module("normal", n_latent=1), make_batch("normal")
    grid = torch.linspace(-12, 12, 1201, dtype=torch.float64)[:, None, None].expand(-1, B, 1)
    with torch.no_grad():
        generated = module.generative(grid, None, tensors[BATCH], with_distribution=False)
        log_integrand = module.log_likelihood(tensors[X], generated["parameters"]) + module.mixture.log_prob(grid)
        exact = log_integrand.logsumexp(0) + torch.log(grid[1, 0, 0] - grid[0, 0, 0])
        bound = torch.stack([-run_module(module, tensors)[2].loss for _ in range(50)]).mean()
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
