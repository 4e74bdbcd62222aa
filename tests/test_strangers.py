"""Models and runs that were damaged, or made by a stranger: an error that says so, nothing executed, nothing decided."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from scvi.model.base import UnsupervisedTrainingMixin

from rmve import RMVE
from rmve.training._callbacks import TRAINER_FILE

QUICK = {"max_epochs": 4, "batch_size": 64, "enable_progress_bar": False}
NOT_A_MODEL = "does not hold a model saved by `RMVE.save`"


class Stop(Callback):
    """Ends a run in its third epoch, as Ctrl-C does."""

    def on_train_batch_start(self, trainer, plan, batch, batch_idx):
        if trainer.global_step == 9:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def a_run(make_cells, tmp_path_factory) -> Path:
    """Folder of a run that was stopped in its third epoch."""
    adata, folder = make_cells(), tmp_path_factory.mktemp("runs") / "run"
    RMVE.setup_anndata(adata, layer="counts", spatial_key="spatial")
    model = RMVE(adata, n_components=3, n_latent=4, n_hidden=16, n_layers=1)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        model.train(checkpoint_dir=folder, callbacks=[Stop()], **QUICK)
    return folder


@pytest.fixture
def run(a_run, tmp_path) -> Path:
    """A copy of it that a test may spoil."""
    return Path(shutil.copytree(a_run, tmp_path / "run"))


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    """A copy of a saved model that a test may spoil."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


def positions_of(content: bytes, number: int) -> np.ndarray:
    return np.random.default_rng(0).integers(len(content), size=number)


def same_text(one: bytes, other: bytes) -> bool:
    try:
        return json.loads(one) == json.loads(other)
    except ValueError:
        return False


def check_flips(path: Path, read: Callable[[], object], number: int) -> None:
    """Flip one bit at a time at random places of a file: each reading fails with an error of RMVE."""
    content = path.read_bytes()
    for position in positions_of(content, number):
        changed = bytearray(content)
        changed[position] ^= 1 << int(position) % 8
        path.write_bytes(changed)
        if path.suffix == ".json" and same_text(changed, content):  # only its layout was changed
            read()
        else:
            with pytest.raises(ValueError, match=NOT_A_MODEL):
                read()
    path.write_bytes(content)
    read()


@pytest.mark.parametrize("name", ["model.pt", "model.json"])
@pytest.mark.parametrize("number", [40, pytest.param(2000, marks=pytest.mark.slow)])
def test_a_changed_bit_of_a_model(folder, name, number):
    """It is seen on loading."""
    check_flips(folder / name, lambda: RMVE.load(folder, adata=False), number)


@pytest.mark.parametrize("name", ["run.pt", f"epoch_2/{TRAINER_FILE}", "epoch_2/model.pt", "epoch_2/model.json"])
@pytest.mark.parametrize("number", [6, pytest.param(300, marks=pytest.mark.slow)])
def test_a_changed_bit_of_a_run(run, cells, name, number, monkeypatch):
    """It is seen before the run goes on."""

    def begin(*args, **kwargs):
        raise InterruptedError

    def resume():
        with contextlib.suppress(InterruptedError):
            RMVE.resume(run, cells.copy())

    monkeypatch.setattr(UnsupervisedTrainingMixin, "train", begin)
    check_flips(run / name, resume, number)


@pytest.mark.parametrize("change", [lambda content: content[:-9], lambda content: content + b"x", lambda content: b""])
@pytest.mark.parametrize("name", ["model.pt", "model.json"])
def test_lengths(folder, name, change):
    """Files that are too short, too long or empty are refused, on loading, on reading the set-up and in queries."""
    (folder / name).write_bytes(change((folder / name).read_bytes()))
    for read in (
        lambda: RMVE.load(folder, adata=False),
        lambda: RMVE.load_registry(folder),
        lambda: RMVE.load_query_data(ad.AnnData(np.ones((3, 60))), folder),
    ):
        with pytest.raises(ValueError, match=NOT_A_MODEL):
            read()


