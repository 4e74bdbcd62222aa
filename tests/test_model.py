"""The model from the user's side: AnnData in, clusters, embeddings and expression out."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
import torch
from sklearn.metrics import adjusted_rand_score

from rmve import RMVE
from rmve.gene_likelihoods import GENE_LIKELIHOODS
from rmve.initialization import normalize_graph
from rmve.maths.estimators import ESTIMATORS
from rmve.maths.repulsion import REPULSIONS
from rmve.module import POSTERIORS
from rmve.training import RMVETrainingPlan

#: Names that annotate writes without a spatial map, by where they are.
WRITTEN = {"obs": ["rmve", "rmve_confidence"], "obsm": ["X_rmve", "rmve_probabilities"], "uns": ["rmve"]}


def agreement(model, adata=None) -> float:
    """Adjusted Rand index of the clusters with the true types."""
    adata = model.adata if adata is None else adata
    return adjusted_rand_score(adata.obs["cell_type"], model.predict(adata))


def check_sane(model) -> None:
    """The history and the bound are finite, and each cell has probabilities of clusters."""
    for name, frame in model.history_.items():
        assert np.isfinite(frame.to_numpy(float)).all(), name
    assert np.isfinite(float(model.get_elbo()))
    soft = model.predict(soft=True)
    assert np.isfinite(soft.to_numpy()).all()
    np.testing.assert_allclose(soft.sum(axis=1), 1.0, atol=1e-5)
    assert np.isfinite(model.get_latent_representation()).all()


# -------------------------------------------------------------------- options


@pytest.mark.parametrize("likelihood", GENE_LIKELIHOODS)
def test_likelihoods(cells, fit, likelihood):
    """Each likelihood trains on data of its kind and finds the types."""
    if likelihood == "normal":
        sc.pp.normalize_total(cells)
        sc.pp.log1p(cells)
    if likelihood == "bernoulli":
        cells.X = (cells.X > 2).astype(np.float32)
    model = fit(cells, gene_likelihood=likelihood, train={"plan_kwargs": {"repulsion": 1.0}})
    check_sane(model)
    assert agreement(model) > 0.7
    expression = model.get_normalized_expression(n_samples=2)
    assert expression.shape == cells.shape
    assert np.isfinite(expression.to_numpy()).all()
    assert model.posterior_predictive_sample(indices=np.arange(5)).shape == (5, 60)


@pytest.mark.parametrize("posterior", POSTERIORS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_posteriors_and_estimators(cells, fit, posterior, estimator):
    """Each estimator works with each posterior."""
    model = fit(cells, posterior=posterior, estimator=estimator, epochs=4)
    check_sane(model)
    assert model.get_latent_representation().shape == (240, 5)


@pytest.mark.parametrize("repulsion", [*REPULSIONS, None])
def test_repulsions(cells, fit, repulsion):
    """Each kind of repulsion trains, is logged, and ``None`` is not."""
    model = fit(cells, repulsion=repulsion, epochs=4, train={"plan_kwargs": {"repulsion": 5.0}})
    check_sane(model)
    assert ("repulsion_train" in model.history_) == (repulsion is not None)


def test_regularisation_terms(cells, fit):
    """Agreement of two views, balance and the Dirichlet prior train and are logged."""
    options = {"agreement": 1.0, "balance": 0.5, "dirichlet": 2.0, "potts": 0.0}
    model = fit(cells, epochs=4, train={"plan_kwargs": options})
    check_sane(model)
    assert {"agreement_train", "balance_train"} <= set(model.history_)


@pytest.mark.parametrize("encode_covariates", [False, True])
def test_covariates(make_cells, fit, encode_covariates):
    """Batch, categorical and continuous covariates and size factors work together, also on new cells."""
    setup = {
        "layer": "counts",
        "batch_key": "batch",
        "categorical_covariate_keys": ["donor"],
        "continuous_covariate_keys": ["age"],
        "size_factor_key": "size_factor",
    }
    model = fit(make_cells(n_batches=2), setup, encode_covariates=encode_covariates)
    check_sane(model)
    assert agreement(model) > 0.7
    query = make_cells(n_cells=60, n_batches=2, seed=1)
    assert agreement(model, query) > 0.7
    assert np.isfinite(model.get_normalized_expression(query, transform_batch="batch 1").to_numpy()).all()


@pytest.mark.parametrize("values", [[1, 2], [0.5, 1.5], [True, False]], ids=["int", "float", "bool"])
def test_numbers_as_batches(cells, fit, make_cells, tmp_path, values):
    """Batches may be called by numbers, also after saving."""
    cells.obs["plate"] = np.resize(values, cells.n_obs)
    model = fit(cells, {"batch_key": "plate"}, epochs=2)
    model.save(tmp_path / "m")
    query = make_cells(n_cells=20, seed=1)
    query.obs["plate"] = np.resize(values, 20)
    expected = model.predict(query, soft=True)
    again = RMVE.load(tmp_path / "m", adata=False).predict(query.copy(), soft=True)
    pd.testing.assert_frame_equal(again, expected, atol=1e-6)


def test_number_of_clusters_is_found(cells, fit):
    """Without a number of components the model gets as many as it finds clusters, and each cluster has cells."""
    model = fit(cells, n_components=None, epochs=30)
    check_sane(model)
    assert model.n_clusters == cells.obs["cell_type"].nunique()
    assert model.module.n_components <= cells.n_obs // 10
    assert (model.predict().value_counts() > 0).all()


def test_fewer_clusters_than_there_are(cells, fit, tmp_path):
    """With fewer clusters wanted than the cells fall into, components of whole types are merged; also after loading."""
    model = fit(cells, n_components=2, epochs=60)
    assert model.n_clusters == 2
    assert model.module.n_components == 3
    together = pd.crosstab(cells.obs["cell_type"], model.predict(), normalize="index")
    assert (together.max(axis=1) > 0.95).all()
    assert model.predict(soft=True).shape[1] == 2
    model.save(tmp_path / "m")
    again = RMVE.load(tmp_path / "m", cells.copy())
    pd.testing.assert_series_equal(again.predict(), model.predict())
    assert again.n_clusters_wanted_ == 2
    again.train(max_epochs=1)
    assert again.n_clusters == 2


def test_more_components_than_clusters(cells, fit):
    """Where the cells fall into fewer clusters than components are asked for, there are as many as asked for."""
    assert fit(cells, n_components=5, epochs=2).module.n_components == 5


def test_one_component(cells, fit):
    """A single component is a plain variational autoencoder: one cluster with probability one."""
    model = fit(cells, n_components=1, epochs=3)
    check_sane(model)
    assert (model.predict() == "0").all()
    assert (model.predict(soft=True) == 1.0).all(axis=None)


def test_one_component_per_cell(make_cells, fit):
    """As many components as cells is the upper limit, and works."""
    model = fit(make_cells(n_cells=12), n_components=12, epochs=2)
    check_sane(model)
    assert model.n_clusters <= 12


@pytest.mark.parametrize("n_cells", [2, 3, 16, 17])
def test_few_cells(make_cells, fit, n_cells):
    """A handful of cells, fewer than a cell has neighbours by default, can be fitted."""
    model = fit(make_cells(n_cells=n_cells), n_components=2, epochs=2, train={"batch_size": 2})
    check_sane(model)
    assert len(model.predict()) == n_cells


def test_few_genes(make_cells, fit):
    """Fewer genes than latent dimensions or principal components are enough."""
    adata = make_cells()[:, [0, 25, 50]].copy()
    sc.pp.filter_cells(adata, min_counts=1)
    check_sane(fit(adata, epochs=2, n_latent=10))


def test_repeated_names(cells, fit):
    """Cells that share a name are kept apart."""
    cells.obs_names = ["twin", "twin", *cells.obs_names[2:]]
    model = fit(cells, epochs=2)
    model.annotate()
    assert cells.obs["rmve"].tolist() == model.predict().tolist()


# --------------------------------------------------------------------- labels


def test_supervised(cells, fit, make_cells):
    """With all cells labelled there is one component per label, and new cells are classified."""
    model = fit(cells, {"labels_key": "cell_type"}, n_components=None)
    assert model.module.n_components == 3
    assert sorted(model.cluster_names_) == ["A", "B", "C"]
    assert (model.predict().astype(str) == cells.obs["cell_type"].astype(str)).mean() > 0.95
    query = make_cells(n_cells=100, seed=7)
    assert (model.predict(query).astype(str) == query.obs["cell_type"].astype(str)).mean() > 0.9


def test_semi_supervised(partly_labelled):
    """Unlabelled cells of known types get their label; a type without labels comes out as a cluster of its own."""
    truth, predicted = partly_labelled.adata.obs["cell_type"], partly_labelled.predict().astype(str)
    for known in ("A", "B"):
        unlabelled = ((truth == known) & (partly_labelled.adata.obs["label"] == "Unknown")).to_numpy()
        assert (predicted[unlabelled] == known).mean() > 0.7
    new = predicted[(truth == "C").to_numpy()].value_counts(normalize=True)
    assert new.index[0].startswith("new_")
    assert new.iloc[0] > 0.7


def test_semi_supervised_with_unknown_number(cells, fit):
    """When the number is to be found, labels get their components and a type without labels a new one."""
    labels = cells.obs["cell_type"].astype(str)
    labels[labels == "C"] = "?"
    cells.obs["label"] = labels
    model = fit(cells, {"labels_key": "label", "unlabeled_category": "?"}, n_components=None)
    assert model.module.n_components == 3
    assert sorted(model.cluster_names_) == ["A", "B", "new_0"]
    predicted = model.predict().astype(str)
    assert (predicted[labels == "A"] == "A").mean() > 0.9
    assert predicted[labels == "?"].str.startswith("new_").mean() > 0.7


@pytest.mark.parametrize("n_labelled", [1, 5])
def test_few_labels(cells, fit, n_labelled):
    """With some cells of each type labelled, or just one, no cluster is new and all cells get their type."""
    truth = cells.obs["cell_type"].astype(str).to_numpy()
    given = np.concatenate([np.flatnonzero(truth == name)[:n_labelled] for name in "ABC"])
    cells.obs["label"] = np.where(np.isin(np.arange(cells.n_obs), given), truth, "Unknown")
    model = fit(cells, {"labels_key": "label"}, n_components=None)
    assert sorted(model.cluster_names_) == ["A", "B", "C"]
    predicted = model.predict().astype(str).to_numpy()
    assert (predicted[given] == truth[given]).all()
    assert (predicted == truth).mean() > 0.9


@pytest.mark.parametrize(
    ("n_components", "given", "repulsion", "warmup"),
    [(None, {}, 0.0, 0.5), (None, {"repulsion": 2.0, "warmup_fraction": 0.1}, 2.0, 0.1), (4, {}, 5.0, 1 / 3)],
)
def test_options_of_a_run_from_labels(cells, fit, monkeypatch, n_components, given, repulsion, warmup):
    """Where components come from labels, the start is held for longer, without repulsion, if nothing else is asked for."""
    seen = []

    class Plan(RMVETrainingPlan):
        def on_train_epoch_start(self):
            seen.append((self.repulsion, self.warmup_fraction))
            super().on_train_epoch_start()

    monkeypatch.setattr(RMVE, "_training_plan_cls", Plan)
    truth = cells.obs["cell_type"].astype(str)
    cells.obs["label"] = truth.where(np.arange(cells.n_obs) % 2 == 0, "Unknown")
    setup, train = {"labels_key": "label"}, {"plan_kwargs": given}
    model = fit(cells, setup, train, n_components=n_components, epochs=1)
    assert seen == [(repulsion, warmup)]
    model.train(max_epochs=1, enable_progress_bar=False)
    assert seen[1] == (repulsion if not given else 0.0, 0.0)


def test_found_number_is_saved(cells, fit, tmp_path):
    """A loaded semi-supervised model has as many components as were found."""
    truth = cells.obs["cell_type"].astype(str)
    cells.obs["label"] = truth.where((truth != "C") & (np.arange(cells.n_obs) % 2 == 0), "Unknown")
    model = fit(cells, {"labels_key": "label"}, n_components=None, epochs=5)
    model.save(tmp_path / "m")
    loaded = RMVE.load(tmp_path / "m", adata=cells)
    assert loaded.module.n_components == model.module.n_components == 3
    assert loaded.predict().tolist() == model.predict().tolist()


def test_labels_that_are_numbers(cells, fit):
    """Labels may be numbers if the mark of unlabelled cells is one; clusters are called by them as strings."""
    cells.obs["label"] = cells.obs["cell_type"].cat.codes.astype(int) * 10
    model = fit(cells, {"labels_key": "label", "unlabeled_category": -1}, n_components=None)
    assert sorted(model.cluster_names_) == ["0", "10", "20"]
    assert (model.predict().astype(int) == cells.obs["label"]).mean() > 0.95


def test_labels_of_new_cells_are_optional(partly_labelled, make_cells, unchanged):
    """New cells need no column of labels, and do not get one from a getter."""
    query = make_cells(n_cells=60, seed=2)
    with unchanged(query, without_scvi=True):
        predicted = partly_labelled.predict(query)
        partly_labelled.get_latent_representation(query)
        again = partly_labelled.predict(query)
    pd.testing.assert_series_equal(predicted, again)
    known = (query.obs["cell_type"] != "C").to_numpy()
    assert (predicted[known].astype(str) == query.obs["cell_type"][known].astype(str)).mean() > 0.8


# ------------------------------------------------------------- reproducibility


def test_same_seed_same_result(make_cells, fit):
    """On the CPU a seed fixes the result to the last bit; another seed gives another."""
    one, two, other = (fit(make_cells(), seed=seed, epochs=5) for seed in (3, 3, 4))
    for name, value in one.module.state_dict().items():
        assert torch.equal(value, two.module.state_dict()[name]), name
    pd.testing.assert_frame_equal(one.predict(soft=True), two.predict(soft=True), check_exact=True)
    assert not np.array_equal(one.get_latent_representation(), other.get_latent_representation())


@pytest.fixture(scope="module")
def from_csr(make_cells, fit) -> RMVE:
    """The model that each form of the same counts must give."""
    return fit(make_cells(), epochs=5)


@pytest.mark.parametrize(
    "form",
    [
        lambda x: x.toarray(),
        sp.csc_matrix,
        sp.csr_array,
        lambda x: x.astype(np.float64),
        lambda x: x.astype(np.int32),
        lambda x: x.toarray().astype(np.uint16),
        lambda x: np.asfortranarray(x.toarray()),
    ],
    ids=["dense", "csc", "csr_array", "float64", "int32", "dense uint16", "fortran"],
)
def test_storage_does_not_matter(from_csr, cells, fit, form):
    """Sparse or dense, of any number type: the same counts give the same model."""
    cells.X = form(cells.X)
    model = fit(cells, epochs=5)
    pd.testing.assert_frame_equal(model.predict(soft=True), from_csr.predict(soft=True), atol=1e-5)
    np.testing.assert_allclose(
        model.get_latent_representation(), from_csr.get_latent_representation(), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("as_dense", [False, True])
def test_backed_data(make_cells, from_csr, fit, tmp_path, as_dense):
    """Cells on disk give the model of the same cells in memory."""
    adata = make_cells()
    if as_dense:
        adata.X = adata.X.toarray()
    adata.write_h5ad(tmp_path / "cells.h5ad")
    backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    model = fit(backed, epochs=5)
    pd.testing.assert_frame_equal(model.predict(soft=True), from_csr.predict(soft=True), atol=1e-5)
    backed.file.close()


def test_input_dropout(cells):
    """The dropout of the encoder's input is an option of the model."""
    RMVE.setup_anndata(cells)
    assert RMVE(cells, n_components=3).module.input_dropout.p == 0.06  # 60 genes
    assert RMVE(cells, n_components=3, input_dropout=0.0).module.input_dropout.p == 0.0


