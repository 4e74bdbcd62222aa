"""Random data of every shape and storage: a result that holds together, or an error that says what to do."""

from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from rmve import RMVE

STORAGE = {
    "C": np.ascontiguousarray,
    "F": np.asfortranarray,
    "csr": sp.csr_matrix,
    "csc": sp.csc_matrix,
    "csr array": sp.csr_array,
    "csc array": sp.csc_array,
}
DTYPES = ("float32", "float64", "int8", "int32", "int64", "uint16", "bool", "float16")
COLUMNS = {
    "one batch": lambda rng, n: np.full(n, "a"),
    "strings": lambda rng, n: rng.choice(["a", "b", "c"], n),
    "numbers": lambda rng, n: rng.integers(3, size=n),
    "floats": lambda rng, n: rng.choice([0.5, 1.5], n),
    "truth values": lambda rng, n: rng.random(n) < 0.5,
    "categories, some unused": lambda rng, n: pd.Categorical(rng.choice(["a", "b"], n), categories=["b", "z", "a"]),
    "a batch per cell": lambda rng, n: [f"batch {i}" for i in range(n)],
    "missing": lambda rng, n: [None, *["a"] * (n - 1)],
    "odd names": lambda rng, n: rng.choice(["", "ü/β", "<b>", "Unknown"], n),
}
LIKELIHOODS = ("nb", "zinb", "poisson", "normal", "bernoulli")
FUZZ = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@st.composite
def inputs(draw) -> tuple[ad.AnnData, dict, dict]:
    """An AnnData, and options of its set-up and of the model."""
    n, g = draw(st.integers(1, 40)), draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    x = rng.poisson(draw(st.sampled_from([0.02, 0.5, 3.0, 60.0])), size=(n, g)).astype(float)
    spoil = draw(st.sampled_from([None] * 6 + ["NaN", "negative", "fraction", "huge", "constant gene"]))
    if spoil == "constant gene":
        x[:, 0] = 7.0
    elif spoil is not None:
        x[rng.integers(n), rng.integers(g)] = {"NaN": np.nan, "negative": -1, "fraction": 0.5, "huge": 1e30}[spoil]
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x = x.astype(draw(st.sampled_from(DTYPES)))
    if x.dtype == np.float16:
        x = np.ascontiguousarray(x)
    else:
        x = STORAGE[draw(st.sampled_from(sorted(STORAGE)))](x)
    column = draw(st.sampled_from(sorted(COLUMNS)))
    obs = pd.DataFrame({"group": COLUMNS[column](rng, n)}, index=[f"cell {i}" for i in range(n)])
    adata = ad.AnnData(x, obs=obs, var=pd.DataFrame(index=[f"gene {j}" for j in range(g)]))
    role = draw(st.sampled_from([None, "batch_key", "labels_key", "categorical_covariate_keys"]))
    setup = {} if role is None else {role: ["group"] if role.endswith("s") and role != "labels_key" else "group"}
    options = {
        "n_components": draw(st.sampled_from([None, 1, 2, 5, 60])),
        "gene_likelihood": draw(st.sampled_from(LIKELIHOODS)),
        "posterior": draw(st.sampled_from(["full", "factorized"])),
        "estimator": draw(st.sampled_from(["sample", "exact", "gumbel"])),
        "repulsion": draw(st.sampled_from(["hsic", "pairwise", "dpp", "wasserstein", "means", None])),
        "n_latent": draw(st.sampled_from([1, 3])),
    }
    return adata, setup, options


@FUZZ
@given(case=inputs(), batch_size=st.sampled_from([2, 3, 16, 128]))
@pytest.mark.filterwarnings("ignore")
def test_a_result_or_a_clear_error(case, batch_size, contents, assert_same):
    """From set-up to annotation: either all of it holds together, or the data is as it was."""
    adata, setup, options = case
    before = contents(adata)
    try:
        RMVE.setup_anndata(adata, **setup)
    except (KeyError, TypeError, ValueError) as error:
        event("refused by setup_anndata")
        assert_clear(error)
        assert_same(before, contents(adata))
        return
    before = contents(adata, without_scvi=True)
    try:
        model = RMVE(adata, n_hidden=8, n_layers=1, **options)
        model.train(max_epochs=2, batch_size=batch_size, quiet=True)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        event(f"refused later: {type(error).__name__}")
        assert_clear(error)
        assert_same(before, contents(adata, without_scvi=True))
        return
    event("a result")
    assert_same(before, contents(adata, without_scvi=True))
    soft, hard = model.predict(soft=True), model.predict()
    assert list(soft.index) == list(hard.index) == list(adata.obs_names)
    assert np.isfinite(soft.to_numpy()).all()
    np.testing.assert_allclose(soft.sum(axis=1), 1.0, atol=1e-4)
    assert set(hard.astype(str)) <= set(soft.columns)
    assert np.isfinite(model.get_latent_representation()).all()
    model.annotate()
    assert adata.obs["rmve"].notna().all()


def assert_clear(error: Exception) -> None:
    """The message is a sentence of ours: it names something in backticks, and more than a word."""
    message = str(error.args[0])
    assert "`" in message, message
    assert len(message.split()) >= 5, message
    assert message.rstrip().endswith("."), message