def test_a_model_of_two_saves(shared, batched, tmp_path):
    """Weights of one model and the document of another are never taken for a model."""
    shared.save(tmp_path / "a")
    batched.save(tmp_path / "b")
    shutil.copy(tmp_path / "a" / "model.pt", tmp_path / "b" / "model.pt")
    with pytest.raises(ValueError, match="'model.pt' was changed, or belongs to another 'model.json'"):
        RMVE.load(tmp_path / "b", adata=False)


def test_data_saved_with_the_model(shared, tmp_path):
    """Data that was changed since is not taken for the model's; a model saved anew without data has none."""
    shared.save(tmp_path / "m", save_anndata=True)
    path = tmp_path / "m" / "adata.h5ad"
    content = path.read_bytes()
    path.write_bytes(content[:5000] + b"!" + content[5001:])
    with pytest.raises(ValueError, match="'adata.h5ad'.*was changed since it was saved.*`adata=False`"):
        RMVE.load(tmp_path / "m")
    assert RMVE.load(tmp_path / "m", adata=False).adata is None
    shared.save(tmp_path / "m", overwrite=True)
    assert RMVE.load(tmp_path / "m").adata is None
    shared.save(tmp_path / "m", overwrite=True, save_anndata=True)
    assert RMVE.load(tmp_path / "m").adata.n_obs == 240


def test_data_that_cannot_be_written(shared, tmp_path, monkeypatch):
    """The model and the data that were there stay."""
    shared.save(tmp_path / "m", save_anndata=True)
    before = {path.name: path.read_bytes() for path in (tmp_path / "m").iterdir()}

    monkeypatch.setitem(shared.adata.uns, "odd", object())  # anndata writes it last, and cannot
    with pytest.raises(Exception, match="No method registered for writing"):
        shared.save(tmp_path / "m", overwrite=True, save_anndata=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "m").iterdir()} == before