# ------------------------------------------------------------------- training


def test_training_goes_on(model):
    """A second call continues: the history grows, the clusters stay, the loss does not jump back to its start."""
    before, history = model.predict(), model.history_["train_loss"].to_numpy(float).ravel()
    model.train(max_epochs=3, batch_size=64, enable_progress_bar=False)
    after = model.history_["train_loss"].to_numpy(float).ravel()
    assert len(after) == len(history) + 3
    np.testing.assert_allclose(after[: len(history)], history)
    assert after[len(history)] < history[0]
    assert adjusted_rand_score(before, model.predict()) > 0.9


def test_early_stopping(cells, fit):
    """With early stopping a tenth of the cells is for validation, and training ends when their bound stalls."""
    train = {"early_stopping": True, "early_stopping_patience": 1, "early_stopping_min_delta": 1e6}
    model = fit(cells, epochs=30, train=train)
    assert len(model.validation_indices) == 24
    assert len(model.history_["train_loss"]) < 30
    assert np.isfinite(model.history_["elbo_validation"].to_numpy(float)).all()


def test_train_size(cells, fit):
    """A share of the cells can be kept from training; clusters are still given to all."""
    model = fit(cells, epochs=2, train={"train_size": 0.5, "validation_size": 0.25, "check_val_every_n_epoch": 1})
    assert (len(model.train_indices), len(model.validation_indices), len(model.test_indices)) == (120, 60, 60)
    assert len(model.history_["elbo_validation"]) == 2
    assert len(model.predict()) == 240


