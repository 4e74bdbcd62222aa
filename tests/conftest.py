"""Small data with known clusters, models that are trained on them once, and comparisons of AnnData objects."""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import json
import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

# Before numba is imported: scanpy's kernels would reset the number of OpenMP threads, also of torch, to that of the
# cores, which makes training on shared cores ten times slower.
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
import torch.distributed as dist
from scvi import REGISTRY_KEYS, settings
from torch import Tensor

from rmve import RMVE
from rmve.clusters.initialization import nearest_neighbors
from rmve.clusters.levels import MergeTree
from rmve.likelihoods import LIKELIHOODS
from rmve.maths.repulsion import REPULSIONS
from rmve.module import RMVEModule

#: Cells, genes, components and latent dimensions of `make_module` and `make_batch`.
B, G, K, D = 12, 9, 3, 2
#: Sizes of the clusters of `make_cells`, as shares of the cells.
SHARES = (0.45, 0.33, 0.22)


@pytest.fixture(scope="session", autouse=True)
def quiet():
    """Leave out what the training loop says about devices and the end of a run."""
    names = ("lightning.pytorch", "lightning.fabric", "scvi")
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    yield
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.fixture(autouse=True)
def own_settings():
    """No test may leave a seed of scvi-tools behind, or a process group: the next one would train in it."""
    seed = settings.seed
    yield
    settings._seed = seed
    if dist.is_initialized():
        dist.destroy_process_group()
        pytest.fail("The test left a process group behind.")


@pytest.fixture(autouse=True)
def keeps_ctrl_c():
    """No test may leave another handler of Ctrl-C behind: the next one could not be interrupted."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in the background start with it ignored
    yield
    after = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, before)
    assert after is signal.default_int_handler


@pytest.fixture(scope="session")
def make_cells() -> Callable[..., ad.AnnData]:
    """Build counts of three cell types that ten-fold marker genes tell apart, with covariates and positions.

    The types are called "A", "B" and "C" from the largest to the smallest. Subtypes, three of each type, differ
    four-fold in 30 genes more.
    """

    def build(n_cells: int = 240, n_batches: int = 1, seed: int = 0, subtypes: bool = False) -> ad.AnnData:
        n_genes = 90 if subtypes else 60
        rng = np.random.default_rng(seed)
        n_types = len(SHARES)
        y = np.repeat(np.arange(n_types), np.round(np.array(SHARES) * n_cells).astype(int))[:n_cells]
        y = rng.permutation(np.pad(y, (0, n_cells - len(y))))
        profile = np.random.default_rng(99)  # the same genes for each seed: one data set's cells fit another's model
        rate = np.tile(profile.gamma(2.0, 0.5, size=n_genes), (n_types, 1))
        for k in range(n_types):
            rate[k, 20 * k : 20 * (k + 1)] *= 10.0
        rate = rate[y]
        if subtypes:
            subtype = rng.integers(3, size=n_cells)
            rate *= np.where(np.arange(n_genes) // 10 - 6 == subtype[:, None], 4.0, 1.0)
        batch = rng.integers(n_batches, size=n_cells)
        shift = np.exp(0.3 * profile.normal(size=(10, n_genes))) if n_batches > 1 else np.ones((1, n_genes))
        depth = np.exp(0.2 * rng.normal(size=(n_cells, 1)))
        counts = sp.csr_matrix(rng.poisson(rate * shift[batch] * depth).astype(np.float32))
        corner = np.array([[0.0, 0.0], [100.0, 0.0], [0.0, 50.0]])
        adata = ad.AnnData(
            X=counts,
            layers={"counts": counts.copy()},
            obs=pd.DataFrame(
                {
                    "cell_type": pd.Categorical(np.array(["A", "B", "C"])[y]),
                    "batch": pd.Categorical([f"batch {b}" for b in batch]),
                    "donor": pd.Categorical(np.where(rng.random(n_cells) < 0.5, "Ann", "Bob")),
                    "age": rng.normal(size=n_cells),
                    "size_factor": np.asarray(counts.sum(1)).ravel() / 10.0,
                },
                index=[f"cell {i}" for i in range(n_cells)],
            ),
            var=pd.DataFrame(index=[f"gene {j}" for j in range(n_genes)]),
            obsm={"spatial": corner[y] + rng.normal(size=(n_cells, 2))},
        )
        if subtypes:
            adata.obs["subtype"] = 3 * y + subtype
        return adata

    return build


@pytest.fixture
def mnist_cache(tmp_path, monkeypatch) -> Path:
    """Cache for downloads that has the MNIST digits in it; skips where there are none."""
    folder = Path(os.environ.get("RMVE_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    if not (folder / "mnist.npz").exists():
        pytest.skip("needs mnist.npz in the folder that RMVE_DATA names")
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "mnist.npz").symlink_to(folder / "mnist.npz")
    monkeypatch.setenv("RMVE_CACHE", str(cache))
    return cache


@pytest.fixture
def pbmc3k_cache(tmp_path) -> Path:
    """The folder for scanpy's downloads where `run_blocks` runs, with the cells of `sc.datasets.pbmc3k`; skips without."""
    source = Path(os.environ.get("RMVE_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")) / "pbmc3k.h5ad"
    if not source.exists():
        pytest.skip("needs pbmc3k.h5ad in the folder that RMVE_DATA names")
    cache = tmp_path / "data"
    cache.mkdir()
    (cache / "pbmc3k_raw.h5ad").symlink_to(source)
    return cache


