"""Bad inputs, one by one: what a user may give, where, and the error to expect.

Each case is tested in `test_bad_inputs.py`; `docs/bad_inputs.md` is the table of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

import rmve
from rmve import RMVE

NAN, INF = float("nan"), float("inf")


@dataclass
class World:
    """What a case may use: cells that are not set up, models on them, and an empty folder."""

    cells: ad.AnnData
    saved: Path
    labelled: RMVE
    batched: RMVE
    folder: Path
    make_cells: Callable[..., ad.AnnData]
    forge: Callable[..., None]

    @cached_property
    def untrained(self) -> RMVE:
        """A model of three components that was not trained."""
        RMVE.setup_anndata(self.cells)
        return RMVE(self.cells, n_components=3, n_latent=3, n_hidden=8, n_layers=1)

    @cached_property
    def model(self) -> RMVE:
        """A trained model of three components."""
        return RMVE.load(self.saved, adata=self.cells)

    @cached_property
    def query(self) -> ad.AnnData:
        """Other cells."""
        return self.make_cells(n_cells=30, seed=7)

    @cached_property
    def annotated(self) -> ad.AnnData:
        """Cells with the results of the trained model."""
        self.model.annotate()
        return self.cells


@dataclass(frozen=True)
class Case:
    """One bad input.

    ``named`` must be in the error's message: the argument, key or column at fault.
    """

    where: str
    given: str
    act: Callable[[World], object] = field(repr=False)
    error: type[Exception]
    named: str


CASES: list[Case] = []


def add(where: str, given: str, act: Callable[[World], object], error: type[Exception], named: str) -> None:
    """Put a case on the list."""
    CASES.append(Case(where, given, act, error, named))


def changed(adata: ad.AnnData, change: Callable[[ad.AnnData], object]) -> ad.AnnData:
    """The AnnData after a change, without traces of a set-up."""
    change(adata)
    return adata


def matrix(value, row=3, column=5, dense=False) -> Callable[[ad.AnnData], None]:
    """Change of one entry of ``X``."""

    def change(adata):
        x = adata.X.toarray()
        x[row, column] = value
        adata.X = x if dense else sp.csr_matrix(x)

    return change


def column(name, values) -> Callable[[ad.AnnData], None]:
    """Change of a column of ``obs``; a function gets the number of cells."""

    def change(adata):
        adata.obs[name] = values(adata.n_obs) if callable(values) else values

    return change


def place(change) -> Callable[[ad.AnnData], None]:
    """Change of the coordinates."""

    def act(adata):
        adata.obsm["spatial"] = change(np.array(adata.obsm["spatial"]))

    return act


def edited(array, index, value):
    """The array with some entries replaced."""
    array[index] = value
    return array


def graph(value) -> Callable[[ad.AnnData], None]:
    """Add a neighbour graph."""

    def change(adata):
        adata.obsp["own"] = sp.eye(adata.n_obs, k=1, format="csr") * value

    return change


# ----------------------------------------------------------------- setup_anndata


def setup(given, change, error, named, **arguments):
    add(
        "setup_anndata",
        given,
        lambda world: RMVE.setup_anndata(changed(world.cells, change or (lambda adata: None)), **arguments),
        error,
        named,
    )


for other in (None, "cells.h5ad", np.ones((3, 3)), pd.DataFrame({"gene": [1.0]}), sp.eye(3), [1, 2], {}):
    add(
        "setup_anndata",
        f"`adata` of type {type(other).__name__}",
        lambda world, other=other: RMVE.setup_anndata(other),
        TypeError,
        "`adata`",
    )
for shape in ((0, 5), (5, 0), (0, 0)):
    add(
        "setup_anndata",
        f"{shape[0]} cells x {shape[1]} genes",
        lambda world, shape=shape: RMVE.setup_anndata(ad.AnnData(np.zeros(shape, np.float32))),
        ValueError,
        "empty",
    )
add("setup_anndata", "a view", lambda world: RMVE.setup_anndata(world.cells[:9]), ValueError, "adata.copy()")
setup("gene names twice", lambda a: setattr(a, "var_names", ["g", "g", *a.var_names[2:]]), ValueError, "var_names")
setup("no `X`, no layer", lambda a: setattr(a, "X", None), ValueError, "adata.X")
for value in (NAN, INF, -INF):
    for dense in (False, True):
        kind = "dense" if dense else "sparse"
        setup(f"{value} in a {kind} matrix", matrix(value, dense=dense), ValueError, "adata.X")
setup("a matrix of text", lambda a: setattr(a, "X", np.full(a.shape, "1", dtype=object)), TypeError, "adata.X")
setup("complex numbers", lambda a: setattr(a, "X", a.X.toarray().astype(complex)), TypeError, "adata.X")
setup(
    "NaN in the layer",
    lambda a: a.layers.__setitem__("raw", np.full(a.shape, NAN)),
    ValueError,
    "adata.layers['raw']",
    layer="raw",
)

for role in ("layer", "batch_key", "labels_key", "size_factor_key", "spatial_key", "neighbors_key"):
    setup(f"`{role}` that does not exist", None, KeyError, f"`{role}='nowhere'`", **{role: "nowhere"})
    for wrong in (3, ["batch"], b"batch", True):
        setup(f"`{role}={wrong!r}`", None, TypeError, f"`{role}`", **{role: wrong})
for role in ("categorical_covariate_keys", "continuous_covariate_keys"):
    setup(f"`{role}` with an unknown column", None, KeyError, "'nowhere'", **{role: ["age", "nowhere"][-1:]})
    setup(f"`{role}` that is a string", None, TypeError, f"`{role}`", **{role: "age"})
    setup(f"`{role}` that is a number", None, TypeError, f"`{role}`", **{role: 3})
    setup(f"`{role}` with a number in it", None, TypeError, f"`{role}`", **{role: [3]})
    setup(f"`{role}` with a column twice", None, ValueError, "'age'", **{role: ["age", "age"]})
for wrong in (None, True, ["Unknown"]):
    setup(
        f"`unlabeled_category={wrong!r}`",
        None,
        TypeError,
        "`unlabeled_category`",
        labels_key="cell_type",
        unlabeled_category=wrong,
    )

for role, kind in (("batch_key", "batches"), ("labels_key", "labels")):
    for name, values in (
        ("None", lambda n: np.array(["a", None] * (n // 2), dtype=object)),
        ("NaN", lambda n: np.array([1.0, NAN] * (n // 2))),
        ("a missing category", lambda n: pd.Categorical(["a", None] * (n // 2))),
        ("pd.NA", lambda n: pd.array(["a", None] * (n // 2), dtype="string")),
    ):
        setup(f"{kind} with {name}", column("kind", values), ValueError, "'kind'", **{role: "kind"})
for name, values in (
    ("whole numbers", lambda n: np.arange(n) % 3),
    ("categories that are numbers", lambda n: pd.Categorical(np.arange(n) % 3)),
    ("truth values", lambda n: np.arange(n) % 2 == 0),
    ("strings and numbers", lambda n: np.array(["a", 1] * (n // 2), dtype=object)),
    ("dates", lambda n: pd.date_range("2026-01-01", periods=n)),
):
    setup(f"labels that are {name}", column("kind", values), ValueError, "'kind'", labels_key="kind")
for name, values in (
    ("zeros", np.zeros),
    ("negative numbers", lambda n: np.full(n, -1.0)),
    ("NaN", lambda n: np.r_[np.ones(n - 1), NAN]),
    ("infinity", lambda n: np.r_[np.ones(n - 1), INF]),
    ("text", "one"),
    ("categories", pd.Categorical([1.0, 2.0] * 120)),
):
    setup(f"size factors that are {name}", column("depth", values), ValueError, "'depth'", size_factor_key="depth")
for name, values in (
    ("NaN", lambda n: np.r_[np.ones(n - 1), NAN]),
    ("infinity", lambda n: np.r_[np.ones(n - 1), INF]),
    ("text", "old"),
    ("dates", lambda n: pd.date_range("2026-01-01", periods=n)),
    ("complex numbers", lambda n: np.ones(n, dtype=complex)),
):
    setup(f"a continuous covariate of {name}", column("c", values), ValueError, "'c'", continuous_covariate_keys=["c"])
setup(
    "a categorical covariate with NaN",
    column("c", ["f", NAN] * 120),
    ValueError,
    "'c'",
    categorical_covariate_keys=["c"],
)

for name, change in (
    ("four columns", lambda s: np.hstack([s, s])),
    ("no column", lambda s: s[:, :0]),
    ("text", lambda s: s.astype(str)),
    ("an infinite entry", lambda s: edited(s, (4, 0), INF)),
    ("a row that is partly NaN", lambda s: edited(s, (4, 0), NAN)),
    ("two known positions", lambda s: edited(s, slice(2, None), NAN)),
    ("NaN only", lambda s: np.full_like(s, NAN)),
    ("three dimensions", lambda s: s[:, :, None]),
):
    setup(f"coordinates with {name}", place(change), ValueError, "'spatial'", spatial_key="spatial")
for name, value in (("negative", -1.0), ("NaN", NAN), ("infinite", INF), ("zero", 0.0)):
    setup(f"a neighbour graph with {name} weights", graph(value), ValueError, "'own'", neighbors_key="own")

# ------------------------------------------------------------------------- model


#: Columns of categories that a file could not hold, or that have no order.
for given, values in (
    ("intervals of `pd.cut`", lambda n: pd.cut(np.arange(n), 3)),
    ("periods", lambda n: pd.period_range("2000", periods=n, freq="D")),
    ("dates", lambda n: pd.date_range("2000", periods=n)),
    ("bytes", lambda n: np.array([b"a", b"b"] * (n // 2), dtype=object)),
    ("text and numbers", lambda n: np.array(["a", 1] * (n // 2), dtype=object)),
    ("tuples", lambda n: pd.Series([("a", 1), ("b", 2)] * (n // 2)).to_numpy()),
):
    setup(f"a batch column of {given}", column("odd", values), ValueError, "'odd'", batch_key="odd")
    setup(f"a covariate of {given}", column("odd", values), ValueError, "'odd'", categorical_covariate_keys=["odd"])
    setup(f"labels of {given}", column("odd", values), ValueError, "'odd'", labels_key="odd")
setup("`unlabeled_category` NaN", None, TypeError, "unlabeled_category", labels_key="cell_type", unlabeled_category=NAN)
setup("size factors of 1e-310", column("tiny", 1e-310), ValueError, "'tiny'", size_factor_key="tiny")
for kind in ("float16", ">f4", "longdouble"):
    setup(
        f"a matrix of {kind}",
        lambda adata, kind=kind: setattr(adata, "X", adata.X.toarray().astype(kind)),
        TypeError,
        "astype('float32')",
    )
for name, kind in (("distances", "distances"), ("spatial_distances", "spatial_distances")):

    def distances(adata, kind=kind):
        adata.obsp[kind] = sp.eye(adata.n_obs, k=1, format="csr")

    setup(f"`neighbors_key={name!r}`", distances, ValueError, "distances", neighbors_key=name)


def named_distances(adata):
    adata.obsp["far"] = sp.eye(adata.n_obs, k=1, format="csr")
    adata.uns["own"] = {"connectivities_key": "near", "distances_key": "far"}


setup("distances by another name", named_distances, ValueError, "distances", neighbors_key="far")


def model(given, change, error, named, **options):
    def act(world):
        RMVE.setup_anndata(changed(world.cells, change or (lambda adata: None)))
        RMVE(world.cells, **options)

    add("RMVE", given, act, error, named)


for name in ("n_latent", "n_hidden", "n_layers"):
    for wrong in (0, -1, 1.5, "3", None, True, [2]):
        model(f"`{name}={wrong!r}`", None, ValueError, f"`{name}`", n_components=2, **{name: wrong})
for wrong in (0, -3, 241, 10**9):
    model(f"`n_components={wrong!r}`, of 240 cells", None, ValueError, "`n_components", n_components=wrong)
for wrong in (3.0, "3", "auto", True, [3], NAN):
    model(f"`n_components={wrong!r}`", None, TypeError, "`n_components`", n_components=wrong)
for name in ("gene_likelihood", "posterior", "estimator", "repulsion"):
    for wrong in ("other", 3, ["nb"], True):
        model(f"`{name}={wrong!r}`", None, ValueError, f"`{name}`", n_components=2, **{name: wrong})
for name in ("dropout_rate", "input_dropout"):
    for wrong in (-0.1, 1.0, 2, NAN, "0.1", [0.1], True):
        model(f"`{name}={wrong!r}`", None, ValueError, f"`{name}`", n_components=2, **{name: wrong})
model("`encode_covariates='yes'`", None, TypeError, "`encode_covariates`", n_components=2, encode_covariates="yes")
for likelihood in ("nb", "zinb", "poisson"):
    model(f"negative values for {likelihood!r}", matrix(-2.0), ValueError, "adata.X", gene_likelihood=likelihood)
    model(f"fractional values for {likelihood!r}", matrix(1.5), ValueError, "adata.X", gene_likelihood=likelihood)
    model(
        f"a cell without counts for {likelihood!r}",
        lambda a: setattr(a, "X", edited(a.X.toarray(), 3, 0)),
        ValueError,
        "'cell 3'",
        gene_likelihood=likelihood,
    )
model("counts for 'bernoulli'", None, ValueError, "adata.X", gene_likelihood="bernoulli")
model("negative values for 'bernoulli'", matrix(-0.5), ValueError, "adata.X", gene_likelihood="bernoulli")
add("RMVE", "data that is not set up", lambda world: RMVE(world.cells), ValueError, "RMVE.setup_anndata")


def on_a_copy(world):
    RMVE.setup_anndata(world.cells)
    RMVE(world.cells.copy())


add("RMVE", "a copy of data that was set up", on_a_copy, ValueError, "copy")
add("RMVE", "a view", lambda world: RMVE(world.untrained.adata[:9]), ValueError, "view")
add("RMVE", "a path", lambda world: RMVE("cells.h5ad"), TypeError, "`adata`")


def too_few_components(world):
    RMVE.setup_anndata(world.cells, labels_key="cell_type")
    RMVE(world.cells, n_components=2)


add("RMVE", "2 components for 3 labels", too_few_components, ValueError, "`n_components=2`")

# ------------------------------------------------------------------------- train


def train(given, error, named, **options):
    add("train", given, lambda world: world.untrained.train(**({"max_epochs": 1} | options)), error, named)


for name in ("max_epochs", "batch_size", "checkpoint_every"):
    for wrong in (0, -1, 1.5, "3", True, NAN):
        train(f"`{name}={wrong!r}`", ValueError, f"`{name}`", **{name: wrong})
train("`batch_size=1`", ValueError, "`batch_size`", batch_size=1)
for name in ("train_size", "validation_size"):
    for wrong in (-0.1, 1.5, NAN, "0.9", True):
        train(f"`{name}={wrong!r}`", ValueError, f"`{name}`", **{name: wrong})
train("`train_size=0`", ValueError, "`train_size`", train_size=0.0)
train("`train_size=0.9, validation_size=0.2`", ValueError, "`validation_size=0.2`", train_size=0.9, validation_size=0.2)
train("`train_size=0.001`: no cell", ValueError, "`train_size=0.001`", train_size=0.001)
train("`early_stopping` without validation cells", ValueError, "`early_stopping`", early_stopping=True, train_size=1.0)
train("`load_sparse_tensor=True`", ValueError, "`load_sparse_tensor`", load_sparse_tensor=True)
train("several devices", ValueError, "several devices", strategy="ddp_find_unused_parameters_true")
train("an unknown argument", TypeError, "epochs", epochs=3)
train("an unknown accelerator", ValueError, "accelerator", accelerator="abacus")
train("`accelerator='gpu'` where there is none", ValueError, "accelerator='gpu'", accelerator="gpu")
train("`devices=-7`", ValueError, "devices -7", accelerator="cpu", devices=-7)
for name, wrong in (
    ("limit_train_batches", 0),
    ("limit_train_batches", -1),
    ("accumulate_grad_batches", 0),
    ("check_val_every_n_epoch", 0),
    ("gradient_clip_val", -1),
    ("fast_dev_run", True),
    ("overfit_batches", 1),
    ("num_sanity_val_steps", 3),
    ("enable_checkpointing", True),
    ("learning_rate_monitor", True),
    ("datamodule", 3),
    ("resumed", True),
    ("fit", {}),
):
    train(f"`{name}={wrong!r}`", ValueError, f"`{name}", **{name: wrong})
train("`callbacks=3`", TypeError, "`callbacks`", callbacks=3)
train("`callbacks=[3]`", TypeError, "`callbacks`", callbacks=[3])
train("`ckpt_path`, whatever it names", ValueError, "`ckpt_path", ckpt_path="/nonexistent")
train("`datasplitter_kwargs={'nonsense': 3}`", TypeError, "nonsense", datasplitter_kwargs={"nonsense": 3})
train("`datasplitter_kwargs={'shuffle': 3}`", TypeError, "shuffle", datasplitter_kwargs={"shuffle": 3})
train("`datasplitter_kwargs=3`", TypeError, "`datasplitter_kwargs`", datasplitter_kwargs=3)
train("`plan_kwargs={'view': 3}`", TypeError, "`view`", plan_kwargs={"view": 3})
for name, start in (
    ("too few cells", np.zeros(239, dtype=int)),
    ("two dimensions", np.zeros((240, 3), dtype=int)),
    ("fractions", np.zeros(240)),
    ("text", ["0"] * 240),
    ("more components than cells", np.full(240, 240)),
    ("negative numbers", np.full(240, -1)),
):
    train(f"`start` with {name}", ValueError, "`start`", start=start)
train("`plan_kwargs` with an unknown name", TypeError, "repulsoin", plan_kwargs={"repulsoin": 3.0})
train("`plan_kwargs` that is a list", TypeError, "`plan_kwargs`", plan_kwargs=["lr"])
for name in (
    "lr",
    "mixture_lr",
    "repulsion_weight",
    "neighbor_weight",
    "warmup_fraction",
    "start_smoothing",
    "assignment_momentum",
    "kl_weight",
    "label_weight",
):
    for wrong in (-1.0, NAN, "high"):
        train(f"`plan_kwargs={{{name!r}: {wrong!r}}}`", ValueError, f"`{name}`", plan_kwargs={name: wrong})
for name, wrong in (("estimator", "mc"), ("lr_schedule", "cosine")):
    train(f"`plan_kwargs={{{name!r}: {wrong!r}}}`", ValueError, f"`{name}`", plan_kwargs={name: wrong})
train("`checkpoint_dir=3`", TypeError, "`checkpoint_dir`", checkpoint_dir=3)
add(
    "train",
    "`checkpoint_dir` with a model in it",
    lambda world: world.untrained.train(max_epochs=1, checkpoint_dir=world.saved),
    FileExistsError,
    "`checkpoint_dir`",
)
add(
    "train",
    "`checkpoint_dir` that is a file",
    lambda world: world.untrained.train(max_epochs=1, checkpoint_dir=world.saved / "model.json"),
    FileExistsError,
    "`checkpoint_dir`",
)
add(
    "train",
    "a model without data",
    lambda world: RMVE.load(world.saved, adata=False).train(),
    RuntimeError,
    "adata=adata",
)
add(
    "train",
    "`start` for a trained model",
    lambda world: world.model.train(start=np.zeros(240, dtype=int)),
    ValueError,
    "`start`",
)


def one_cell(world):
    adata = world.make_cells(n_cells=1)
    RMVE.setup_anndata(adata)
    RMVE(adata, n_components=1).train()


add("train", "one cell", one_cell, ValueError, "two cells")

# ----------------------------------------------------------------------- results

for name in (
    "predict",
    "annotate",
    "get_components",
    "get_merge_tree",
    "get_resolutions",
    "merge_components",
    "fit_spatial_map",
    "get_latent_representation",
    "get_elbo",
    "get_normalized_expression",
):
    add(
        name,
        "a model that is not trained",
        lambda world, name=name: getattr(world.untrained, name)(),
        RuntimeError,
        "train",
    )
for name in ("predict", "get_latent_representation", "annotate"):

    def new_cells(given, change, error, named, name=name):
        add(name, given, lambda world: getattr(world.model, name)(changed(world.query, change)), error, named)

    add(
        name,
        "new data that is a path",
        lambda world, name=name: getattr(world.model, name)("q.h5ad"),
        TypeError,
        "`adata`",
    )
    add(
        name,
        "new data with fewer genes",
        lambda world, name=name: getattr(world.model, name)(world.query[:, :9].copy()),
        ValueError,
        "genes",
    )
    add(
        name,
        "new data with its genes in another order",
        lambda world, name=name: getattr(world.model, name)(world.query[:, ::-1].copy()),
        ValueError,
        "genes",
    )
    new_cells(
        "new data with other genes",
        lambda a: setattr(a, "var_names", [f"x{i}" for i in range(60)]),
        ValueError,
        "genes",
    )
    new_cells("new data without the layer", lambda a: a.layers.__delitem__("counts"), KeyError, "`layer='counts'`")
    for kind, value in (("NaN", NAN), ("negative values", -1.0), ("fractional values", 0.5)):
        new_cells(
            f"new data with {kind}",
            lambda a, value=value: a.layers.__setitem__("counts", edited(a.layers["counts"].toarray(), (0, 0), value)),
            ValueError,
            "adata.layers['counts']",
        )
    new_cells(
        "a new cell without counts",
        lambda a: a.layers.__setitem__("counts", edited(a.layers["counts"].toarray(), 0, 0)),
        ValueError,
        "'cell 0'",
    )
    add(
        name,
        "an empty selection of cells",
        lambda world, name=name: getattr(world.model, name)(world.query[:0].copy()),
        ValueError,
        "empty",
    )
add(
    "predict",
    "a batch that was not trained on",
    lambda world: world.batched.predict(world.make_cells(60, 3, 4)),
    ValueError,
    "'batch 2'",
)
add(
    "predict",
    "new data without the batch column",
    lambda world: world.batched.predict(changed(world.query, lambda a: a.obs.drop(columns="batch", inplace=True))),
    KeyError,
    "`batch_key='batch'`",
)
add(
    "predict",
    "a label that was not trained on",
    lambda world: world.labelled.predict(changed(world.query, column("label", "Z"))),
    ValueError,
    "'Z'",
)
for wrong in ([240], [-241], [0.5], ["cell 1"], np.ones(3, dtype=bool), [[0, 1]], [], "all", 3):
    add(
        "predict",
        f"`indices={wrong if not isinstance(wrong, np.ndarray) else 'a mask of 3 cells'!r}`",
        lambda world, wrong=wrong: world.model.predict(indices=wrong),
        ValueError,
        "`indices`",
    )
for wrong in (0, -1, 2.5, "8"):
    add(
        "predict",
        f"`batch_size={wrong!r}`",
        lambda world, wrong=wrong: world.model.predict(batch_size=wrong),
        ValueError,
        "`batch_size`",
    )
for wrong in (0, -1, 1.5, "all", True, 99):
    add(
        "merge_components",
        f"`n_clusters={wrong!r}`",
        lambda world, wrong=wrong: world.model.merge_components(wrong),
        ValueError,
        "`n_clusters",
    )
for wrong in (3, None, ["a"]):
    add(
        "annotate",
        f"`key_added={wrong!r}`",
        lambda world, wrong=wrong: world.model.annotate(key_added=wrong),
        TypeError,
        "`key_added`",
    )
for wrong in ("", "a/b", "cell_type", "batch", "donor"):
    add(
        "annotate",
        f"`key_added={wrong!r}`",
        lambda world, wrong=wrong: world.model.annotate(key_added=wrong),
        ValueError,
        "`key_added",
    )
add("annotate", "a view", lambda world: world.model.annotate(world.query[:9]), ValueError, "view")
add("fit_spatial_map", "no coordinates", lambda world: world.model.fit_spatial_map(), ValueError, "`spatial_key`")
add(
    "fit_spatial_map",
    "a key that does not exist",
    lambda world: world.model.fit_spatial_map(spatial_key="xy"),
    KeyError,
    "'xy'",
)
add(
    "fit_spatial_map",
    "`kind='cubic'`",
    lambda world: world.model.fit_spatial_map(spatial_key="spatial", kind="cubic"),
    ValueError,
    "`kind`",
)
add("map_to_space", "no map yet", lambda world: world.model.map_to_space(), RuntimeError, "fit_spatial_map")
add(
    "differential_expression",
    "a column that does not exist",
    lambda world: world.model.differential_expression(groupby="kind"),
    KeyError,
    "'kind'",
)
add(
    "differential_expression",
    "a column with one group",
    lambda world: world.model.differential_expression(groupby="_scvi_labels"),
    ValueError,
    "one group",
)
add(
    "get_normalized_expression",
    "`weights='importance'`",
    lambda world: world.model.get_normalized_expression(n_samples_overall=9, weights="importance"),
    ValueError,
    "`weights",
)
for wrong in (1, 0, 2.5, "5"):
    add(
        "stability",
        f"`n_runs={wrong!r}`",
        lambda world, wrong=wrong: RMVE.stability(world.untrained.adata, n_runs=wrong),
        ValueError,
        "`n_runs`",
    )
add(
    "stability",
    "2 seeds for 3 runs",
    lambda world: RMVE.stability(world.untrained.adata, n_runs=3, seeds=[0, 1]),
    ValueError,
    "`seeds`",
)
add(
    "stability",
    "data that is not set up",
    lambda world: RMVE.stability(world.cells, n_runs=2),
    ValueError,
    "setup_anndata",
)

# ------------------------------------------------------------------- saved models

for wrong in ("../x_", "a/b", "/tmp/x", "..", "a\0b", "~/../x", "C:\\x"):
    add(
        "save",
        f"`prefix={wrong!r}`",
        lambda world, wrong=wrong: world.model.save(world.folder / "m", prefix=wrong),
        ValueError,
        "`prefix`",
    )
    add(
        "load",
        f"`prefix={wrong!r}`",
        lambda world, wrong=wrong: RMVE.load(world.saved, prefix=wrong),
        ValueError,
        "`prefix`",
    )
add("save", "`prefix=3`", lambda world: world.model.save(world.folder / "m", prefix=3), TypeError, "`prefix`")
add("save", "a folder that exists", lambda world: world.model.save(world.saved), FileExistsError, "`overwrite=True`")
add(
    "save",
    "a path that is a file",
    lambda world: world.model.save(world.saved / "model.pt", overwrite=True),
    FileExistsError,
    "`dir_path`",
)
add(
    "save",
    "data of a model without any",
    lambda world: RMVE.load(world.saved, adata=False).save(world.folder / "m", save_anndata=True),
    ValueError,
    "no data",
)
add(
    "load",
    "a folder that does not exist",
    lambda world: RMVE.load(world.folder / "nowhere"),
    FileNotFoundError,
    "nowhere",
)
add("load", "an empty folder", lambda world: RMVE.load(world.folder), FileNotFoundError, "model.json")
add(
    "load",
    "data with other genes",
    lambda world: RMVE.load(world.saved, adata=world.query[:, :9].copy()),
    ValueError,
    "genes",
)
add("load", "data that is a path", lambda world: RMVE.load(world.saved, adata="cells.h5ad"), TypeError, "`adata`")


def spoilt(name, change, forge=False):
    """Load a model after a change of one of its files; a forged one comes with checksums that fit."""

    def act(world):
        world.model.save(world.folder / "m")
        path = world.folder / "m" / name
        path.write_bytes(change(path.read_bytes()))
        if forge:
            world.forge(world.folder / "m")
        RMVE.load(world.folder / "m", adata=False)

    return act


def document(change):
    """Change of the JSON document of a model."""

    def act(content):
        parsed = json.loads(content)
        change(parsed)
        return json.dumps(parsed).encode()

    return act


for name in ("model.pt", "model.json"):
    add("load", f"`{name}` cut off", spoilt(name, lambda content: content[:100]), ValueError, "does not hold a model")
    add("load", f"`{name}` empty", spoilt(name, lambda content: b""), ValueError, "does not hold a model")
    add(
        "load",
        f"`{name}` of random bytes",
        spoilt(name, lambda content: bytes(range(256))),
        ValueError,
        "does not hold a model",
    )
for given, change in (
    ("without a registry", lambda d: d.pop("registry")),
    ("without options", lambda d: d.pop("init_params")),
    ("with an unknown option", lambda d: d["init_params"].update(n_latnet=3)),
    ("with a negative size", lambda d: d["init_params"].update(n_latent=-4)),
    ("with options that are text", lambda d: d.update(init_params="none")),
    ("without a merge tree", lambda d: d.pop("merge_tree")),
    ("with a merge tree that is text", lambda d: d.update(merge_tree="tree")),
    ("with a merge that cannot be", lambda d: d["merge_tree"].update(n_indistinct=-1)),
    ("with a merge tree of another model", lambda d: d["merge_tree"].update(n_components=1000)),
    ("with clusters that do not fit", lambda d: d["clusters"].update(of_component=[0])),
    (
        "with an array of an unknown type",
        lambda d: d["attributes"].update(train_indices_={"__rmve__": "array", "dtype": "os.system", "data": [1]}),
    ),
):
    add(
        "load",
        f"`model.json` {given}",
        spoilt("model.json", document(change), forge=True),
        ValueError,
        "does not hold a model",
    )
add(
    "load",
    "`model.json` of a model of another class",
    spoilt("model.json", document(lambda d: d["registry"].update(model_name="SCVI")), forge=True),
    ValueError,
    "SCVI",
)
add(
    "load_query_data",
    "new data with other genes",
    lambda world: RMVE.load_query_data(world.query[:, :9].copy(), world.model),
    ValueError,
    "genes",
)
add(
    "load_query_data",
    "a folder that does not exist",
    lambda world: RMVE.load_query_data(world.query, world.folder / "x"),
    FileNotFoundError,
    "x",
)
add(
    "load_query_data",
    "a model that is not trained",
    lambda world: RMVE.load_query_data(world.query, world.untrained),
    RuntimeError,
    "train",
)
add(
    "resume",
    "a folder without a run",
    lambda world: RMVE.resume(world.folder, world.cells),
    FileNotFoundError,
    "checkpoint_dir",
)

# ----------------------------------------------------------------------- figures

for name in ("embedding", "components", "confidence", "merge_tree"):
    add(
        f"pl.{name}",
        "data without results",
        lambda world, name=name: getattr(rmve.pl, name)(world.cells),
        KeyError,
        "model.annotate",
    )
    add(
        f"pl.{name}",
        "a key that does not exist",
        lambda world, name=name: getattr(rmve.pl, name)(world.annotated, key="mine"),
        KeyError,
        "'mine'",
    )
add(
    "pl.confusion",
    "data without results",
    lambda world: rmve.pl.confusion(world.cells, "cell_type"),
    KeyError,
    "model.annotate",
)
add(
    "pl.confusion",
    "a column that does not exist",
    lambda world: rmve.pl.confusion(world.annotated, "kind"),
    KeyError,
    "'kind'",
)
add(
    "pl.embedding",
    "a colour that does not exist",
    lambda world: rmve.pl.embedding(world.annotated, color="kind"),
    KeyError,
    "'kind'",
)
add(
    "pl.embedding",
    "a basis that does not exist",
    lambda world: rmve.pl.embedding(world.annotated, basis="X_tsne"),
    KeyError,
    "'X_tsne'",
)
add("pl.history", "a model that is not trained", lambda world: rmve.pl.history(world.untrained), ValueError, "train")
add("pl.history", "a history without a loss", lambda world: rmve.pl.history({}), KeyError, "train_loss")
for name in ("n_cells", "n_genes", "n_clusters", "n_batches"):
    for wrong in (0, -1, 2.5, "9"):
        add(
            "datasets.toy",
            f"`{name}={wrong!r}`",
            lambda world, name=name, wrong=wrong: rmve.datasets.toy(**{name: wrong}),
            ValueError,
            f"`{name}`",
        )

_PLACES = list(dict.fromkeys(case.where for case in CASES))
CASES.sort(key=lambda case: _PLACES.index(case.where))