def test_all_cells_by_default(shared):
    """Without further arguments all cells are trained on."""
    assert len(shared.train_indices) == 240


def test_history(shared):
    """Loss, bound and number of components in use are there for each epoch, and the loss falls."""
    history = shared.history_
    assert {"train_loss", "elbo_train", "reconstruction_loss_train", "n_components"} <= set(history)
    assert len(history["elbo_train"]) == 20
    assert float(history["elbo_train"].iloc[-1, 0]) < float(history["elbo_train"].iloc[0, 0])
    assert 1 <= float(history["n_components"].iloc[-1, 0]) <= 3


@pytest.mark.parametrize("where", ["uns", "obsp"])
def test_given_neighbors_are_used(cells, monkeypatch, where):
    """A graph named through ``uns`` or directly in ``obsp`` is what the neighbourhood prior reads."""
    graph = sp.random(240, 240, 0.05, format="csr", random_state=0)
    cells.obsp["mine_connectivities"] = graph + graph.T
    cells.uns["mine"] = {"connectivities_key": "mine_connectivities", "params": {"method": "as scanpy writes it"}}
    seen = {}

    def note(self, module, **kwargs):
        seen.update(kwargs)
        raise InterruptedError

    monkeypatch.setattr(RMVETrainingPlan, "__init__", note)
    RMVE.setup_anndata(cells, neighbors_key="mine" if where == "uns" else "mine_connectivities")
    with pytest.raises(InterruptedError):
        RMVE(cells, n_components=3).train(max_epochs=1)
    expected = normalize_graph(cells.obsp["mine_connectivities"])
    assert abs(seen["data"].graph - expected).max() < 1e-6