def test_no_advice_to_execute(folder, run, cells):
    """The error does not tell how to run what a file holds."""
    for path, read in (
        (folder / "model.pt", lambda: RMVE.load(folder, adata=False)),
        (run / "run.pt", lambda: RMVE.resume(run, cells)),
    ):
        path.write_bytes(b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00trueR.")
        with pytest.raises(ValueError, match=NOT_A_MODEL) as caught:
            read()
        assert "weights_only" not in str(caught.value)


# ----------------------------------------------------- documents with checksums that fit


def put(*keys, value) -> Callable[[dict], None]:
    """Replace one entry of a document."""

    def change(document: dict) -> None:
        for key in keys[:-1]:
            document = document[key]
        document[keys[-1]] = value

    return change


FIELDS = ("registry", "field_registries")
ARRAY = {"__rmve__": "array", "dtype": "float64", "data": [[1.0, 2.0]]}
FORGED = [
    put("spatial_map", value={}),
    put("spatial_map", value="x"),
    put("spatial_map", value={"kind": "linear", "coef_": ARRAY}),
    put("attributes", "var_names_", value=3),
    put("attributes", "var_names_", value=["gene 1"] * 60),
    put("attributes", "var_names_", value=[]),
    put("attributes", "is_trained_", value="x"),
    put("attributes", "is_query_", value=None),
    put("attributes", "history_", value="x"),
    put("attributes", "history_", value={"train_loss": [1, 2]}),
    put("attributes", "train_indices_", value="x"),
    put("attributes", "train_indices_", value=ARRAY),
    put("attributes", "train_indices_", value={"__rmve__": "array", "dtype": "int64", "data": [-5]}),
    put("clusters", "names", value=["a", "a", "b"]),
    put("clusters", "names", value=[None, "a", "b"]),
    put("clusters", "names", value=[1, 2, 3]),
    put("clusters", "of_component", value=[0.0, 1.0, 2.0]),
    put("clusters", "of_component", value=[0, 1, 7]),
    put("clusters", "of_component", value=[0, 1]),
    put("clusters", "of_component", value=[True, 1, 2]),
    put("clusters", value=3),
    put("held_out", value=[1, 2]),
    put("held_out", value={"names": ["a"], "cells": [], "learned": ""}),
    put("attributes", value=[]),
    put("init_params", "n_components", value=10**9),
    put("init_params", "n_hidden", value=10**7),
    put("init_params", "n_layers", value=10**7),
    put("init_params", "n_layers", value=2),
    put("init_params", "n_latent", value=4),
    put("init_params", "gene_likelihood", value="cauchy"),
    put("init_params", "registry", value={}),
    put("init_params", "adata", value=3),
    put(*FIELDS, value={}),
    put(*FIELDS, value=[]),
    put(*FIELDS, "X", value=None),
    put(*FIELDS, "X", "summary_stats", "n_vars", value=10**9),
    put(*FIELDS, "batch", "summary_stats", "n_batch", value=10**9),
    put(*FIELDS, "batch", "summary_stats", "n_batch", value="many"),
    put(*FIELDS, "extra_categorical_covs", "state_registry", value={"n_cats_per_key": [10**9]}),
    put("registry", "setup_args", value={"layer": None, "allow_pickle": True}),
    put("registry", "setup_args", value=None),
    put("registry", "model_name", value=3),
    put("registry", value=None),
]


@pytest.mark.parametrize("number", range(len(FORGED)))
def test_forged_documents(folder, forge, number):
    """What a field holds is checked before it is used, sizes before memory is taken."""
    forge(folder, FORGED[number])
    with pytest.raises(ValueError, match=NOT_A_MODEL):
        RMVE.load(folder, adata=False)


@pytest.mark.parametrize(
    "change",
    [
        lambda state: {name: value * torch.nan for name, value in state.items()},
        lambda state: state | {"mixture.mean": torch.full_like(state["mixture.mean"], torch.inf)},
        lambda state: state | {"mixture.mean": state["mixture.mean"].long()},
        lambda state: state | {"mixture.mean": state["mixture.mean"].to_sparse()},
        lambda state: state | {"mixture.mean": state["mixture.mean"][:, :2]},
        lambda state: state | {"other": torch.zeros(3)},
        lambda state: {name: value for name, value in state.items() if name != "mixture.mean"},
        lambda state: state | {3: torch.zeros(3)},
        lambda state: state | {"mixture.mean": 3.0},
        lambda state: list(state.values()),
    ],
)
def test_forged_weights(folder, forge, change):
    """Weights are finite tensors of the network's names, shapes and types."""
    torch.save(change(torch.load(folder / "model.pt", weights_only=True)), folder / "model.pt")
    forge(folder)
    with pytest.raises(ValueError, match=NOT_A_MODEL):
        RMVE.load(folder, adata=False)


def test_forged_map(run, forge):
    """The arrays of a map to space fit each other and the model."""
    folder = run / "epoch_2"
    arrays = {"a": 2, "d": 4, "k": RMVE.load(folder, adata=False).module.n_components}
    shapes = {"coef_": "ad", "intercept_": "a", "mean_": "d", "leverage_": "dd", "slope_": "a", "residual_sd_": "a"}
    shapes |= {"r2_": "a", "cluster_sd_": "ka", "cluster_coef_": "kad", "cluster_intercept_": "ka"}

    def array(shape: tuple[int, ...]) -> dict:
        return {"__rmve__": "array", "dtype": "float64", "data": np.ones(shape).tolist()}

    smap = {name: array(tuple(arrays[axis] for axis in axes)) for name, axes in shapes.items()}
    smap |= dict.fromkeys(
        ("error_", "error_fraction_", "distance_correlation_", "p_value_", "n_judged_", "n_cells_"), 1
    )
    smap["kind"] = "by_cluster"
    forge(folder, put("spatial_map", value=smap))
    assert RMVE.load(folder, adata=False).spatial_map_.kind == "by_cluster"
    for wrong in (
        {"coef_": array((2, 5))},
        {"mean_": array((4, 4))},
        {"cluster_coef_": array((0,))},
        {"leverage_": 3.0},
        {"kind": "other"},
        {"error_": "x"},
        {"intercept_": {"__rmve__": "array", "dtype": "float64", "data": [float("nan"), 1.0]}},
    ):
        forge(folder, put("spatial_map", value=smap | wrong))
        with pytest.raises(ValueError, match=f"{NOT_A_MODEL}.*spatial map"):
            RMVE.load(folder, adata=False)


# ------------------------------------------------------------------------- runs


def forge_run(run: Path, forge, change: Callable[[dict, dict], object]) -> None:
    """Change a run as a stranger may: with a checkpoint that knows its new checksum."""
    import hashlib

    content = torch.load(run / "run.pt", weights_only=True)
    document = json.loads(content["document"])
    change(document, content)
    content["document"] = json.dumps(document)
    torch.save(content, run / "run.pt")
    forge(run / "epoch_2", put("run", value=hashlib.sha256((run / "run.pt").read_bytes()).hexdigest()))


def test_forging_works(run, forge, cells):
    """A run whose options are changed to others that `train` takes goes on: the other tests test what they say."""
    forge_run(run, forge, lambda document, content: document["options"].update(gradient_clip_val=5.0))
    assert RMVE.resume(run, cells, quiet=True).trainer.gradient_clip_val == 5.0


@pytest.mark.parametrize(
    "options",
    [
        {"logger": True},
        {"default_root_dir": "elsewhere"},
        {"strategy": "ddp"},
        {"num_nodes": 2},
        {"devices": 7},
        {"plugins": []},
        {"callbacks": []},
        {"ckpt_path": "x"},
        {"profiler": "simple"},
        {"log_save_dir": "elsewhere"},
        {"fast_dev_run": True},
        {"datamodule": None},
        {"max_epochs": -1},
        {"max_epochs": 2.5},
        {"batch_size": 0},
        {"checkpoint_every": 0},
        {"limit_train_batches": 0},
        {"gradient_clip_val": -1},
        {"precision": "16-mixed"},
        {"plan_kwargs": {"lr": -1}},
        {"plan_kwargs": {"nonsense": 1}},
        {"plan_kwargs": 3},
        {"datasplitter_kwargs": {"as_counts": True, "num_workers": 10**6}},
        {"datasplitter_kwargs": {}},
        {"early_stopping": "yes"},
    ],
    ids=str,
)
def test_a_run_decides_nothing_but_known_options(run, forge, cells, options, tmp_path, monkeypatch):
    """Options that `train` would refuse, and those of a machine, are refused; no file is written elsewhere."""
    forge_run(run, forge, lambda document, content: document["options"].update(options))
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=NOT_A_MODEL):
        RMVE.resume(run, cells, quiet=True)
    assert set(tmp_path.rglob("*")) == before


