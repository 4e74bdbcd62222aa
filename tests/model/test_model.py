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
from rmve.clusters.initialization import normalize_graph
from rmve.likelihoods import LIKELIHOODS
from rmve.maths.estimators import ESTIMATORS
from rmve.maths.repulsion import REPULSIONS
from rmve.module import POSTERIORS
from rmve.training import RMVETrainingPlan


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


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_likelihoods(cells, fit, likelihood):
    """Each likelihood trains on data of its kind and finds the types."""
    if likelihood == "normal":
        sc.pp.normalize_total(cells)
        sc.pp.log1p(cells)
    if likelihood == "bernoulli":
        cells.X = (cells.X > 2).astype(np.float32)
    model = fit(cells, gene_likelihood=likelihood, epochs=60)
    check_sane(model)
    assert agreement(model) > 0.9
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
    model = fit(cells, repulsion=repulsion, epochs=4, train={"plan_kwargs": {"repulsion_weight": 5.0}})
    check_sane(model)
    assert ("repulsion_train" in model.history_) == (repulsion is not None)


def test_regularisation_terms(cells, fit):
    """Agreement of two views, balance and the Dirichlet prior train and are logged."""
    options = {"view_weight": 1.0, "balance_weight": 0.5, "neighbor_weight": 0.0}
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


# ------------------------------------------------------------ reproducibility


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


def test_input_dropout(cells, tmp_path):
    """The dropout of the encoder's input is an option of the model; the default depends on the data, and is kept."""
    sparse = cells.copy()
    sparse.X = sparse.X.multiply(np.arange(60) % 2).tocsr()  # of 60 genes, half are zeros
    RMVE.setup_anndata(sparse)
    RMVE.setup_anndata(cells)
    model = RMVE(sparse, n_components=3)
    assert model.module.input_dropout.p == 0.06
    assert RMVE(cells, n_components=3).module.input_dropout.p == 0.0
    assert RMVE(cells, n_components=3, input_dropout=0.1).module.input_dropout.p == 0.1
    model.save(tmp_path / "model")
    assert RMVE.load(tmp_path / "model", adata=cells).module.input_dropout.p == 0.06


# ------------------------------------------------------------------- training


def test_training_goes_on(model):
    """A second call continues: the history grows, the clusters stay, the loss does not jump back to its start."""
    before, history = model.predict(), model.history_["reconstruction_loss_train"].to_numpy(float).ravel()
    model.train(max_epochs=3, batch_size=64, enable_progress_bar=False)
    after = model.history_["reconstruction_loss_train"].to_numpy(float).ravel()
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
    assert 3 <= float(history["n_components"].iloc[-1, 0]) <= shared.module.n_components


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
        plan = {
            "neighbor_weight": strength,
            "repulsion_weight": 0.0,
            "neighbor_ramp_fraction": 0.0,
            "start_weight": 1.0,
        }
        train = {"plan_kwargs": plan, "start": start}
        model = fit(adata, {"neighbors_key": "blocks"}, train, n_components=2, seed=3)
        blocks[strength] = model
    # neighbours agree more with the prior than without it
    share = {s: m.predict()[half].value_counts(normalize=True).max() for s, m in blocks.items()}
    assert share[200.0] > share[0.0]