def test_a_given_graph_shapes_the_clusters(make_cells, fit):
    """A strong prior on a graph of two blocks that cut across the types makes clusters follow the blocks."""
    adata = make_cells()
    half = np.arange(240) < 120
    adata.obsp["blocks"] = sp.csr_matrix((half[:, None] == half[None]).astype(np.float32))
    blocks = {}
    start = np.random.default_rng(0).integers(2, size=240)  # says nothing of types or blocks
    for strength in (0.0, 200.0):
        plan = {"potts": strength, "repulsion": 0.0, "potts_ramp_fraction": 0.0, "warmup_alpha": 1.0}
        train = {"plan_kwargs": plan, "start": start}
        model = fit(adata, {"neighbors_key": "blocks"}, train, n_components=2, seed=3)
        blocks[strength] = model
    # neighbours agree more with the prior than without it
    share = {s: m.predict()[half].value_counts(normalize=True).max() for s, m in blocks.items()}
    assert share[200.0] > share[0.0]


# -------------------------------------------------------------------- getters


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


# ------------------------------------------------------------------- annotate


def keys(adata) -> dict[str, set]:
    """Names in each part of an AnnData."""
    return {part: set(getattr(adata, part)) for part in ("obs", "var", "obsm", "varm", "obsp", "layers", "uns")}