def change_graph(part: int, value: int) -> Callable[[dict, dict], None]:
    def change(document, content):
        content["data"]["graph"][part][3] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        change_graph(1, 10**8),
        change_graph(1, -1),
        change_graph(2, 10**8),
        change_graph(2, -1),
        lambda document, content: content["data"].update(start=content["data"]["start"][:9]),
        lambda document, content: content["data"].update(start=content["data"]["start"] * torch.nan),
        lambda document, content: content["data"].update(labelled=torch.zeros(9, dtype=torch.bool)),
        lambda document, content: content["data"].update(positions=torch.zeros(9, 2)),
        lambda document, content: content["data"].update(held_out=None),
        lambda document, content: content["data"].update(extra=None),
        lambda document, content: content["split"].pop(),
        lambda document, content: content["split"][0].fill_(0),
        lambda document, content: content["split"][0].add_(1),
        lambda document, content: document.pop("cells"),
        lambda document, content: document.update(functions=3),
        lambda document, content: document.update(n_processes=-1),
        lambda document, content: content.pop("data"),
    ],
)
def test_arrays_of_a_run(run, forge, cells, change):
    """Rows that do not exist and arrays that do not fit are refused before they are used."""
    forge_run(run, forge, change)
    with pytest.raises(ValueError, match=f"{NOT_A_MODEL}|does not hold the cells"):
        RMVE.resume(run, cells, quiet=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.clear(),
        lambda state: state.update({"pytorch-lightning_version": "0.0.1"}),
        lambda state: state.pop("rng"),
        lambda state: state["rng"].update(cpu=torch.zeros(3)),
        lambda state: state["rng"].update(others=[{"cpu": torch.get_rng_state()}], order=torch.get_rng_state()),
        lambda state: state["rng"].update(others=3),
        lambda state: state["rng"].update(order=torch.zeros(3)),
        lambda state: state["state_dict"].clear(),
        lambda state: state.update(assignment=torch.zeros(3, 3)),
    ],
)
def test_state_of_the_trainer(run, forge, cells, change):
    """A state that lacks something, or that another version wrote, is refused."""
    path = run / "epoch_2" / TRAINER_FILE
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)
    forge(run / "epoch_2")
    with pytest.raises(ValueError, match=NOT_A_MODEL):
        RMVE.resume(run, cells, quiet=True)


