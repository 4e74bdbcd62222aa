"""The encoder's input, its posteriors and the draws from them."""

from __future__ import annotations

import numpy as np
import pytest
import scanpy as sc
import torch
from scvi import REGISTRY_KEYS

from rmve.clusters.initialization import input_statistics
from rmve.likelihoods import LIKELIHOODS
from rmve.maths.sparse_input import first_layer
from rmve.maths.sparse_rows import SparseRows
from rmve.module import RMVEModule
from rmve.module._objective import Objective

# those of `make_module` and `make_batch`
B, G, K, D = 12, 9, 3, 2
X, BATCH = REGISTRY_KEYS.X_KEY, REGISTRY_KEYS.BATCH_KEY

pytestmark = pytest.mark.usefixtures("fixed_seed")


def test_sample_has_the_exact_expectation(make_module, make_batch, run_module):
    """Averaged over many copies of a cell, the one-sample loss is the exact one."""
    module = make_module()
    one = make_batch(n_cells=1)
    many = {name: value.expand(20_000, -1) for name, value in one.items()}
    losses = {}
    for estimator in ("exact", "sample"):
        with torch.no_grad():
            losses[estimator] = run_module(module, many, estimator)[2].reconstruction_loss["reconstruction_loss"]
    q = module.encode(one[X])["log_q"].exp()
    assert q.max() < 0.9, "the test needs an uncertain cell"
    error = (losses["sample"].var() / 20_000 + losses["exact"].var() / 20_000).sqrt()
    assert (losses["sample"].mean() - losses["exact"].mean()).abs() < 4 * error
    assert losses["sample"].var() > losses["exact"].var()


def test_estimators_agree_on_a_certain_cell(make_module, make_batch, run_module):
    """Where ``q(y|x)`` is all but one-hot, the three estimators have the same expectation."""
    module = make_module()
    with torch.no_grad():
        module.y_head.bias[1] += 40.0
    many = {name: value.expand(5_000, -1) for name, value in make_batch(n_cells=1).items()}
    means, errors = [], []
    for estimator in ("exact", "sample", "gumbel"):
        with torch.no_grad():
            loss = run_module(module, many, estimator)[2].reconstruction_loss["reconstruction_loss"]
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
    objective = Objective(target=target, held=held, label_weight=torch.ones(B, dtype=torch.float64))
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


@pytest.mark.parametrize("likelihood", [name for name, kind in LIKELIHOODS.items() if kind.takes_counts])
def test_standardize_is_scanpys_preprocessing(cells, likelihood):
    """On the training data, the input is scanpy's normalize_total, log1p and scale(max_value=10)."""
    counts = torch.from_numpy(cells.X.toarray())
    counts[:, 5] = 0.0
    counts[7, 5] = 3.0  # alone: beyond the limit after scaling
    counts[:, 6] = 0.0
    cells.X = counts.numpy()
    stats = input_statistics(cells.X, LIKELIHOODS[likelihood]())
    module = RMVEModule(cells.n_vars, 2, gene_likelihood=likelihood).eval()
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


def test_factorized_posterior_does_not_depend_on_the_component(make_module, make_batch):
    """In the VaDE case ``q(z|x)`` is one normal for all components."""
    module = make_module(posterior="factorized")
    outputs = module.encode(make_batch()[X])
    assert outputs["z_mean"].shape == (B, 1, D)
    assert not hasattr(module, "mean_offset")


def test_encoder_of_sparse_counts(make_module, make_batch):
    """The first layer is a sparse product; what comes out is the same."""
    module, tensors = make_module(), make_batch()
    inputs = module._get_inference_input(tensors)
    sparse = module.encode(**{**inputs, "x": SparseRows.from_dense(inputs["x"])})
    dense = module.encode(**inputs)
    for name, value in dense.items():
        torch.testing.assert_close(sparse[name], value)


def test_a_dropped_count_is_taken_for_a_zero(make_module, make_batch):
    """Dropout leaves zeros alone and keeps the mean of the input."""
    module, x = make_module(input_dropout=0.5), make_batch()[X]
    library = module.log_library(x, None)
    kept, zero = module.standardize(x, library), module.standardize(torch.zeros_like(x), library)
    draws = torch.stack([module.train()._drop(kept) for _ in range(4000)])
    torch.testing.assert_close(draws[:, x == 0], zero[x == 0].expand(4000, -1))
    dropped = (draws - zero).abs() < 1e-12
    torch.testing.assert_close(dropped[:, x > 0].double().mean(), torch.tensor(0.5).double(), atol=0.01, rtol=0)
    torch.testing.assert_close(draws.mean(0), kept, atol=0.25, rtol=0)
    torch.testing.assert_close(module.standardize(x, library), kept)  # the starting partition is made of these
    assert torch.equal(module.eval()._drop(kept), kept)


def test_dropout_of_other_likelihoods(make_module):
    """A dropped value is taken for the mean."""
    module, x = make_module("normal", input_dropout=0.5).train(), torch.randn(B, G, dtype=torch.float64)
    draw = module._drop(x)
    assert (draw == 0).any()
    torch.testing.assert_close(draw[draw != 0], 2.0 * x[draw != 0])


def test_dropout_of_sparse_counts_is_that_of_dense_ones(make_module, make_batch):
    """In training the first layer has the same mean and spread from sparse and from dense counts."""
    module, x = make_module(input_dropout=0.5, n_layers=1), make_batch()[X]
    first = module.encoder.fc_layers[0][0]
    found = []
    module.train()
    first.register_forward_hook(lambda layer, inputs, output: found.append(output.detach()))
    for _ in range(4000):
        module._hidden(x, module.log_library(x, None), None, cont=None)
    counts = SparseRows.from_dense(x)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "rmve.module._encoding.first_layer", lambda *given: found.append(first_layer(*given).detach()) or found[-1]
        )
        for _ in range(4000):
            module._hidden(counts, module.log_library(counts, None), None, cont=None)
    dense, sparse = torch.stack(found[:4000]), torch.stack(found[4000:])
    spread = dense.std(0)
    assert (spread > 0).all()
    torch.testing.assert_close(sparse.mean(0) / spread, dense.mean(0) / spread, atol=0.15, rtol=0)
    torch.testing.assert_close(sparse.std(0) / spread, torch.ones_like(spread), atol=0.1, rtol=0)