@pytest.mark.parametrize("key_added", ["rmve", "fine"])
def test_annotate_writes_its_names_and_no_others(model, key_added):
    """Exactly the documented names appear, with the getters' values."""
    before = keys(model.adata)
    model.annotate(key_added=key_added)
    adata = model.adata
    expected = {part: {name.replace("rmve", key_added) for name in names} for part, names in WRITTEN.items()}
    after = keys(adata)
    assert {part: after[part] - before[part] for part in expected} == expected
    assert all(after[part] == before[part] for part in after if part not in expected)
    soft = model.predict(soft=True)
    pd.testing.assert_series_equal(adata.obs[key_added], model.predict(), check_names=False)
    np.testing.assert_allclose(adata.obs[f"{key_added}_confidence"], soft.max(axis=1), atol=1e-6)
    np.testing.assert_allclose(adata.obsm[f"X_{key_added}"], model.get_latent_representation(), atol=1e-5)
    pd.testing.assert_frame_equal(adata.obsm[f"{key_added}_probabilities"], soft, atol=1e-6)
    assert adata.uns[key_added]["params"]["gene_likelihood"] == "nb"
    assert adata.uns[key_added]["params"]["layer"] == "counts"
    pd.testing.assert_frame_equal(adata.uns[key_added]["components"], model.get_components(), atol=1e-6)
    pd.testing.assert_frame_equal(adata.uns[key_added]["resolutions"], model.get_resolutions(), atol=1e-6)
    assert {"rmve", "scvi-tools", "torch", "anndata"} <= set(adata.uns[key_added]["versions"])


