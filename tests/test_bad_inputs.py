"""Bad inputs, one by one: each is refused with its error, which names what is at fault, and changes no data.

The tables hold what is given, and the error to expect with parts of its message, ``…`` between them.
"""

from __future__ import annotations

import contextlib

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import rmve
from rmve import RMVE

NAN, INF = float("nan"), float("inf")
SIZES = {"n_latent": 3, "n_hidden": 8, "n_layers": 1}


def each(names: str, values: tuple, error: type[Exception] = ValueError, named: str = "`{}`", **others) -> list:
    """Rows of a table: every argument with every value, beside others."""
    return [
        pytest.param(others | {name: value}, error, named.format(name), id=f"{name}={value!r}")
        for name in names.split()
        for value in values
    ]


def one(error: type[Exception], named: str, **arguments) -> pytest.param:
    """A row of a table: arguments that are refused together."""
    return pytest.param(arguments, error, named, id=", ".join(f"{k}={v!r:.40}" for k, v in arguments.items()))


def table(names: str, *rows) -> pytest.MarkDecorator:
    """The rows as parameters of a test; the first value of a plain row is its name."""
    rows = [row if hasattr(row, "marks") else pytest.param(*row[1:], id=row[0]) for row in rows]
    return pytest.mark.parametrize(names.split(), rows)


@contextlib.contextmanager
def refused(error: type[Exception], named: str):
    """Context in which an error of exactly this kind comes up, whose message is a sentence that names what is at fault."""
    with pytest.raises(error) as caught:
        yield
    assert type(caught.value) is error
    message = str(caught.value.args[0])
    for part in named.split("…"):
        assert part in message
    assert message.rstrip().endswith((".", "?"))


@pytest.fixture
def untrained(cells) -> RMVE:
    """A model of three components that was not trained."""
    RMVE.setup_anndata(cells)
    return RMVE(cells, n_components=3, **SIZES)


@pytest.fixture
def query(make_cells) -> ad.AnnData:
    """Other cells."""
    return make_cells(n_cells=30, seed=7)


# ------------------------------------------------------------------ changes of data


def edited(array, index, value):
    """The array with some entries replaced."""
    array[index] = value
    return array


def matrix(value, place=(3, 5), layer=None, dense=False):
    """Change of entries of the counts."""

    def change(adata):
        x = edited((adata.X if layer is None else adata.layers[layer]).toarray(), place, value)
        x = x if dense else sp.csr_matrix(x)
        adata.X, adata.layers[layer or "other"] = (x, x) if layer is None else (adata.X, x)

    return change


def converted(kind):
    """Change of the type of all entries of ``X``."""
    return lambda adata: setattr(adata, "X", adata.X.toarray().astype(kind))


def column(name, values):
    """Change of a column of ``obs``; a function gets the number of cells."""
    return lambda adata: adata.obs.__setitem__(name, values(adata.n_obs) if callable(values) else values)


def positions(change):
    """Change of the coordinates."""
    return lambda adata: adata.obsm.__setitem__("spatial", change(np.array(adata.obsm["spatial"])))


def graph(name, value=1.0, **entry):
    """Add a neighbour graph, and what scanpy notes of one."""

    def change(adata):
        adata.obsp[name] = sp.eye(adata.n_obs, k=1, format="csr") * value
        adata.uns |= {"own": entry} if entry else {}

    return change


def alternating(*values):
    """Values in turn, as objects."""
    return lambda n: pd.Series([values[i % len(values)] for i in range(n)], dtype=object).to_numpy()


def with_last(value):
    """Ones, and a value in the end."""
    return lambda n: np.r_[np.ones(n - 1), value]