@pytest.fixture
def atlas_cache(tmp_path, monkeypatch) -> Path:
    """Cache for downloads that has the atlases in it; skips where there are none."""
    folder = Path(os.environ.get("RMVE_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    cache = tmp_path / "cache"
    cache.mkdir()
    for name in ("hcl_profiles", "hca_heart_san_1000", "gut_scp1884_1020"):
        if not (folder / f"{name}.h5ad").exists():
            pytest.skip(f"needs {name}.h5ad in the folder that RMVE_DATA names")
        (cache / f"{name}.h5ad").symlink_to(folder / f"{name}.h5ad")
    monkeypatch.setenv("RMVE_CACHE", str(cache))
    return cache


@pytest.fixture
def cells(make_cells) -> ad.AnnData:
    """240 cells of three types, not set up yet."""
    return make_cells()


@pytest.fixture(scope="session")
def fit() -> Callable[..., RMVE]:
    """Set up data, build a small model and train it; unnamed options go to the model."""

    def run(
        adata: ad.AnnData,
        setup: dict | None = None,
        train: dict | None = None,
        epochs: int = 20,
        seed: int = 0,
        **options,
    ) -> RMVE:
        RMVE.setup_anndata(adata, **(setup or {}))
        options = {"n_components": 3, "n_latent": 5, "n_hidden": 32, "n_layers": 1} | options
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = RMVE(adata, **options)
            model.train(**({"max_epochs": epochs, "batch_size": 64, "enable_progress_bar": False} | (train or {})))
        return model

    return run


@pytest.fixture(scope="session")
def shared(make_cells, fit) -> RMVE:
    """A model trained on `make_cells()`; tests must leave it as it is."""
    return fit(make_cells(), {"layer": "counts"})


@pytest.fixture(scope="session")
def saved(shared, tmp_path_factory) -> Path:
    """Folder of the saved shared model, without data."""
    folder = tmp_path_factory.mktemp("models") / "shared"
    shared.save(folder)
    return folder


@pytest.fixture
def model(saved, cells) -> RMVE:
    """A trained model of its own for each test, on data of its own, which the test may change."""
    return RMVE.load(saved, adata=cells)


@pytest.fixture(scope="session")
def forge() -> Callable[..., None]:
    """Change the document of a saved model as a stranger may: with checksums that fit."""

    def change_document(folder: Path, change: Callable[[dict], object] = lambda document: None) -> None:
        path = folder / "model.json"
        document = json.loads(path.read_text())
        digests = document.pop("sha256")
        change(document)
        for name in digests.keys() - {"document"}:
            digests[name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        digests["document"] = hashlib.sha256(json.dumps(document, separators=(",", ":")).encode()).hexdigest()
        path.write_text(json.dumps({"sha256": digests, **document}))

    return change_document


@pytest.fixture
def malicious(tmp_path) -> tuple[object, Path]:
    """An object whose unpickling makes a file, and that file."""
    target = tmp_path / "executed"

    class Malicious:
        def __reduce__(self):
            return Path.touch, (target,)

    return Malicious(), target


@pytest.fixture(scope="session")
def batched(make_cells, fit) -> RMVE:
    """A model trained on two batches; tests must leave it as it is."""
    return fit(make_cells(n_batches=2), {"layer": "counts", "batch_key": "batch"}, epochs=60)


@pytest.fixture(scope="session")
def partly_labelled(make_cells, fit) -> RMVE:
    """A model that knows the labels of half of the types "A" and "B" and none of "C"; tests must leave it as it is."""
    adata = make_cells()
    hidden = (adata.obs["cell_type"] == "C") | (np.arange(adata.n_obs) % 2 == 0)
    adata.obs["label"] = pd.Categorical(np.where(hidden, "Unknown", adata.obs["cell_type"].astype(str)))
    return fit(adata, {"layer": "counts", "labels_key": "label"}, n_components=4)


@pytest.fixture(scope="session")
def overcomplete(make_cells, fit) -> RMVE:
    """A model with a component for each of nine subtypes of three types; tests must leave it as it is.

    It learns the subtypes that it starts from and no more, so that components stay apart.
    """
    adata = make_cells(subtypes=True)
    train = {"plan_kwargs": {"warmup_fraction": 1.0}, "start": adata.obs["subtype"]}
    return fit(adata, {"layer": "counts"}, n_components=9, train=train, epochs=60)


@pytest.fixture
def fixed_seed():
    """Run a test from the same state of torch's generator, and restore it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture
def make_module():
    """Build a small module in double precision, in evaluation mode, with parameters away from their start."""

    def build(likelihood: str = "nb", n_input: int = G, **options) -> RMVEModule:
        options = {"n_components": K, "n_latent": D, "n_hidden": 8, "n_layers": 1} | options
        module = RMVEModule(n_input, gene_likelihood=likelihood, **options).double()
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                if "offset" in name or name.startswith("mixture") or name == "log_dispersion":
                    parameter.add_(0.5 * torch.randn_like(parameter))
            module.target_sum.fill_(20.0)
        return module.eval()

    return build


@pytest.fixture
def make_batch():
    """Build a mini-batch that fits a likelihood."""

    def build(likelihood: str = "nb", n_cells: int = B, n_batch: int = 1) -> dict[str, Tensor]:
        x = torch.poisson(2.0 * torch.rand(n_cells, G, dtype=torch.float64)) + (torch.arange(G) == 0)
        if likelihood == "normal":
            x = torch.randn(n_cells, G, dtype=torch.float64)
        if likelihood == "bernoulli":
            x = (x > 1).double()
        return {REGISTRY_KEYS.X_KEY: x, REGISTRY_KEYS.BATCH_KEY: torch.arange(n_cells)[:, None] % n_batch}

    return build


@pytest.fixture
def run_module() -> Callable:
    """One pass of a mini-batch through a module."""

    def run(module: RMVEModule, tensors, estimator="exact", objective=None, with_distribution=False):
        return module(
            tensors,
            inference_kwargs={"estimator": estimator, "objective": objective},
            generative_kwargs={"with_distribution": with_distribution},
            loss_kwargs={"objective": objective},
        )

    return run


def _dense(x):
    return x.toarray() if sp.issparse(x) else np.asarray(x)


def _assert_same(before, after, where: str) -> None:
    assert type(before) is type(after), f"{where}: {type(before)} became {type(after)}"
    if isinstance(before, dict):
        assert list(before) == list(after), f"{where}: keys {list(before)} became {list(after)}"
        for key in before:
            _assert_same(before[key], after[key], f"{where}[{key!r}]")
    elif isinstance(before, pd.DataFrame):
        pd.testing.assert_frame_equal(before, after, check_exact=True, obj=where)
    elif isinstance(before, np.ndarray) or sp.issparse(before):
        assert before.dtype == after.dtype, where
        np.testing.assert_array_equal(_dense(before), _dense(after), err_msg=where)
    else:
        assert before == after, where


@pytest.fixture(scope="session")
def assert_same() -> Callable[..., None]:
    """Compare two values that AnnData holds, deeply and exactly, types included."""

    def compare(before, after) -> None:
        _assert_same(before, after, "value")

    return compare


@pytest.fixture(scope="session")
def contents() -> Callable[..., dict]:
    """Deep copy of all that an AnnData holds; names of scvi-tools (`_scvi_...`) are left out if asked for."""

    def take(adata: ad.AnnData, without_scvi: bool = False) -> dict:
        def own(mapping) -> dict:
            return {key: mapping[key] for key in mapping if not (without_scvi and str(key).startswith("_scvi"))}

        return copy.deepcopy(
            {
                "X": adata.X,
                "obs": adata.obs[list(own(adata.obs))],
                "var": adata.var,
                **{name: own(getattr(adata, name)) for name in ("layers", "obsm", "varm", "obsp", "varp", "uns")},
            }
        )

    return take


@pytest.fixture(scope="session")
def unchanged(contents) -> Callable[..., contextlib.AbstractContextManager]:
    """Context in which an AnnData must stay as it is; `without_scvi` allows what scvi-tools notes for itself."""

    @contextlib.contextmanager
    def guard(adata: ad.AnnData, without_scvi: bool = False) -> Iterator[None]:
        before = contents(adata, without_scvi)
        yield
        _assert_same(before, contents(adata, without_scvi), "adata")

    return guard


@pytest.fixture(scope="session")
def make_tree() -> Callable[..., MergeTree]:
    """Build a tree from merges ``(kept, merged, confusion)`` of all components that they name, or of one."""

    def build(merges: list[tuple], n_components: int, n_indistinct: int = 0) -> MergeTree:
        kept, merged, confusion = np.array(merges, dtype=float).reshape(-1, 3).T
        active = np.unique([*kept, *merged] or [0]).astype(int)
        apart = np.arange(len(kept)) / 2
        kept, merged = kept.astype(int), merged.astype(int)
        return MergeTree(n_components, active, kept, merged, confusion, apart, n_indistinct, 0.1 * apart, 10 * apart)

    return build


@pytest.fixture
def groups():
    """Points around five corners, the corner of each, and their neighbour graph."""
    rng = np.random.default_rng(0)
    truth = rng.integers(5, size=250)
    points = 10.0 * np.eye(5)[truth] + rng.normal(size=(250, 5))
    return points, truth, nearest_neighbors(points, 15, seed=0)


@pytest.fixture
def run_blocks(tmp_path, monkeypatch) -> Callable[..., dict[str, object]]:
    """Run blocks of code of a page, one after the other, with short training; returns the names they leave."""
    original = RMVE.train

    def run(blocks: list[str], name: str, n_epochs: int = 6) -> dict[str, object]:
        @functools.wraps(original)
        def train(self, *args, **options):
            short = {"max_epochs": min(options.get("max_epochs", n_epochs), n_epochs), "quiet": True}
            return original(self, *args, **(options | short))

        monkeypatch.setattr(RMVE, "train", train)
        monkeypatch.chdir(tmp_path)
        namespace: dict[str, object] = {"__name__": name}
        registries = [(registry, dict(registry)) for registry in (REPULSIONS, LIKELIHOODS)]
        seed = settings.seed
        try:
            with plt.rc_context(), torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                for block in blocks:
                    exec(compile(block, f"{name}: {block.splitlines()[0]}", "exec"), namespace)
        finally:
            for registry, content in registries:
                registry.clear()
                registry.update(content)
            settings.seed = seed
            plt.close("all")
        return namespace

    return run


@pytest.fixture
def double_precision_and_fixed_seed():
    """Run each test in double precision from the same state of the random generator, and restore both."""
    previous = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
    torch.set_default_dtype(previous)