def test_annotate_with_a_spatial_map(model):
    """With a map, coordinates and their uncertainty are written, too."""
    smap = model.fit_spatial_map(spatial_key="spatial")
    before = keys(model.adata)
    model.annotate()
    adata = model.adata
    assert set(adata.obsm) - before["obsm"] == {*WRITTEN["obsm"], "X_rmve_spatial"}
    assert set(adata.obs) - before["obs"] == {*WRITTEN["obs"], "rmve_spatial_sd"}
    placed = model.map_to_space()
    np.testing.assert_allclose(adata.obsm["X_rmve_spatial"], placed[["0", "1"]], rtol=1e-5)
    np.testing.assert_allclose(adata.obs["rmve_spatial_sd"], placed["sd"])
    np.testing.assert_array_equal(adata.uns["rmve"]["spatial_map"]["coef_"], smap.coef_)


def test_annotate_is_idempotent(model, contents, assert_same):
    """A second call writes the same; other keys stay as they are."""
    model.adata.obs["mine"] = 1.0
    model.adata.uns["mine"] = {"a": 1}
    model.annotate()
    once = contents(model.adata)
    model.annotate()
    assert_same(once, contents(model.adata))
    model.annotate(key_added="second")
    assert model.adata.obs["rmve"].equals(once["obs"]["rmve"])


