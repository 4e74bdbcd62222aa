"""What a trained model tells: embedding, bound, expression, differences; nothing is written into the data."""

from __future__ import annotations

import numpy as np
import pytest
import torch


def test_getters_leave_the_data_alone(batched, unchanged):
    """No getter writes anything but scvi-tools' own notes into the data it was trained on."""
    with unchanged(batched.adata, without_scvi=True):
        batched.predict()
        batched.predict(soft=True)
        batched.get_latent_representation()
        batched.get_components()
        batched.get_merge_tree()
        batched.get_elbo()
        batched.get_reconstruction_error()
        batched.get_marginal_ll(n_mc_samples=2, indices=[0, 1])
        batched.get_normalized_expression()
        batched.posterior_predictive_sample()
        batched.differential_expression(groupby="cell_type", group1="A", group2="B")


def test_getters_leave_new_data_alone(batched, make_cells, unchanged):
    """On new data, getters write nothing but scvi-tools' own notes."""
    query = make_cells(n_cells=40, n_batches=2, seed=1)
    with unchanged(query, without_scvi=True):
        batched.predict(query)
        batched.get_latent_representation(query)
        batched.get_normalized_expression(query)
        batched.get_elbo(query)


def test_latent_representation(shared, make_cells):
    """The embedding has a row per cell and separates the types; it does not depend on draws."""
    z = shared.get_latent_representation()
    assert z.shape == (240, 5)
    np.testing.assert_array_equal(z, shared.get_latent_representation())
    np.testing.assert_allclose(z[[4, 2]], shared.get_latent_representation(indices=[4, 2]), atol=1e-5)
    mean, var = shared.get_latent_representation(return_dist=True)
    np.testing.assert_allclose(mean, z, atol=1e-6)
    assert (var > 0).all()
    assert shared.get_latent_representation(make_cells(n_cells=9, seed=1)).shape == (9, 5)


def test_bound_is_below_the_likelihood(shared):
    """The evidence lower bound is below the importance-sampled log-likelihood, cell by cell up to its noise."""
    indices = np.arange(40)
    bounds = np.mean([shared.get_elbo(indices=indices, return_mean=False).numpy() for _ in range(20)], axis=0)
    marginal = shared.get_marginal_ll(indices=indices, n_mc_samples=200, return_mean=False).numpy()
    assert marginal.shape == (40,)
    assert (bounds <= marginal + 1.0).all()
    assert bounds.mean() < marginal.mean() < 0
    mean = shared.get_marginal_ll(indices=indices, n_mc_samples=200)
    assert mean == pytest.approx(marginal.mean(), abs=1.0)


def test_reconstruction_error(shared):
    """The reconstruction error is finite and smaller for the cells' own data than the whole bound."""
    error = float(shared.get_reconstruction_error()["reconstruction_loss"])
    assert np.isfinite(error)
    assert abs(error) < abs(float(shared.get_elbo())) + 1.0


def test_normalized_expression(shared):
    """Rows are proportions; genes and cells can be picked; the scale follows the library size."""
    proportions = shared.get_normalized_expression()
    np.testing.assert_allclose(proportions.sum(axis=1), 1.0, rtol=1e-4)
    assert proportions.index.equals(shared.adata.obs_names)
    assert proportions.columns.equals(shared.adata.var_names)
    some = shared.get_normalized_expression(indices=[3, 5], gene_list=["gene 1", "gene 30"], library_size=1e4)
    assert some.shape == (2, 2)
    assert some.index.tolist() == ["cell 3", "cell 5"]
    latent = shared.get_normalized_expression(library_size="latent")
    np.testing.assert_allclose(latent.sum(axis=1), shared.adata.obs["size_factor"] * 10, rtol=1e-3)
    assert shared.get_normalized_expression(indices=[0, 1, 2], n_samples=4, return_mean=False).shape == (4, 3, 60)
    assert shared.get_normalized_expression(n_samples_overall=50, return_numpy=True).shape == (50, 60)


def test_markers_are_expressed(shared):
    """The decoded profile of each type is highest at its own marker genes."""
    means = shared.get_normalized_expression(n_samples=5).groupby(shared.adata.obs["cell_type"], observed=True).mean()
    for k, kind in enumerate(["A", "B", "C"]):
        own = means.iloc[:, 20 * k : 20 * (k + 1)].sum(axis=1)
        assert own.idxmax() == kind


def test_transform_batch(batched):
    """Cells can be decoded as if of one batch: that of a cell's own changes nothing, another one does."""
    latent = {"n_samples": 30, "indices": np.arange(60)}
    own = batched.get_normalized_expression(**latent)
    as_0 = batched.get_normalized_expression(**latent, transform_batch="batch 0")
    as_1 = batched.get_normalized_expression(**latent, transform_batch="batch 1")
    in_0 = (batched.adata.obs["batch"][:60] == "batch 0").to_numpy()

    def distance(a, b, rows):
        return np.abs(a[rows] - b[rows]).mean(axis=None)

    assert distance(own, as_0, in_0) < 0.5 * distance(own, as_1, in_0)
    assert distance(own, as_1, ~in_0) < 0.5 * distance(own, as_0, ~in_0)
    with pytest.raises(ValueError, match="batch 7"):
        batched.get_normalized_expression(transform_batch="batch 7")


def test_posterior_predictive_sample(shared):
    """Draws are counts like those of the data."""
    draws = shared.posterior_predictive_sample(n_samples=5).todense()
    assert draws.shape == (240, 60, 5)
    assert (draws == np.round(draws)).all()
    assert draws.min() >= 0
    mean = draws.mean(axis=(0, 2))
    assert np.corrcoef(mean, np.asarray(shared.adata.X.mean(0)).ravel())[0, 1] > 0.9
    some = shared.posterior_predictive_sample(indices=[0, 1], gene_list=["gene 3", "gene 4"])
    assert some.shape == (2, 2)


def test_posterior_predictive_sample_of_another_batch(batched):
    """Draws as if of another batch follow that batch's genes."""
    options = {"n_samples": 30, "indices": np.arange(100)}
    as_0, as_1 = (
        batched.posterior_predictive_sample(**options, transform_batch=f"batch {b}").todense().mean(axis=(0, 2))
        for b in (0, 1)
    )
    adata = batched.adata
    real_0, real_1 = (
        np.asarray(adata.X[(adata.obs["batch"] == f"batch {b}").to_numpy()].mean(0)).ravel() for b in (0, 1)
    )
    assert np.corrcoef(as_1 - as_0, real_1 - real_0)[0, 1] > 0.5


def test_importance_weights_are_refused(shared):
    """scvi-tools' importance weights hold for a standard normal prior only."""
    with pytest.raises(ValueError, match="weights='uniform'"):
        shared.get_normalized_expression(n_samples_overall=10, weights="importance")


@pytest.mark.parametrize("mode", ["vanilla", "change"])
def test_differential_expression(shared, mode):
    """The genes that differ most between two types are their markers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        table = shared.differential_expression(groupby="cell_type", group1="A", group2="B", mode=mode)
    assert table.shape[0] == 60
    score = "bayes_factor" if mode == "vanilla" else "lfc_mean"
    top = table.sort_values(score, ascending=False).index[:10]
    assert {int(name.split()[1]) // 20 for name in top} == {0}
