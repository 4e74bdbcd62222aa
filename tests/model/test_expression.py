"""Tables of genes and samples: nothing left behind, nothing stale, empty groups, cells on disk."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from rmve import RMVE

STATISTICS = ["raw_mean1", "raw_mean2", "non_zeros_proportion1", "raw_normalized_mean1", "raw_normalized_mean2"]


def test_raw_statistics_are_those_of_the_counts(model, unchanged):
    """Means of counts, scaled and not; a column that somebody left in `obs` is not read."""
    adata = model.adata
    adata.obs["_scvi_raw_norm_scaling"] = 1.0
    with unchanged(adata):
        table = model.differential_expression(groupby="cell_type", group1="A", silent=True).loc[adata.var_names]
    x, its = adata.layers["counts"].toarray(), (adata.obs["cell_type"] == "A").to_numpy()
    scaled = 1e4 * x / x.sum(1, keepdims=True)
    expected = np.stack(
        [x[its].mean(0), x[~its].mean(0), (x[its] > 0).mean(0), scaled[its].mean(0), scaled[~its].mean(0)], axis=1
    )
    np.testing.assert_allclose(table[STATISTICS].to_numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("arguments", [{"idx1": "age > 0"}, {"idx1": [0, 1, 2], "idx2": [3, 4]}])
def test_groups_by_rows(model, unchanged, arguments):
    """Rows and queries work, and leave nothing."""
    with unchanged(model.adata):
        assert len(model.differential_expression(silent=True, **arguments)) == model.adata.n_vars


def test_nothing_is_left_after_an_error(model, unchanged):
    """A wrong query leaves no column."""
    with unchanged(model.adata), pytest.raises(Exception, match="nothing"):
        model.differential_expression(idx1="nothing > 0")


def test_groups_without_cells(model):
    """Categories without cells are no groups; asked for, they are named."""
    adata = model.adata
    adata.obs["kind"] = adata.obs["cell_type"].cat.add_categories("empty")
    assert set(model.differential_expression(groupby="kind", silent=True)["group1"]) == {"A", "B", "C"}
    for groups in ({"group1": "empty"}, {"group1": ["A", "x"]}, {"group1": "A", "group2": "empty"}):
        with pytest.raises(ValueError, match="no cells of the group.*'A', 'B', 'C'"):
            model.differential_expression(groupby="kind", **groups)
    adata.obs["one"] = "same"
    with pytest.raises(ValueError, match="one group"):
        model.differential_expression(groupby="one")


def test_differential_abundance_returns_its_table(model, make_cells, unchanged):
    """A column for each sample, and nothing in `adata`, be it old or new."""
    query = make_cells(n_cells=40, seed=1)
    for adata in (model.adata, query):
        adata.obsm["da_log_probs"] = np.ones((adata.n_obs, 1))
        with unchanged(adata):
            table = model.differential_abundance(adata, sample_key="donor")
        assert set(table) == {"Ann", "Bob"}
        assert table.index.equals(adata.obs_names)
        assert np.isfinite(table.to_numpy()).all()
    with pytest.raises(KeyError, match="sample_key='x'"):
        model.differential_abundance(sample_key="x")


@pytest.mark.parametrize("size", [-1, 0, np.nan])
def test_library_size(model, size):
    """Expression is not negative."""
    with pytest.raises(ValueError, match="`library_size`"):
        model.get_normalized_expression(library_size=size)


def test_genes_of_the_table(model):
    """Unknown genes are named."""
    assert model.get_normalized_expression(gene_list=["gene 3"]).columns.tolist() == ["gene 3"]
    with pytest.raises(ValueError, match="nope"):
        model.get_normalized_expression(gene_list=["gene 3", "nope"])


@pytest.fixture(scope="module", params=["sparse", "dense"])
def from_disk(request, make_cells, fit, tmp_path_factory) -> RMVE:
    """A model whose cells are in a file."""
    adata, path = make_cells(), tmp_path_factory.mktemp("disk") / "cells.h5ad"
    if request.param == "dense":
        adata.X = adata.X.toarray()
    adata.write_h5ad(path)
    return fit(ad.read_h5ad(path, backed="r"), {"spatial_key": "spatial"}, epochs=2)


#: Every public method that takes cells, as calls on a model and cells.
METHODS = {
    "predict": lambda model, adata: model.predict(adata),
    "annotate": lambda model, adata: model.annotate(adata),
    "map": lambda model, adata: model.map_to_space(adata),
    "fit_spatial_map": lambda model, adata: model.fit_spatial_map(adata, spatial_key="spatial"),
    "latent": lambda model, adata: model.get_latent_representation(adata),
    "elbo": lambda model, adata: model.get_elbo(adata),
    "reconstruction": lambda model, adata: model.get_reconstruction_error(adata),
    "marginal": lambda model, adata: model.get_marginal_ll(adata, n_mc_samples=2, indices=[0, 1]),
    "expression": lambda model, adata: model.get_normalized_expression(adata),
    "samples": lambda model, adata: model.posterior_predictive_sample(adata),
    "de": lambda model, adata: model.differential_expression(adata, groupby="cell_type", silent=True),
    "de by rows": lambda model, adata: model.differential_expression(adata, idx1="age > 0", silent=True),
    "abundance": lambda model, adata: model.differential_abundance(adata, sample_key="donor"),
    "parameters": lambda model, adata: model.get_likelihood_parameters(adata),
    "library": lambda model, adata: model.get_latent_library_size(adata, give_mean=False),
    "correlation": lambda model, adata: model.get_feature_correlation_matrix(adata, n_samples=2),
    "aggregated": lambda model, adata: model.get_aggregated_posterior(adata),
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("which", ["training", "new", "view"])
def test_methods_on_disk(from_disk, make_cells, tmp_path, name, which):
    """Each method takes the model's own cells on disk, others on disk, and a part of them, as in memory."""
    if which == "view" and name == "annotate":
        pytest.skip("results are not written into a view")
    if which == "training":
        adata, expected = None, None
    else:
        new = make_cells(n_cells=60, seed=5)
        new.obs_names = [f"new {name}" for name in new.obs_names]
        new.write_h5ad(tmp_path / "new.h5ad")
        adata = ad.read_h5ad(tmp_path / "new.h5ad", backed="r")
        expected = new
        if which == "view":
            adata, expected = adata[:50], new[:50].copy()
    found = METHODS[name](from_disk, adata)
    if isinstance(found, pd.DataFrame | np.ndarray) and name in ("predict", "map", "latent") and expected is not None:
        np.testing.assert_allclose(found, METHODS[name](from_disk, expected), rtol=1e-4, atol=1e-4)