@pytest.mark.parametrize(
    "step", ["_posterior", "_cluster_probabilities", "_component_table", "_resolution_table", "_place"]
)
def test_annotate_is_all_or_nothing(model, monkeypatch, unchanged, step):
    """Whichever step fails, nothing has been written."""
    model.fit_spatial_map(spatial_key="spatial")

    def fail(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(type(model), step, fail)
    with unchanged(model.adata), pytest.raises(MemoryError):
        model.annotate()


def test_annotate_new_cells(shared, make_cells):
    """New cells are annotated with their own assignments and the model's clusters."""
    query = make_cells(n_cells=50, seed=3)
    shared.annotate(query)
    pd.testing.assert_series_equal(query.obs["rmve"], shared.predict(query), check_names=False)
    pd.testing.assert_frame_equal(query.uns["rmve"]["components"], shared.get_components())
    pd.testing.assert_frame_equal(query.uns["rmve"]["resolutions"], shared.get_resolutions())
    assert query.obs["rmve"].cat.categories.tolist() == shared.cluster_names_
    assert "rmve" not in shared.adata.obs


def test_annotate_new_cells_without_labels(partly_labelled, make_cells):
    """Cells without the column of labels are annotated in place, and do not get the column."""
    query = make_cells(n_cells=50, seed=3)
    partly_labelled.annotate(query)
    assert "rmve" in query.obs
    assert "X_rmve" in query.obsm
    assert "label" not in query.obs


@pytest.mark.parametrize("key", ["cell_type", "batch"])
def test_annotate_does_not_overwrite_other_columns(model, unchanged, key):
    """A column that is not a result of this model is not overwritten."""
    with unchanged(model.adata), pytest.raises(ValueError, match=f"`key_added='{key}'` would overwrite"):
        model.annotate(key_added=key)


@pytest.mark.parametrize(("key", "error"), [(3, TypeError), ("", ValueError), ("a/b", ValueError)])
def test_annotate_checks_its_key(model, unchanged, key, error):
    """A name that a file could not hold is refused."""
    with unchanged(model.adata), pytest.raises(error, match="`key_added`"):
        model.annotate(key_added=key)


def check_round_trip(adata, path, contents, assert_same):
    """What is written to h5ad reads back equal, apart from the order of dictionaries and container types."""
    adata.write_h5ad(path)
    back = ad.read_h5ad(path)
    pd.testing.assert_frame_equal(back.obs, adata.obs)
    for key in adata.obsm:
        if isinstance(adata.obsm[key], pd.DataFrame):
            pd.testing.assert_frame_equal(back.obsm[key], adata.obsm[key])
        else:
            np.testing.assert_array_equal(back.obsm[key], adata.obsm[key])
    before, after = adata.uns["rmve"], back.uns["rmve"]
    assert set(after) == set(before)
    assert after["params"] == before["params"]
    assert after["versions"] == before["versions"]
    pd.testing.assert_frame_equal(after["components"], before["components"], check_dtype=False)
    pd.testing.assert_frame_equal(after["resolutions"], before["resolutions"])
    if "spatial_map" in before:
        for name, value in before["spatial_map"].items():
            np.testing.assert_array_equal(after["spatial_map"][name], value)


def test_h5ad_round_trip(model, tmp_path, contents, assert_same):
    """Annotated data reads back unchanged, with a spatial map and a second set of results."""
    model.fit_spatial_map(spatial_key="spatial")
    model.annotate()
    model.annotate(key_added="second")
    check_round_trip(model.adata, tmp_path / "out.h5ad", contents, assert_same)


@pytest.mark.filterwarnings("ignore:.*slash:FutureWarning")
def test_h5ad_round_trip_with_odd_labels(cells, fit, tmp_path, contents, assert_same):
    """Names of cell types with a slash or a space, as real ones have, survive the file."""
    cells.obs["label"] = cells.obs["cell_type"].cat.rename_categories(["CD4+/CD25 T Reg", "B cell", "?"])
    model = fit(cells, {"labels_key": "label"}, epochs=5, n_components=None)
    model.annotate()
    assert "CD4+|CD25 T Reg" in cells.obsm["rmve_probabilities"]
    assert "CD4+/CD25 T Reg" in model.predict(soft=True)
    check_round_trip(cells, tmp_path / "out.h5ad", contents, assert_same)


def test_results_can_be_read_back_and_predicted(model, tmp_path):
    """Annotated data from a file is valid input again."""
    model.annotate()
    model.adata.write_h5ad(tmp_path / "out.h5ad")
    back = ad.read_h5ad(tmp_path / "out.h5ad")
    pd.testing.assert_series_equal(model.predict(back), model.predict())


# ------------------------------------------------------------------ new batches


@pytest.fixture
def query(make_cells) -> ad.AnnData:
    """Cells of a batch that the reference does not have."""
    adata = make_cells(n_cells=100, n_batches=3, seed=21)
    adata = adata[adata.obs["batch"] == "batch 2"].copy()
    adata.obs["batch"] = ["new batch"] * adata.n_obs
    return adata


@pytest.mark.parametrize("source", ["model", "folder"])
def test_query_of_a_new_batch(batched, query, tmp_path, source, unchanged):
    """A new batch is mapped onto the reference's clusters, which training on it does not change."""
    reference = batched
    if source == "folder":
        batched.save(tmp_path / "m")
        reference = str(tmp_path / "m")
    with unchanged(query, without_scvi=True), unchanged(batched.adata):
        model = RMVE.load_query_data(query, reference)
        assert model.is_trained
        assert agreement(model, query) > 0.7
        mixture = {name: value.clone() for name, value in model.module.mixture.state_dict().items()}
        names, components = list(model.cluster_names_), list(model.component_cluster_)
        assert names == batched.cluster_names_
        state = {name: value.clone() for name, value in model.module.state_dict().items()}
        train = {"max_epochs": 3, "batch_size": 16, "enable_progress_bar": False}
        model.train(**train, plan_kwargs={"weight_decay": 0.0})
    assert agreement(model, query) > 0.7
    assert model.cluster_names_ == names
    assert model.component_cluster_ == components
    for name, value in model.module.mixture.state_dict().items():
        torch.testing.assert_close(value, mixture[name])
    changed = [name for name, value in model.module.state_dict().items() if not torch.equal(value, state[name])]
    assert any(name.startswith("decoder") for name in changed)
    query_clusters = model.predict()
    assert query_clusters.cat.categories.tolist() == batched.cluster_names_


def test_query_without_some_types(batched, query):
    """Training on new cells that lack a type leaves the reference's clusters as they are."""
    only = query[query.obs["cell_type"] == "B"].copy()
    model = RMVE.load_query_data(only, batched)
    model.train(max_epochs=2, batch_size=16, enable_progress_bar=False)
    assert model.cluster_names_ == batched.cluster_names_
    assert model.component_cluster_ == batched.component_cluster_
    assert (model.predict() == "1").mean() > 0.7


def test_query_data_with_fewer_cells_than_components(overcomplete, make_cells):
    """A handful of new cells is enough."""
    few = make_cells(n_cells=5, seed=2, subtypes=True)
    assert len(RMVE.load_query_data(few, overcomplete).predict()) == 5


def test_query_of_a_labelled_reference(partly_labelled, make_cells):
    """Unlabelled new cells get the reference's labels."""
    query = make_cells(n_cells=60, seed=2)
    query.obs["label"] = "Unknown"
    model = RMVE.load_query_data(query, partly_labelled)
    assert model.predict().cat.categories.tolist() == partly_labelled.cluster_names_
    known = (query.obs["cell_type"] != "C").to_numpy()
    assert (model.predict()[known].astype(str) == query.obs["cell_type"][known].astype(str)).mean() > 0.8


def test_prepare_query_fills_genes(batched, query, tmp_path):
    """Missing genes are filled with zeros, superfluous ones dropped, the order restored; then the query maps."""
    partial = query[:, query.var_names[:10:-1]].copy()
    partial.var_names = ["other", *partial.var_names[1:]]
    batched.save(tmp_path / "m")
    for reference in (batched, tmp_path / "m", str(tmp_path / "m")):
        prepared = RMVE.prepare_query_anndata(partial.copy(), reference, inplace=False)
        assert prepared.var_names.tolist() == batched.get_var_names().tolist()
        assert prepared[:, "gene 3"].layers["counts"].sum() == 0
        np.testing.assert_array_equal(
            prepared[:, "gene 20"].X.toarray(), query[prepared.obs_names, "gene 20"].X.toarray()
        )
    names = RMVE.prepare_query_anndata(partial, batched, return_reference_var_names=True)
    assert list(names) == batched.get_var_names().tolist()
    RMVE.prepare_query_anndata(partial, batched)
    assert len(RMVE.load_query_data(partial, batched).predict()) == query.n_obs


def test_query_in_another_order(batched, query):
    """Genes can be put in order on loading."""
    expected = RMVE.load_query_data(query.copy(), batched).predict()
    shuffled = query[:, query.var_names[::-1]].copy()
    model = RMVE.load_query_data(shuffled, batched, inplace_subset_query_vars=True)
    pd.testing.assert_series_equal(model.predict(), expected)