def test_the_state_is_read_once(run, cells, tmp_path, monkeypatch, malicious):
    """What was checked is what is used, also where the environment has torch execute what files hold."""
    harmful, target = malicious
    train, path = UnsupervisedTrainingMixin.train, run / "epoch_2" / TRAINER_FILE

    def swap_and_train(self, *args, **kwargs):
        torch.save({"state_dict": harmful}, path)  # another process, after the check
        train(self, *args, **kwargs)

    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    shutil.copytree(run, tmp_path / "other")
    torch.save({"state_dict": harmful}, tmp_path / "other" / "epoch_2" / TRAINER_FILE)
    with pytest.raises(ValueError, match=NOT_A_MODEL):
        RMVE.resume(tmp_path / "other", cells.copy(), quiet=True)
    monkeypatch.setattr(UnsupervisedTrainingMixin, "train", swap_and_train)
    assert RMVE.resume(run, cells, quiet=True).is_trained
    assert not target.exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda adata: adata.layers.update(counts=adata.layers["counts"] * 2),
        lambda adata: adata.layers["counts"].data.__setitem__(5, 77.0),
        lambda adata: adata.obsm["spatial"].__setitem__((3, 0), 7.0),
    ],
    ids=["all values", "one value", "a position"],
)
def test_other_data_of_the_same_names(run, cells, change):
    """A run goes on with its own values, not only with cells of the same names."""
    change(cells)
    with pytest.raises(ValueError, match="does not hold the cells of the run.*with the same values"):
        RMVE.resume(run, cells)


def test_names_are_not_joined(run, cells):
    """Names with line breaks in them are not taken for others."""
    cells.obs_names = pd.Index(["cell 0\ncell 1", "x", *cells.obs_names[2:]])
    with pytest.raises(ValueError, match="does not hold the cells of the run"):
        RMVE.resume(run, cells)


def test_the_same_data_in_another_storage(run, cells):
    """Dense or sparse, it is the data of the run."""
    cells.layers["counts"] = cells.layers["counts"].toarray()
    assert RMVE.resume(run, cells, quiet=True).is_trained


@pytest.mark.parametrize("name", ["epoch_9", "epoch_03", "epoch_\u0663", "epoch_-1", "epoch_x"])
@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_odd_names_in_the_folder(run, cells, name, kind):
    """What is only called like a checkpoint does not keep a run from going on, and is left alone."""
    if kind == "file":
        (run / name).write_text("mine")
    elif kind == "folder":
        (run / name).mkdir()
    else:
        (run.parent / "mine").mkdir()
        (run / name).symlink_to(run.parent / "mine")
    assert RMVE.resume(run, cells, quiet=True).is_trained
    assert {path.name for path in run.iterdir()} == {"model.pt", "model.json", name}


@pytest.mark.parametrize("digest", ["../../victim", "/etc/passwd", 3, None, "0" * 64])
def test_a_digest_that_leads_elsewhere(folder, digest, monkeypatch):
    """What stands in a document for a checksum names no file."""
    path = folder / "model.json"
    document = json.loads(path.read_text())
    document["sha256"]["model.pt"] = digest
    path.write_text(json.dumps(document))
    opened, read = [], Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: (opened.append(self), read(self))[1])
    with pytest.raises(ValueError, match="'model.pt' was changed"):
        RMVE.load(folder, adata=False)
    assert {path.resolve().parent for path in opened} == {folder.resolve()}
    document["sha256"]["adata.h5ad"] = digest or 3
    path.write_text(json.dumps(document))
    with pytest.raises((ValueError, FileNotFoundError)):  # the same of the data
        RMVE.load(folder)