def test_other_ways_on_disk(from_disk, make_cells, tmp_path):
    """Saving with the data leaves the file that is read; mapping, stability and cross-validation work or refuse."""
    adata = from_disk.adata
    name = adata.filename
    from_disk.save(tmp_path / "model", save_anndata=True)
    assert adata.filename == name
    assert RMVE.load(tmp_path / "model").adata.n_obs == adata.n_obs
    make_cells(n_cells=60, seed=5).write_h5ad(tmp_path / "new.h5ad")
    new = ad.read_h5ad(tmp_path / "new.h5ad", backed="r")
    with pytest.raises(ValueError, match="to_memory"):
        RMVE.prepare_query_anndata(new, from_disk)
    shuffled = new.to_memory()[:, ::-1].copy()
    shuffled.write_h5ad(tmp_path / "other.h5ad")
    with pytest.raises(ValueError, match="to_memory"):
        RMVE.load_query_data(
            ad.read_h5ad(tmp_path / "other.h5ad", backed="r"), from_disk, inplace_subset_query_vars=True
        )
    assert len(RMVE.load_query_data(new, from_disk).predict()) == 60
    RMVE.setup_anndata(new, spatial_key="spatial")
    options = {"train_kwargs": {"max_epochs": 1, "quiet": True}, "n_components": 3, "n_latent": 3}
    RMVE.cross_validate_positions(new, n_folds=2, **options)
    RMVE.stability(new, n_runs=2, **options)
    with pytest.raises(ValueError, match=r"view.*to_memory"):
        RMVE.setup_anndata(new[:9])


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda model: model.posterior_predictive_sample(n_samples=0), "n_samples"),
        (lambda model: model.get_marginal_ll(n_mc_samples=0), "n_mc_samples"),
        (lambda model: model.get_normalized_expression(n_samples=-1), "n_samples"),
        (lambda model: model.differential_expression(groupby="donor", group1="Ann", group2="Ann"), "group1"),
    ],
)
def test_senseless_arguments_of_getters(shared, call, named):
    """No samples, or nothing to compare, is an error that says so."""
    with pytest.raises(ValueError, match=named):
        call(shared)