NUMBERS_IN_CATEGORIES = pd.Categorical([1.0, 2.0] * 120)
DATES = {"dates": lambda n: pd.date_range("2026-01-01", periods=n)}
MISSING = {
    "None": alternating("a", None),
    "NaN": lambda n: np.array([1.0, NAN] * (n // 2)),
    "a missing category": lambda n: pd.Categorical(["a", None] * (n // 2)),
    "pd.NA": lambda n: pd.array(["a", None] * (n // 2), dtype="string"),
}
#: Columns of categories that a file could not hold, or that have no order.
ODD = DATES | {
    "intervals of pd.cut": lambda n: pd.cut(np.arange(n), 3),
    "periods": lambda n: pd.period_range("2000", periods=n, freq="D"),
    "bytes": alternating(b"a", b"b"),
    "text and numbers": alternating("a", 1),
    "tuples": alternating(("a", 1), ("b", 2)),
}
NO_LABELS = {
    "whole numbers": lambda n: np.arange(n) % 3,
    "categories that are numbers": lambda n: pd.Categorical(np.arange(n) % 3),
    "truth values": lambda n: np.arange(n) % 2 == 0,
}
NO_SIZE_FACTORS = {
    "zeros": np.zeros,
    "negative numbers": lambda n: np.full(n, -1.0),
    "NaN": with_last(NAN),
    "infinity": with_last(INF),
    "text": "one",
    "categories": NUMBERS_IN_CATEGORIES,
    "1e-310": 1e-310,
}
NO_COVARIATES = DATES | {
    "NaN": with_last(NAN),
    "infinity": with_last(INF),
    "text": "old",
    "complex numbers": lambda n: np.ones(n, dtype=complex),
}
NO_POSITIONS = {
    "four columns": (lambda s: np.hstack([s, s]), "1 to 3 columns…(240, 4)"),
    "no column": (lambda s: s[:, :0], "1 to 3 columns"),
    "text": (lambda s: s.astype(str), "must hold real numbers"),
    "text with a unit": (lambda s: s.astype(str).astype(object) + "mm", "must hold real numbers"),
    "complex numbers": (lambda s: s * (1 + 1j), "must hold real numbers"),
    "times": (lambda s: (s * 1000).astype("timedelta64[s]"), "must hold real numbers"),
    "an infinite entry": (lambda s: edited(s, (4, 0), INF), "infinite"),
    "an infinite row": (lambda s: edited(s, 4, INF), "infinite"),
    "a row that is partly NaN": (lambda s: edited(s, (4, 0), NAN), "partly missing"),
    "two known positions": (lambda s: edited(s, slice(2, None), NAN), "fewer than three"),
    "NaN only": (lambda s: np.full_like(s, NAN), "fewer than three"),
    "three dimensions": (lambda s: s[:, :, None], ""),
}


def columns(role: str, kinds: dict, named: str = "'odd'", in_list: bool = False) -> list:
    """Rows of the set-up with a column of each kind in a role."""
    return [
        (f"{role} of {name}", column("odd", values), {role: ["odd"] if in_list else "odd"}, ValueError, named)
        for name, values in kinds.items()
    ]


# ------------------------------------------------------------------- setup_anndata

NO_ANNDATA = (None, "cells.h5ad", np.ones((3, 3)), pd.DataFrame({"gene": [1.0]}), sp.eye(3), [1, 2], {})


@pytest.mark.parametrize("other", NO_ANNDATA, ids=lambda other: type(other).__name__)
def test_no_anndata(other):
    with refused(TypeError, f"`adata` must be an AnnData, not {type(other).__name__}"):
        RMVE.setup_anndata(other)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0)])
def test_empty_data(shape, unchanged):
    adata = ad.AnnData(np.zeros(shape, np.float32))
    with unchanged(adata), refused(ValueError, f"empty: {shape[0]} cells x {shape[1]} genes"):
        RMVE.setup_anndata(adata)


def test_a_view(cells, unchanged):
    view = cells[:9]
    with unchanged(cells), refused(ValueError, "view…adata.copy()"):
        RMVE.setup_anndata(view)
    assert view.is_view


KEYS = "layer batch_key labels_key size_factor_key spatial_key neighbors_key"
LISTS = "categorical_covariate_keys continuous_covariate_keys"


@table(
    "arguments error named",
    *each("layer", ("nowhere",), KeyError, "`{}='nowhere'`…'counts'"),
    *each("batch_key labels_key size_factor_key", ("nowhere",), KeyError, "`{}='nowhere'`…'donor'"),
    *each("spatial_key", ("nowhere",), KeyError, "`{}='nowhere'`…'spatial'"),
    *each("neighbors_key", ("nowhere",), KeyError, "`{}='nowhere'`…sc.pp.neighbors"),
    *each(KEYS, (3, ["batch"], b"batch", True), TypeError),
    *each("categorical_covariate_keys", (["donor", "nowhere"],), KeyError, "`{}='nowhere'`"),
    *each("continuous_covariate_keys", (["age", "nowhere"],), KeyError, "`{}='nowhere'`"),
    *each(LISTS, ("age",), TypeError, "`{}` must be a list"),
    *each(LISTS, (3, [3]), TypeError),
    *each(LISTS, (["age", "age"],), ValueError, "'age'"),
    *each("unlabeled_category", (None, True, ["Unknown"], NAN), TypeError, labels_key="cell_type"),
)
def test_arguments_of_the_set_up(arguments, error, named, cells, unchanged):
    with unchanged(cells), refused(error, named):
        RMVE.setup_anndata(cells, **arguments)


@table(
    "change arguments error named",
    (
        "gene names twice",
        lambda a: setattr(a, "var_names", ["g", "g", *a.var_names[2:]]),
        {},
        ValueError,
        "var_names_make_unique",
    ),
    ("no X, no layer", lambda a: setattr(a, "X", None), {}, ValueError, "`adata.X` is None…`layer`"),
    *(
        (f"{value}, dense={dense}", matrix(value, dense=dense), {}, ValueError, "`adata.X` holds NaN or infinite")
        for value in (NAN, INF, -INF)
        for dense in (False, True)
    ),
    (
        "text",
        lambda a: setattr(a, "X", np.full(a.shape, "1", dtype=object)),
        {},
        TypeError,
        "`adata.X` must hold numbers",
    ),
    ("complex numbers", converted(complex), {}, TypeError, "adata.X"),
    *((kind, converted(kind), {}, TypeError, "astype('float32')") for kind in ("float16", ">f4", "longdouble")),
    (
        "NaN in a layer",
        matrix(NAN, layer="counts"),
        {"layer": "counts"},
        ValueError,
        "`adata.layers['counts']` holds NaN",
    ),
    *columns("batch_key", ODD),
    *columns("batch_key", MISSING, "'odd']` (`batch_key`) has 120 missing"),
    *columns("labels_key", ODD),
    *columns("labels_key", MISSING, "'odd'…120 missing…`unlabeled_category`"),
    *columns("labels_key", NO_LABELS, "'odd'…no strings…astype(str)"),
    *columns("size_factor_key", NO_SIZE_FACTORS, "'odd'…positive finite"),
    *columns("continuous_covariate_keys", NO_COVARIATES, "'odd'…finite numbers", in_list=True),
    *columns("categorical_covariate_keys", ODD, in_list=True),
    *columns("categorical_covariate_keys", {"NaN": ["f", NAN] * 120}, "'odd'…120 missing", in_list=True),
    *(
        (f"positions: {name}", positions(change), {"spatial_key": "spatial"}, ValueError, f"'spatial'…{part}")
        for name, (change, part) in NO_POSITIONS.items()
    ),
    *(
        (f"weights of {value}", graph("own", value), {"neighbors_key": "own"}, ValueError, f"'own'…{part}")
        for value, part in ((-1.0, "non-negative"), (NAN, "finite"), (INF, "finite"), (0.0, "at least one edge"))
    ),
    *(
        (name, graph(name, **entry), {"neighbors_key": name}, ValueError, "distances")
        for name, entry in (
            ("distances", {}),
            ("spatial_distances", {}),
            ("far", {"connectivities_key": "near", "distances_key": "far"}),
        )
    ),
)
def test_data_of_the_set_up(change, arguments, error, named, cells, unchanged):
    change(cells)
    with unchanged(cells), refused(error, named):
        RMVE.setup_anndata(cells, **arguments)


# --------------------------------------------------------------------------- model


@table(
    "options error named",
    *each("n_latent n_hidden n_layers", (0, -1, 1.5, "3", None, True, [2]), named="`{}`…at least 1", n_components=2),
    *each("n_components", (0, -3), named="`{}` must be at least 1; got "),
    *each("n_components", (241, 10**9), named="`{}=…240 cell"),
    *each("n_components", (3.0, "3", "auto", True, [3], NAN), TypeError, "`{}` must be an integer"),
    *each("gene_likelihood", ("other", 3, ["nb"], True), named="`{}`…'zinb'"),
    *each("posterior", ("other", 3, ["full"], True), named="`{}`…'factorized'"),
    *each("estimator", ("other", 3, ["exact"], True), named="`{}`…'gumbel'"),
    *each("repulsion", ("other", 3, ["hsic"], True), named="`{}`…'hsic'…None"),
    *each("dropout_rate input_dropout", (-0.1, 1.0, 2, NAN, "0.1", [0.1], True), n_components=2),
    *each("encode_covariates", ("yes",), TypeError, n_components=2),
    *each("gene_likelihood", ("bernoulli",), ValueError, "outside [0, 1]…'bernoulli'"),  # of counts
)
def test_options_of_the_model(options, error, named, cells, unchanged):
    RMVE.setup_anndata(cells)
    with unchanged(cells), refused(error, named):
        RMVE(cells, **options)


COUNTS = ("nb", "zinb", "poisson")


@table(
    "likelihood change named",
    *(
        (f"{name}: {value}, dense={dense}", name, matrix(value, dense=dense), f"`adata.X` has {part}…{name!r}")
        for name in COUNTS
        for dense in (False, True)
        for value, part in (
            (-2.0, "negative values (for example -2)"),
            (1.5, "fractional values (for example 1.5)…`layer='counts'`…'normal'"),
        )
    ),
    *((f"{name}: a cell without counts", name, matrix(0, 3), "1 cell(s)…'cell 3'…filter_cells") for name in COUNTS),
    ("bernoulli: -0.5", "bernoulli", matrix(-0.5), "adata.X"),
)
def test_values_of_another_likelihood(likelihood, change, named, cells, unchanged):
    change(cells)
    RMVE.setup_anndata(cells)
    with unchanged(cells), refused(ValueError, named):
        RMVE(cells, gene_likelihood=likelihood)


@table(
    "give error named",
    ("not set up", lambda adata: adata.copy(), ValueError, "copy…RMVE.setup_anndata"),
    ("a view", lambda adata: adata[:9], ValueError, "view"),
    ("a path", lambda adata: "cells.h5ad", TypeError, "`adata`"),
)
def test_data_that_is_not_the_one_set_up(give, error, named, untrained, unchanged):
    with unchanged(untrained.adata), refused(error, named):
        RMVE(give(untrained.adata))


def test_data_that_is_not_set_up(cells, unchanged):
    with unchanged(cells), refused(ValueError, "RMVE.setup_anndata"):
        RMVE(cells)
    with unchanged(cells), refused(ValueError, "setup_anndata"):
        RMVE.stability(cells, n_runs=2)


def test_fewer_components_than_labels(cells):
    RMVE.setup_anndata(cells, labels_key="cell_type")
    with refused(ValueError, "`n_components=2` is less than the 3 labels in `labels_key`"):
        RMVE(cells, n_components=2)


# --------------------------------------------------------------------------- train


def plan(names: str, values: tuple, error: type[Exception] = ValueError, named: str = "`{}`") -> list:
    """Rows with options of the plan."""
    return [
        pytest.param({"plan_kwargs": {name: value}}, error, named.format(name), id=f"plan: {name}={value!r}")
        for name in names.split()
        for value in values
    ]


STARTS = (
    (np.zeros(239, dtype=int), "must be 240 integers…(239,)"),
    (np.zeros((240, 3), dtype=int), "must be 240 integers…(240, 3)"),
    (np.zeros(240), "must be 240 integers…float64"),
    (["0"] * 240, "must be 240 integers"),
    (np.full(240, 240), "must lie in [0, 240)…240 to 240"),
    (np.full(240, -1), "must lie in [0, 240)…-1"),
)


@table(
    "options error named",
    *each("max_epochs checkpoint_every", (0, -1, 1.5, "3", True, NAN), named="`{}` must be an integer of at least 1"),
    *each("batch_size", (0, -1, 1.5, "3", True, NAN, 1), named="`{}`…at least 2"),
    *each("precision", ("16-mixed", "bf16-true"), named="`{}='…'bf16-mixed'"),
    *each("train_size validation_size", (-0.1, 1.5, NAN, "0.9", True)),
    *each("train_size", (0.0,)),
    *each("train_size", (0.001,), ValueError, "`{}=0.001`"),
    one(ValueError, "`validation_size=0.2`", train_size=0.9, validation_size=0.2),
    one(ValueError, "`early_stopping`", early_stopping=True, train_size=1.0),
    one(ValueError, "`load_sparse_tensor`", load_sparse_tensor=True),
    one(ValueError, "several devices", strategy="ddp_find_unused_parameters_true"),
    one(TypeError, "epochs", epochs=3),
    *each("accelerator", ("abacus", "gpu"), ValueError, "{}"),
    one(ValueError, "devices -7", accelerator="cpu", devices=-7),
    *each("plan_kwargs", (["lr"],), TypeError),
    *each("checkpoint_dir", (3,), TypeError),
    *(
        pytest.param({"start": start}, ValueError, f"`start` {part}", id=f"start {i}")
        for i, (start, part) in enumerate(STARTS)
    ),
    *plan("repulsoin", (3.0,), TypeError, "{}"),
    *plan("lr mixture_lr repulsion_weight neighbor_weight warmup_fraction", (-1.0, NAN, "high")),
    *plan("start_smoothing assignment_momentum kl_weight label_weight", (-1.0, NAN, "high")),
    *plan("estimator", ("mc",)),
    *plan("lr_schedule", ("cosine",)),
    *plan("compile", (True,), ValueError, "`{}=True`"),
)
def test_options_of_training(options, error, named, untrained, unchanged):
    with unchanged(untrained.adata), refused(error, named):
        untrained.train(**({"max_epochs": 1} | options))
    assert not untrained.is_trained


@pytest.mark.parametrize("name", ["", "model.json"])
def test_a_folder_that_is_taken(name, untrained, saved, unchanged):
    with unchanged(untrained.adata), refused(FileExistsError, "`checkpoint_dir`"):
        untrained.train(max_epochs=1, checkpoint_dir=saved / name)


def test_training_without_data(saved):
    with refused(RuntimeError, "adata=adata"):
        RMVE.load(saved, adata=False).train()


def test_a_start_for_a_trained_model(model, unchanged):
    with unchanged(model.adata), refused(ValueError, "`start`"):
        model.train(start=np.zeros(240, dtype=int))


def test_one_cell(make_cells):
    adata = make_cells(n_cells=1)
    RMVE.setup_anndata(adata)
    with refused(ValueError, "at least two cells"):
        RMVE(adata, n_components=1).train()


def test_resuming_nothing(cells, tmp_path, unchanged):
    with unchanged(cells), refused(FileNotFoundError, "checkpoint_dir"):
        RMVE.resume(tmp_path, cells)


# ------------------------------------------------------------------------- results


@pytest.mark.parametrize(
    "method",
    "predict annotate get_components get_merge_tree get_resolutions merge_components fit_spatial_map "
    "get_latent_representation get_elbo get_normalized_expression".split(),
)
def test_a_model_that_is_not_trained(method, untrained, unchanged):
    with unchanged(untrained.adata), refused(RuntimeError, "not trained…model.train()"):
        getattr(untrained, method)()


def one_more_gene(adata):
    """Cells with a gene that the model does not know."""
    extra = ad.AnnData(np.ones((adata.n_obs, 1), dtype=np.float32), obs=adata.obs[[]])
    extra.layers["counts"] = extra.X.copy()
    extra.var_names = ["gene new"]
    return ad.concat([adata, extra], axis=1, merge="first")


def fewer_genes(adata):
    """Cells without three genes."""
    return adata[:, ~adata.var_names.isin(["gene 4", "gene 7", "gene 9"])].copy()


GETTERS = "predict get_latent_representation annotate get_elbo get_normalized_expression".split()


@pytest.mark.parametrize("method", GETTERS)
@table(
    "give error named",
    ("a path", lambda a: "q.h5ad", TypeError, "`adata` must be an AnnData, not str"),
    ("a table", lambda a: a.to_df(), TypeError, "`adata` must be an AnnData, not DataFrame"),
    ("fewer genes", fewer_genes, ValueError, "lacks 3 of the model's 60 genes: 'gene 4', 'gene 7', 'gene 9'"),
    ("more genes", one_more_gene, ValueError, "more genes"),
    ("another order", lambda a: a[:, ::-1].copy(), ValueError, "another order…get_var_names"),
    ("other genes", lambda a: setattr(a, "var_names", [f"x{i}" for i in range(60)]), ValueError, "genes"),
    ("no layer", lambda a: a.layers.__delitem__("counts"), KeyError, "`layer='counts'`"),
    *(
        (f"{value}", matrix(value, (0, 0), "counts"), ValueError, f"adata.layers['counts']` {part}")
        for value, part in ((NAN, "holds NaN"), (-1.0, "has negative"), (0.5, "has fractional"))
    ),
    ("a cell without counts", matrix(0, 0, "counts"), ValueError, "'cell 0'"),
    ("no cells", lambda a: a[:0].copy(), ValueError, "empty: 0 cells"),
)
def test_new_cells(method, give, error, named, shared, query, unchanged):
    changed = give(query)
    given = query if changed is None else changed
    guard = unchanged(given) if isinstance(given, ad.AnnData) else contextlib.nullcontext()
    with guard, unchanged(shared.adata), refused(error, named):
        getattr(shared, method)(given)


@table(
    "change error named",
    ("unknown", column("batch", "batch 2"), ValueError, "'batch'…unseen in training: 'batch 2'…load_query_data"),
    ("incomplete", column("batch", ["batch 0"] * 29 + [NAN]), ValueError, "'batch'…1 missing"),
    ("missing", lambda a: a.obs.__delitem__("batch"), KeyError, "`batch_key='batch'`"),
)
def test_batches_of_new_cells(change, error, named, batched, query, unchanged):
    change(query)
    with unchanged(query), refused(error, named):
        batched.predict(query)


@pytest.mark.parametrize("act", [RMVE.predict, lambda model, query: RMVE.load_query_data(query, model)])
def test_an_unknown_label(act, partly_labelled, query, unchanged):
    query.obs["label"] = ["A"] * 29 + ["Z"]
    with unchanged(query), refused(ValueError, "'label'…unseen in the reference: 'Z'…'A', 'B'"):
        act(partly_labelled, query)


@table(
    "method arguments error named",
    *(
        (f"indices={rows!r}", "predict", {"indices": rows}, ValueError, "`indices`")
        for rows in ([240], [-241], [0.5], ["cell 1"], np.ones(3, dtype=bool), [[0, 1]], [], "all", 3)
    ),
    *(
        (f"{argument}={value!r}", method, {argument: value}, error, named)
        for method, argument, values, error, named in (
            ("predict", "batch_size", (0, -1, 2.5, "8"), ValueError, "`batch_size`"),
            ("merge_components", "n_clusters", (0, -1, 1.5, "all", True, 99), ValueError, "`n_clusters"),
            ("annotate", "key_added", (3, None, ["a"]), TypeError, "`key_added`"),
            ("annotate", "key_added", ("", "a/b", "cell_type", "batch", "donor"), ValueError, "`key_added"),
        )
        for value in values
    ),
    ("no positions", "fit_spatial_map", {}, ValueError, "`spatial_key`"),
    ("unknown positions", "fit_spatial_map", {"spatial_key": "xy"}, KeyError, "'xy'"),
    ("cubic map", "fit_spatial_map", {"spatial_key": "spatial", "kind": "cubic"}, ValueError, "`kind`"),
    ("no map yet", "map_to_space", {}, RuntimeError, "fit_spatial_map"),
    ("no such column", "differential_expression", {"groupby": "kind"}, KeyError, "'kind'"),
    ("one group", "differential_expression", {"groupby": "_scvi_labels"}, ValueError, "one group"),
    (
        "weights",
        "get_normalized_expression",
        {"n_samples_overall": 9, "weights": "importance"},
        ValueError,
        "`weights",
    ),
)
def test_arguments_of_a_getter(method, arguments, error, named, model, unchanged):
    with unchanged(model.adata), refused(error, named):
        getattr(model, method)(**arguments)


def test_a_view_to_annotate(model, query):
    with refused(ValueError, "view"):
        model.annotate(query[:9])
    assert "rmve" not in query.obs


@table(
    "arguments error named",
    *each("n_runs", (1, 0, 2.5, "5")),
    one(ValueError, "`seeds`", n_runs=3, seeds=[0, 1]),
)
def test_stability(arguments, error, named, untrained, unchanged):
    with unchanged(untrained.adata), refused(error, named):
        RMVE.stability(untrained.adata, **arguments)


# -------------------------------------------------------------------- saved models


@pytest.mark.parametrize("prefix", ["../x_", "a/b", "/tmp/x", "..", "a\0b", "~/../x", "C:\\x", 3])
def test_a_prefix_that_leaves_the_folder(prefix, model, saved, tmp_path):
    error = TypeError if prefix == 3 else ValueError
    with refused(error, "`prefix`"):
        model.save(tmp_path / "m", prefix=prefix)
    with refused(error, "`prefix`"):
        RMVE.load(saved, prefix=prefix)


def test_places_that_are_taken(model, saved):
    with refused(FileExistsError, "`overwrite=True`"):
        model.save(saved)
    with refused(FileExistsError, "`dir_path`"):
        model.save(saved / "model.pt", overwrite=True)


def test_saving_data_without_any(saved, tmp_path):
    with refused(ValueError, "no data"):
        RMVE.load(saved, adata=False).save(tmp_path / "m", save_anndata=True)


def test_places_without_a_model(query, untrained, model, tmp_path):
    with refused(FileNotFoundError, "nowhere"):
        RMVE.load(tmp_path / "nowhere")
    with refused(FileNotFoundError, "model.json"):
        RMVE.load(tmp_path)
    with refused(FileNotFoundError, "nowhere"):
        RMVE.load_query_data(query, tmp_path / "nowhere")
    with refused(RuntimeError, "train"):
        RMVE.load_query_data(query, untrained)


def test_a_model_with_other_data(saved, query, model, unchanged):
    for other in (fewer_genes(query), query[:, ::-1].copy()):
        with unchanged(other), refused(ValueError, "genes"):
            RMVE.load(saved, adata=other)
        with unchanged(other), refused(ValueError, "genes"):
            RMVE.load_query_data(other, model)
    with refused(TypeError, "`adata`"):
        RMVE.load(saved, adata="cells.h5ad")


@pytest.mark.parametrize("name", ["model.pt", "model.json"])
@pytest.mark.parametrize("content", [100, b"", bytes(range(256))], ids=["cut off", "empty", "random"])
def test_a_spoilt_file(name, content, model, tmp_path):
    model.save(tmp_path / "m")
    path = tmp_path / "m" / name
    path.write_bytes(path.read_bytes()[:content] if isinstance(content, int) else content)
    with refused(ValueError, "does not hold a model"):
        RMVE.load(tmp_path / "m", adata=False)


UNKNOWN_ARRAY = {"__rmve__": "array", "dtype": "os.system", "data": [1]}


@table(
    "change named",
    *(
        (name, change, "does not hold a model")
        for name, change in {
            "no registry": lambda d: d.pop("registry"),
            "no options": lambda d: d.pop("init_params"),
            "an unknown option": lambda d: d["init_params"].update(n_latnet=3),
            "a negative size": lambda d: d["init_params"].update(n_latent=-4),
            "options that are text": lambda d: d.update(init_params="none"),
            "no merge tree": lambda d: d.pop("merge_tree"),
            "a merge tree that is text": lambda d: d.update(merge_tree="tree"),
            "a merge that cannot be": lambda d: d["merge_tree"].update(n_indistinct=-1),
            "a merge tree of another model": lambda d: d["merge_tree"].update(n_components=1000),
            "clusters that do not fit": lambda d: d["clusters"].update(of_component=[0]),
            "an array of an unknown type": lambda d: d["attributes"].update(train_indices_=UNKNOWN_ARRAY),
        }.items()
    ),
    ("another class", lambda d: d["registry"].update(model_name="SCVI"), "SCVI"),
)
def test_a_forged_document(change, named, model, tmp_path, forge):
    """The checksums fit: a stranger has made them anew."""
    model.save(tmp_path / "m")
    forge(tmp_path / "m", change)
    with refused(ValueError, named):
        RMVE.load(tmp_path / "m", adata=False)


# ------------------------------------------------------------------------- figures


@table(
    "name arguments named",
    *(
        (f"{name} {arguments}", name, arguments, named)
        for name in ("embedding", "components", "confidence", "merge_tree", "confusion")
        for arguments, named in (({}, "model.annotate"), ({"key": "mine"}, "'mine'"))
    ),
    ("confusion, no such column", "confusion", {"labels_key": "kind"}, "'kind'"),
    ("embedding, no such colour", "embedding", {"color": "kind"}, "'kind'"),
    ("embedding, no such basis", "embedding", {"basis": "X_tsne"}, "'X_tsne'"),
)
def test_figures(name, arguments, named, model):
    if arguments:
        model.annotate()
    arguments = ({"labels_key": "cell_type"} if name == "confusion" else {}) | arguments
    with refused(KeyError, named):
        getattr(rmve.pl, name)(model.adata, **arguments)
    plt.close("all")


def test_histories(untrained):
    with refused(ValueError, "train"):
        rmve.pl.history(untrained)
    with refused(KeyError, "train_loss"):
        rmve.pl.history({})


@table("arguments error named", *each("n_cells n_genes n_clusters n_batches", (0, -1, 2.5, "9")))
def test_toy_data(arguments, error, named):
    with refused(error, named):
        rmve.datasets.toy(**arguments)
