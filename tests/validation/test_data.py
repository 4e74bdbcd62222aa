"""Bad data: a clear error that names the key, before training, and data that stays as it was."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from rmve import RMVE
from rmve import _validation as check


def put(x, value, row=3, col=5, layer=None):
    """Change of one entry of the data."""

    def change(adata):
        dense = adata.X.toarray()
        dense[row, col] = value
        matrix = sp.csr_matrix(dense) if x == "sparse" else dense
        if layer is None:
            adata.X = matrix
        else:
            adata.layers[layer] = matrix

    return change


def column(name, values):
    """Change of a column of ``obs``; a function gets the number of cells."""

    def change(adata):
        adata.obs[name] = values(adata.n_obs) if callable(values) else values

    return change


def coordinates(values):
    """Change of the coordinates by a function of those there are."""

    def change(adata):
        adata.obsm["spatial"] = values(np.array(adata.obsm["spatial"]))

    return change


def graph(weight, name="own"):
    """Add a neighbour graph with all weights equal, or without edges."""

    def change(adata):
        n = adata.n_obs
        adata.obsp[name] = sp.csr_matrix((n, n)) if weight is None else sp.eye(n, k=1, format="csr") * weight

    return change


def empty_cell(adata):
    """Take all counts of the fourth cell."""
    dense = adata.X.toarray()
    dense[3] = 0
    adata.X = sp.csr_matrix(dense)


def with_item(array, index, value):
    """Copy of an array with one entry or row changed."""
    array[index] = value
    return array


def no_matrix(adata):
    """Leave the data in the layer only."""
    adata.X = None


def duplicate_genes(adata):
    """Give two genes one name."""
    adata.var_names = ["twice", "twice", *adata.var_names[2:]]


NAN_LAST = np.r_[np.zeros(239), np.nan]

#: name: (change of the data, arguments of setup_anndata, error, pattern of its message)
SETUP_ERRORS = {
    "NaN": (put("dense", np.nan), {}, ValueError, r"`adata\.X` holds NaN or infinite"),
    "NaN, sparse": (put("sparse", np.nan), {}, ValueError, r"`adata\.X` holds NaN or infinite"),
    "infinite": (put("sparse", np.inf), {}, ValueError, r"`adata\.X` holds NaN or infinite"),
    "minus infinite": (put("dense", -np.inf), {}, ValueError, r"`adata\.X` holds NaN or infinite"),
    "NaN in a layer": (
        put("sparse", np.nan, layer="counts"),
        {"layer": "counts"},
        ValueError,
        r"`adata\.layers\['counts'\]` holds NaN",
    ),
    "layer missing": (None, {"layer": "raw"}, KeyError, r"`layer='raw'`.*'counts'"),
    "no X": (no_matrix, {}, ValueError, r"`adata\.X` is None.*`layer`"),
    "duplicated genes": (duplicate_genes, {}, ValueError, "var_names_make_unique"),
    "batch missing": (None, {"batch_key": "plate"}, KeyError, r"`batch_key='plate'`.*'donor'"),
    "labels missing": (None, {"labels_key": "kind"}, KeyError, "`labels_key='kind'`"),
    "size factor missing": (None, {"size_factor_key": "depth"}, KeyError, "`size_factor_key='depth'`"),
    "categorical missing": (
        None,
        {"categorical_covariate_keys": ["donor", "sex"]},
        KeyError,
        "`categorical_covariate_keys='sex'`",
    ),
    "continuous missing": (
        None,
        {"continuous_covariate_keys": ["weight"]},
        KeyError,
        "`continuous_covariate_keys='weight'`",
    ),
    "categorical as string": (
        None,
        {"categorical_covariate_keys": "donor"},
        TypeError,
        "`categorical_covariate_keys` must be a list",
    ),
    "continuous as string": (
        None,
        {"continuous_covariate_keys": "age"},
        TypeError,
        "`continuous_covariate_keys` must be a list",
    ),
    "NaN batch": (
        column("plate", pd.Categorical(["a", None] * 120)),
        {"batch_key": "plate"},
        ValueError,
        r"`adata\.obs\['plate'\]` \(`batch_key`\) has 120 missing",
    ),
    "NaN batch, float": (column("plate", NAN_LAST), {"batch_key": "plate"}, ValueError, r"'plate'.*1 missing"),
    "None label": (
        column("kind", ["a", None] * 120),
        {"labels_key": "kind"},
        ValueError,
        r"'kind'.*120 missing.*`unlabeled_category`",
    ),
    "labels that are numbers": (
        column("kind", lambda n: np.arange(n) % 3),
        {"labels_key": "kind"},
        ValueError,
        r"'kind'.*no strings.*astype\(str\)",
    ),
    "NaN categorical": (
        column("sex", ["f", np.nan] * 120),
        {"categorical_covariate_keys": ["sex"]},
        ValueError,
        r"'sex'.*120 missing",
    ),
    "NaN continuous": (
        column("weight", NAN_LAST),
        {"continuous_covariate_keys": ["weight"]},
        ValueError,
        "'weight'.*finite numbers",
    ),
    "continuous is text": (
        None,
        {"continuous_covariate_keys": ["donor"]},
        ValueError,
        "'donor'.*finite numbers",
    ),
    "zero size factor": (
        column("depth", np.zeros),
        {"size_factor_key": "depth"},
        ValueError,
        "'depth'.*positive finite",
    ),
    "negative size factor": (
        column("depth", -1.0),
        {"size_factor_key": "depth"},
        ValueError,
        "'depth'.*positive finite",
    ),
    "NaN size factor": (column("depth", NAN_LAST), {"size_factor_key": "depth"}, ValueError, "'depth'.*positive"),
    "size factor is text": (None, {"size_factor_key": "donor"}, ValueError, "'donor'.*positive finite"),
    "spatial missing": (None, {"spatial_key": "xy"}, KeyError, r"`spatial_key='xy'`.*'spatial'"),
    "spatial with four columns": (
        coordinates(lambda s: np.hstack([s, s])),
        {"spatial_key": "spatial"},
        ValueError,
        r"'spatial'.*1 to 3 columns.*\(240, 4\)",
    ),
    "spatial partly NaN": (
        coordinates(lambda s: with_item(s, (4, 0), np.nan)),
        {"spatial_key": "spatial"},
        ValueError,
        "'spatial'.*partly missing",
    ),
    "spatial infinite": (
        coordinates(lambda s: with_item(s, 4, np.inf)),
        {"spatial_key": "spatial"},
        ValueError,
        "'spatial'.*infinite",
    ),
    "spatial unknown for nearly all": (
        coordinates(lambda s: with_item(s, slice(2, None), np.nan)),
        {"spatial_key": "spatial"},
        ValueError,
        "'spatial'.*fewer than three",
    ),
    "spatial is text": (
        coordinates(lambda s: s.astype(str).astype(object) + "mm"),
        {"spatial_key": "spatial"},
        ValueError,
        "'spatial'.*must hold real numbers",
    ),
    "spatial is complex": (
        coordinates(lambda s: s * (1 + 1j)),
        {"spatial_key": "spatial"},
        ValueError,
        "'spatial'.*must hold real numbers",
    ),
    "spatial is dates": (
        coordinates(lambda s: (s * 1000).astype("timedelta64[s]")),
        {"spatial_key": "spatial"},
        ValueError,
        "'spatial'.*must hold real numbers",
    ),
    "neighbors missing": (None, {"neighbors_key": "knn"}, KeyError, "`neighbors_key='knn'`.*sc.pp.neighbors"),
    "neighbors without edges": (graph(None), {"neighbors_key": "own"}, ValueError, "'own'.*at least one edge"),
    "neighbors negative": (graph(-1.0), {"neighbors_key": "own"}, ValueError, "'own'.*non-negative"),
    "neighbors NaN": (graph(np.nan), {"neighbors_key": "own"}, ValueError, "'own'.*finite"),
}


@pytest.mark.parametrize(("change", "setup", "error", "message"), SETUP_ERRORS.values(), ids=SETUP_ERRORS)
def test_setup_refuses(cells, unchanged, change, setup, error, message):
    """Set-up stops at the first fault, names the key, and leaves no trace in the data."""
    if change is not None:
        change(cells)
    with unchanged(cells), pytest.raises(error, match=message):
        RMVE.setup_anndata(cells, **setup)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0)])
def test_empty(shape, unchanged):
    """An AnnData without cells or genes is refused with its size."""
    adata = ad.AnnData(np.zeros(shape, dtype=np.float32))
    with unchanged(adata), pytest.raises(ValueError, match=f"empty: {shape[0]} cells x {shape[1]} genes"):
        RMVE.setup_anndata(adata)


@pytest.mark.parametrize("other", [pd.DataFrame({"a": [1.0]}), np.ones((3, 3)), None, "file.h5ad"], ids=type)
def test_wrong_type(other):
    """Anything but an AnnData is a TypeError that says what was given."""
    with pytest.raises(TypeError, match=f"must be an AnnData, not {type(other).__name__}"):
        RMVE.setup_anndata(other)


def test_text_in_X(unchanged):
    """A matrix of strings is refused."""
    adata = ad.AnnData(np.array([["a", "b"], ["c", "d"]], dtype=object))
    with unchanged(adata), pytest.raises(TypeError, match=r"`adata\.X` must hold numbers"):
        RMVE.setup_anndata(adata)


def test_view_at_setup(cells, unchanged):
    """A view is refused, and neither it nor its parent is changed."""
    view = cells[:100]
    with unchanged(cells), pytest.raises(ValueError, match=r"view.*adata\.copy\(\)"):
        RMVE.setup_anndata(view)
    assert view.is_view


#: name: (change of the data, arguments of the model, error, pattern of its message)
MODEL_ERRORS = {
    "negative": (put("sparse", -2.0), {}, ValueError, r"`adata\.X` has negative values \(for example -2\).*'nb'"),
    "negative, dense": (put("dense", -1.0), {"gene_likelihood": "zinb"}, ValueError, "negative values.*'zinb'"),
    "fractional": (
        put("sparse", 1.5),
        {},
        ValueError,
        r"fractional values \(for example 1\.5\).*`layer='counts'`.*'normal'",
    ),
    "fractional, poisson": (put("dense", 0.25), {"gene_likelihood": "poisson"}, ValueError, "fractional.*'poisson'"),
    "a cell without counts": (empty_cell, {}, ValueError, r"1 cell\(s\).*'cell 3'.*filter_cells"),
    "counts for bernoulli": (None, {"gene_likelihood": "bernoulli"}, ValueError, r"outside \[0, 1\].*'bernoulli'"),
}


@pytest.mark.parametrize(("change", "options", "error", "message"), MODEL_ERRORS.values(), ids=MODEL_ERRORS)
def test_model_refuses(cells, unchanged, change, options, error, message):
    """What set-up cannot know, the model checks when it is made; the data stays as it was."""
    if change is not None:
        change(cells)
    with unchanged(cells, without_scvi=True):
        RMVE.setup_anndata(cells)
        with pytest.raises(error, match=message):
            RMVE(cells, **options)


def test_fractional_layer_is_named(cells):
    """A layer that holds no counts is named as such."""
    cells.layers["log"] = cells.X.log1p()
    RMVE.setup_anndata(cells, layer="log")
    with pytest.raises(ValueError, match=r"`adata\.layers\['log'\]` has fractional"):
        RMVE(cells)


@pytest.mark.parametrize("dtype", [np.int32, np.uint16, np.int64, np.float64, bool])
def test_whole_numbers_of_any_type_are_counts(cells, dtype):
    """Integers, floats that are whole, and booleans pass as counts."""
    cells.X = cells.X.astype(dtype)
    RMVE.setup_anndata(cells)
    assert RMVE(cells, n_components=2).module.n_components == 2


def test_negative_integers(cells):
    """The check holds for integer matrices, too."""
    dense = cells.X.toarray().astype(np.int32)
    dense[0, 0] = -4
    cells.X = dense
    RMVE.setup_anndata(cells)
    with pytest.raises(ValueError, match="negative"):
        RMVE(cells)


def test_not_set_up(cells, unchanged):
    """Data that was not set up is refused with the call that is missing."""
    with unchanged(cells), pytest.raises(ValueError, match=r"not set up.*RMVE\.setup_anndata"):
        RMVE(cells)


def test_copy(cells, unchanged):
    """A copy of data that was set up has to be set up itself."""
    RMVE.setup_anndata(cells)
    copied = cells.copy()
    with unchanged(copied), pytest.raises(ValueError, match=r"copy.*RMVE\.setup_anndata"):
        RMVE(copied)
    RMVE.setup_anndata(copied)
    assert RMVE(copied, n_components=2).adata is copied


def test_view(cells):
    """A view of data that was set up is refused."""
    RMVE.setup_anndata(cells)
    with pytest.raises(ValueError, match="view"):
        RMVE(cells[:100])


def test_coordinates_with_unknown_positions(cells):
    """Rows of NaN mean that a position is unknown; data frames and integers are taken."""
    cells.obsm["spatial"] = pd.DataFrame(
        with_item(np.array(cells.obsm["spatial"]), slice(5), np.nan), index=cells.obs_names, columns=["x", "y"]
    )
    assert np.isnan(check.get_coordinates(cells, "spatial")).all(1).sum() == 5
    cells.obsm["grid"] = np.arange(240)[:, None]
    assert check.get_coordinates(cells, "grid").dtype == np.float64
