"""Values that other packages take for others, cannot store, or turn into infinity: an error that names them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from rmve import RMVE

SIZES = {"n_components": 3, "n_latent": 3, "n_hidden": 8, "n_layers": 1}
TRAIN = {"max_epochs": 1, "batch_size": 64, "enable_progress_bar": False}


@pytest.mark.parametrize("key", ["batch_key", "labels_key", "categorical_covariate_keys"])
@pytest.mark.parametrize("values", [["a\0b", "a\0c"], ["\ud800", "b"]], ids=["NUL", "half a character"])
@pytest.mark.parametrize("dtype", [object, "category"])
def test_text_that_is_not_told_apart(cells, unchanged, key, values, dtype):
    """pandas takes two batches for one where they differ after a NUL."""
    if dtype == "category":
        cells.obs["x"] = pd.Categorical.from_codes([0, 1] * 120, categories=values)
    else:
        cells.obs["x"] = np.array(values * 120, dtype=object)
    with unchanged(cells), pytest.raises(ValueError, match=rf"`adata.obs\['x'\]` \(`{key}`\) holds text with a NUL"):
        RMVE.setup_anndata(cells, **{key: ["x"] if key.endswith("s") and key != "labels_key" else "x"})


def test_text_of_new_cells(batched, make_cells):
    """The same in cells that a model is given later."""
    query = make_cells(n_cells=20, n_batches=2)
    query.obs["batch"] = "batch 0\0"
    for act in (batched.predict, lambda adata: RMVE.load_query_data(adata, batched)):
        with pytest.raises(ValueError, match="NUL"):
            act(query)


@pytest.mark.parametrize("values", [[-0.0, 0.0], [2**62 + 1, 2**62 + 2], ["é", "e\u0301"], ["a", "a "], ["", "b"]])
def test_values_that_are_taken(cells, tmp_path, values):
    """Other odd values are the categories that they are, also after a model was saved and loaded."""
    cells.obs["x"] = values * 120
    RMVE.setup_anndata(cells, batch_key="x")
    model = RMVE(cells, **SIZES)
    assert model.summary_stats.n_batch == len(set(values))
    model.train(**TRAIN)
    model.save(tmp_path / "m")
    assert RMVE.load(tmp_path / "m", adata=cells.copy()).predict().equals(model.predict())


def test_half_precision_categories(cells, unchanged):
    """pandas makes no categories of them."""
    cells.obs["x"] = np.array([0, 1] * 120, dtype=np.float16)
    with unchanged(cells), pytest.raises(ValueError, match=r"`adata.obs\['x'\]` \(`batch_key`\) holds float16"):
        RMVE.setup_anndata(cells, batch_key="x")


@pytest.mark.parametrize("largest", [1e16, 1e30, 1e300])
def test_covariate_whose_square_is_infinite(cells, unchanged, largest):
    """A model of it was trained, but had infinite variances, so that it could not be loaded."""
    cells.obs["x"] = np.linspace(0, largest, 240)
    with unchanged(cells), pytest.raises(ValueError, match=r"`adata.obs\['x'\]`.*holds numbers above 1e\+15.*Scale"):
        RMVE.setup_anndata(cells, continuous_covariate_keys=["x"])


def test_largest_covariate(cells, tmp_path):
    """What is taken can be saved and loaded."""
    cells.obs["x"] = np.linspace(-1e15, 1e15, 240)
    RMVE.setup_anndata(cells, continuous_covariate_keys=["x"])
    model = RMVE(cells, **SIZES)
    model.train(**TRAIN)
    model.save(tmp_path / "m")
    assert len(RMVE.load(tmp_path / "m", adata=cells.copy()).predict()) == 240


@pytest.mark.parametrize("value", [1e39, -1e300])
@pytest.mark.parametrize("sparse", [True, False])
def test_values_beyond_single_precision(cells, unchanged, value, sparse):
    """They would be infinite."""
    cells.X = cells.X.astype(float) if sparse else cells.X.toarray().astype(float)
    cells.X[0, cells.X[0].nonzero()[-1][0]] = value
    with unchanged(cells), pytest.raises(ValueError, match="`adata.X` holds values above 3.4e.38"):
        RMVE.setup_anndata(cells)


def test_names_of_any_text(cells, tmp_path):
    """Names of genes and cells may be any text; a change of one is seen."""
    cells.var_names = ["\ud800", "a\0b", "a\0c", *cells.var_names[3:]]
    cells.obs_names = ["\udcff", "c\0d", "c\0e", *cells.obs_names[3:]]
    RMVE.setup_anndata(cells, spatial_key="spatial")
    model = RMVE(cells, **SIZES)
    model.train(**TRAIN)
    model.save(tmp_path / "m")
    again = RMVE.load(tmp_path / "m", adata=cells.copy())
    assert again.predict().equals(model.predict())
    pd.testing.assert_frame_equal(again.map_to_space(), model.map_to_space())
    cells.var_names = ["\ud800", "a\0c", "a\0b", *cells.var_names[3:]]
    with pytest.raises(ValueError, match="changed since `setup_anndata`: `adata.var_names`"):
        model.predict()


@pytest.mark.parametrize(
    "act",
    [
        lambda model, path: model.save(path),
        lambda model, path: RMVE.load(path),
        lambda model, path: RMVE.resume(path, model.adata),
        lambda model, path: model.train(checkpoint_dir=path, **TRAIN),
    ],
)
def test_path_with_nul(model, tmp_path, act):
    """The error is about the argument."""
    with pytest.raises(ValueError, match="`(dir_path|checkpoint_dir)` must not hold a NUL"):
        act(model, f"{tmp_path}/a\0b")


@pytest.fixture
def stored_twice(cells):
    """The same cells with a count that is stored in two parts, each of which fits its type."""
    whole = cells.X.toarray()
    whole[0, 0] = 400
    x = sp.csr_matrix(whole)
    data = np.concatenate([[200, 200], x.data[1:]]).astype(np.uint8)
    twice = cells.copy()
    twice.X = sp.csr_matrix((data, np.concatenate([[0], x.indices]), (x.indptr + 1) * (x.indptr > 0)), x.shape)
    cells.X = x
    return cells, twice


@pytest.mark.parametrize("likelihood", ["nb", "normal"])
def test_entries_that_stand_twice(stored_twice, fit, likelihood):
    """Two entries of one place are their sum, also where their type is too small for it: in training and after it."""
    models = [fit(adata, epochs=2, gene_likelihood=likelihood) for adata in stored_twice]
    whole, twice = (model.predict(soft=True) for model in models)
    pd.testing.assert_frame_equal(whole, twice)
    pd.testing.assert_frame_equal(models[0].predict(stored_twice[1], soft=True), whole)
    pd.testing.assert_series_equal(
        models[0].get_novelty(stored_twice[1]), models[0].get_novelty(stored_twice[0].copy())
    )
