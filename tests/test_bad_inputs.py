"""Bad inputs, one by one: each is refused with its error, which names what is at fault, and changes no data.

The tables hold what is given, and the error to expect with a part of its message.
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
    assert named in message
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
    "four columns": lambda s: np.hstack([s, s]),
    "no column": lambda s: s[:, :0],
    "text": lambda s: s.astype(str),
    "an infinite entry": lambda s: edited(s, (4, 0), INF),
    "a row that is partly NaN": lambda s: edited(s, (4, 0), NAN),
    "two known positions": lambda s: edited(s, slice(2, None), NAN),
    "NaN only": lambda s: np.full_like(s, NAN),
    "three dimensions": lambda s: s[:, :, None],
}


def columns(role: str, kinds: dict, in_list: bool = False) -> list:
    """Rows of the set-up with a column of each kind in a role."""
    return [
        (f"{role} of {name}", column("odd", values), {role: ["odd"] if in_list else "odd"}, ValueError, "'odd'")
        for name, values in kinds.items()
    ]


# ------------------------------------------------------------------- setup_anndata

NO_ANNDATA = (None, "cells.h5ad", np.ones((3, 3)), pd.DataFrame({"gene": [1.0]}), sp.eye(3), [1, 2], {})


@pytest.mark.parametrize("other", NO_ANNDATA, ids=lambda other: type(other).__name__)
def test_no_anndata(other):
    with refused(TypeError, "`adata`"):
        RMVE.setup_anndata(other)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0)])
def test_empty_data(shape):
    with refused(ValueError, "empty"):
        RMVE.setup_anndata(ad.AnnData(np.zeros(shape, np.float32)))


def test_a_view(cells):
    with refused(ValueError, "adata.copy()"):
        RMVE.setup_anndata(cells[:9])


KEYS = "layer batch_key labels_key size_factor_key spatial_key neighbors_key"
LISTS = "categorical_covariate_keys continuous_covariate_keys"


@table(
    "arguments error named",
    *each(KEYS, ("nowhere",), KeyError, "`{}='nowhere'`"),
    *each(KEYS, (3, ["batch"], b"batch", True), TypeError),
    *each(LISTS, (["nowhere"],), KeyError, "'nowhere'"),
    *each(LISTS, ("age", 3, [3]), TypeError),
    *each(LISTS, (["age", "age"],), ValueError, "'age'"),
    *each("unlabeled_category", (None, True, ["Unknown"], NAN), TypeError, labels_key="cell_type"),
)
def test_arguments_of_the_set_up(arguments, error, named, cells, unchanged):
    with unchanged(cells), refused(error, named):
        RMVE.setup_anndata(cells, **arguments)


@table(
    "change arguments error named",
    ("gene names twice", lambda a: setattr(a, "var_names", ["g", "g", *a.var_names[2:]]), {}, ValueError, "var_names"),
    ("no X, no layer", lambda a: setattr(a, "X", None), {}, ValueError, "adata.X"),
    *(
        (f"{value}, dense={dense}", matrix(value, dense=dense), {}, ValueError, "adata.X")
        for value in (NAN, INF, -INF)
        for dense in (False, True)
    ),
    ("text", lambda a: setattr(a, "X", np.full(a.shape, "1", dtype=object)), {}, TypeError, "adata.X"),
    ("complex numbers", converted(complex), {}, TypeError, "adata.X"),
    *((kind, converted(kind), {}, TypeError, "astype('float32')") for kind in ("float16", ">f4", "longdouble")),
    ("NaN in a layer", matrix(NAN, layer="counts"), {"layer": "counts"}, ValueError, "adata.layers['counts']"),
    *columns("batch_key", MISSING | ODD),
    *columns("labels_key", MISSING | ODD | NO_LABELS),
    *columns("size_factor_key", NO_SIZE_FACTORS),
    *columns("continuous_covariate_keys", NO_COVARIATES, in_list=True),
    *columns("categorical_covariate_keys", ODD | {"NaN": ["f", NAN] * 120}, in_list=True),
    *(
        (f"positions: {name}", positions(change), {"spatial_key": "spatial"}, ValueError, "'spatial'")
        for name, change in NO_POSITIONS.items()
    ),
    *(
        (f"weights of {value}", graph("own", value), {"neighbors_key": "own"}, ValueError, "'own'")
        for value in (-1.0, NAN, INF, 0.0)
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
    *each("n_latent n_hidden n_layers", (0, -1, 1.5, "3", None, True, [2]), n_components=2),
    *each("n_components", (0, -3, 241, 10**9), ValueError, "`{}"),
    *each("n_components", (3.0, "3", "auto", True, [3], NAN), TypeError),
    *each("gene_likelihood posterior estimator repulsion", ("other", 3, ["nb"], True), n_components=2),
    *each("dropout_rate input_dropout", (-0.1, 1.0, 2, NAN, "0.1", [0.1], True), n_components=2),
    *each("encode_covariates", ("yes",), TypeError, n_components=2),
    *each("gene_likelihood", ("bernoulli",), ValueError, "adata.X"),  # of counts
)
def test_options_of_the_model(options, error, named, cells, unchanged):
    RMVE.setup_anndata(cells)
    with unchanged(cells), refused(error, named):
        RMVE(cells, **options)


COUNTS = ("nb", "zinb", "poisson")


@table(
    "likelihood change named",
    *((f"{name}: {value}", name, matrix(value), "adata.X") for name in COUNTS for value in (-2.0, 1.5)),
    *((f"{name}: a cell without counts", name, matrix(0, 3), "'cell 3'") for name in COUNTS),
    ("bernoulli: -0.5", "bernoulli", matrix(-0.5), "adata.X"),
)
def test_values_of_another_likelihood(likelihood, change, named, cells, unchanged):
    change(cells)
    RMVE.setup_anndata(cells)
    with unchanged(cells), refused(ValueError, named):
        RMVE(cells, gene_likelihood=likelihood)


@table(
    "give error named",
    ("not set up", lambda adata: adata.copy(), ValueError, "copy"),
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
    with refused(ValueError, "`n_components=2`"):
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
    np.zeros(239, dtype=int),
    np.zeros((240, 3), dtype=int),
    np.zeros(240),
    ["0"] * 240,
    np.full(240, 240),
    np.full(240, -1),
)


@table(
    "options error named",
    *each("max_epochs batch_size checkpoint_every", (0, -1, 1.5, "3", True, NAN)),
    *each("batch_size", (1,)),
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
    *each("limit_train_batches", (0, -1), ValueError, "`{}"),
    *each("accumulate_grad_batches check_val_every_n_epoch", (0,), ValueError, "`{}"),
    *each("gradient_clip_val", (-1,), ValueError, "`{}"),
    *each("fast_dev_run enable_checkpointing learning_rate_monitor resumed", (True,), ValueError, "`{}"),
    *each("overfit_batches num_sanity_val_steps datamodule", (3,), ValueError, "`{}"),
    *each("fit", ({},), ValueError, "`{}"),
    *each("ckpt_path", ("/nonexistent",), ValueError, "`{}"),
    *each("callbacks", (3, [3]), TypeError),
    *each("datasplitter_kwargs", ({"nonsense": 3},), TypeError, "nonsense"),
    *each("datasplitter_kwargs", ({"shuffle": 3},), TypeError, "shuffle"),
    *each("datasplitter_kwargs", (3,), TypeError),
    *each("plan_kwargs", (["lr"],), TypeError),
    *each("checkpoint_dir", (3,), TypeError),
    *(pytest.param({"start": start}, ValueError, "`start`", id=f"start {i}") for i, start in enumerate(STARTS)),
    *plan("view", (3,), TypeError),
    *plan("repulsoin", (3.0,), TypeError, "{}"),
    *plan("lr mixture_lr repulsion_weight neighbor_weight warmup_fraction", (-1.0, NAN, "high")),
    *plan("start_smoothing assignment_momentum kl_weight label_weight", (-1.0, NAN, "high")),
    *plan("estimator", ("mc",)),
    *plan("lr_schedule", ("cosine",)),
)
def test_options_of_training(options, error, named, untrained, unchanged):
    with unchanged(untrained.adata), refused(error, named):
        untrained.train(**({"max_epochs": 1} | options))


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
    with refused(ValueError, "two cells"):
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
    with unchanged(untrained.adata), refused(RuntimeError, "train"):
        getattr(untrained, method)()


@pytest.mark.parametrize("method", ["predict", "get_latent_representation", "annotate"])
@table(
    "give error named",
    ("a path", lambda a: "q.h5ad", TypeError, "`adata`"),
    ("fewer genes", lambda a: a[:, :9].copy(), ValueError, "genes"),
    ("another order", lambda a: a[:, ::-1].copy(), ValueError, "genes"),
    ("other genes", lambda a: setattr(a, "var_names", [f"x{i}" for i in range(60)]), ValueError, "genes"),
    ("no layer", lambda a: a.layers.__delitem__("counts"), KeyError, "`layer='counts'`"),
    *(
        (f"{value}", matrix(value, (0, 0), "counts"), ValueError, "adata.layers['counts']")
        for value in (NAN, -1.0, 0.5)
    ),
    ("a cell without counts", matrix(0, 0, "counts"), ValueError, "'cell 0'"),
    ("no cells", lambda a: a[:0].copy(), ValueError, "empty"),
)
def test_new_cells(method, give, error, named, model, query, unchanged):
    changed = give(query)
    given = query if changed is None else changed
    with unchanged(query), unchanged(model.adata), refused(error, named):
        getattr(model, method)(given)


def test_new_cells_of_an_unknown_batch_or_label(batched, partly_labelled, make_cells, query):
    with refused(ValueError, "'batch 2'"):
        batched.predict(make_cells(60, 3, 4))
    query.obs["label"] = "Z"
    with refused(ValueError, "'Z'"):
        partly_labelled.predict(query)
    del query.obs["batch"]
    with refused(KeyError, "`batch_key='batch'`"):
        batched.predict(query)


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
    for act in (
        lambda adata: RMVE.load(saved, adata=adata),
        lambda adata: RMVE.load_query_data(adata, model),
    ):
        fewer = query[:, :9].copy()
        with unchanged(fewer), refused(ValueError, "genes"):
            act(fewer)
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
