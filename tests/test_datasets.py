"""Simulated cells do what their options say, and the recovered counts are counts."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import io
import os
import signal
import sys
import threading
import types
from dataclasses import replace
from functools import partial

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import requests
import scanpy as sc
import scipy.sparse as sp
import xarray as xr
from sklearn.metrics import silhouette_score

from rmve import _atlases, datasets
from rmve.body import organ_positions
from rmve.data import download


def test_same_seed_same_cells(assert_same, contents):
    """A seed fixes all that is drawn; another one draws other cells."""
    options = {"n_cells": 50, "n_genes": 20, "n_clusters": 3, "n_batches": 2}
    one, two, other = (datasets.simulate(**options, seed=seed) for seed in (1, 1, 2))
    assert_same(contents(one), contents(two))
    assert (one.X != other.X).nnz > 0


def test_global_generators_are_left_alone():
    """Drawing cells does not move NumPy's global generator."""
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    datasets.simulate(n_cells=20, n_genes=10)
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.parametrize("depth", [2.0, 300.0])
def test_counts(depth):
    """The matrix holds whole numbers around the depth asked for, and no cell is empty, however shallow."""
    adata = datasets.simulate(n_cells=400, n_genes=50, depth=depth)
    assert adata.shape == (400, 50)
    assert sp.issparse(adata.X)
    assert (adata.X.data == np.round(adata.X.data)).all()
    assert adata.X.min() >= 0
    totals = np.asarray(adata.X.sum(1)).ravel()
    assert totals.min() >= 1
    assert np.median(totals) == pytest.approx(depth, rel=0.25)
    assert (adata.X != adata.layers["counts"]).nnz == 0
    assert not np.shares_memory(adata.X.data, adata.layers["counts"].data)


def test_imbalance():
    """Weights fall exponentially, sum to one, and the cells follow them."""
    adata = datasets.simulate(n_cells=4000, n_genes=5, n_clusters=4, imbalance=0.7)
    weights = adata.uns["simulation"]["weights"]
    np.testing.assert_allclose(weights[1:] / weights[:-1], np.exp(-0.7))
    assert weights.sum() == pytest.approx(1)
    shares = adata.obs["cell_type"].value_counts(normalize=True, sort=False)
    np.testing.assert_allclose(shares[[f"type {k}" for k in range(4)]], weights, atol=0.03)
    balanced = datasets.simulate(n_cells=10, n_genes=5, n_clusters=4).uns["simulation"]["weights"]
    np.testing.assert_allclose(balanced, 0.25)


def test_separation():
    """Means lie apart by the separation, in standard deviations of a component, on the average over pairs."""
    for separation in (0.0, 2.0, 6.0):
        means = datasets.simulate(n_cells=5, n_genes=5, n_clusters=60, n_latent=50, separation=separation).uns[
            "simulation"
        ]["means"]
        squared = ((means[:, None] - means[None]) ** 2).sum(-1)[np.triu_indices(60, 1)]
        assert np.sqrt(squared.mean()) == pytest.approx(separation, rel=0.05)


def test_separation_shows_in_the_counts():
    """Cells of far components are easier to tell apart by their counts."""
    scores = []
    for separation in (1.0, 8.0):
        adata = datasets.simulate(n_cells=300, n_genes=100, n_clusters=3, separation=separation, depth=1000)
        sc.pp.normalize_total(adata)
        sc.pp.log1p(adata)
        sc.pp.pca(adata, n_comps=5)
        scores.append(silhouette_score(adata.obsm["X_pca"], adata.obs["cell_type"]))
    assert scores[1] > scores[0] + 0.2


def test_latent_truth_follows_the_components():
    """Each type's latent points have its component's mean and standard deviations."""
    adata = datasets.simulate(n_cells=6000, n_genes=5, n_clusters=3, n_latent=4, shape_contrast=0.8)
    simulation = adata.uns["simulation"]
    assert set(np.round(np.log(simulation["sds"]), 6).ravel()) == {-0.8, 0.8}
    for k in range(3):
        z = adata.obsm["true_latent"][adata.obs["cell_type"] == f"type {k}"]
        np.testing.assert_allclose(z.mean(0), simulation["means"][k], atol=0.25)
        np.testing.assert_allclose(z.std(0), simulation["sds"][k], rtol=0.1)


def test_batches():
    """Batches are drawn independently of the type and shift the genes."""
    adata = datasets.simulate(n_cells=2000, n_genes=40, n_clusters=2, n_batches=2, batch_effect=1.0, depth=2000)
    assert list(adata.obs["batch"].cat.categories) == ["batch 0", "batch 1"]
    share = (adata.obs["batch"] == "batch 1").groupby(adata.obs["cell_type"], observed=True).mean()
    np.testing.assert_allclose(share, 0.5, atol=0.06)
    sc.pp.normalize_total(adata)
    one, two = (np.asarray(adata.X[(adata.obs["batch"] == f"batch {b}").to_numpy()].mean(0)).ravel() for b in (0, 1))
    assert np.abs(np.log(one + 0.1) - np.log(two + 0.1)).mean() > 0.5


def test_dispersion():
    """A larger inverse dispersion gives less noise."""
    noisy, quiet = (
        datasets.simulate(n_cells=800, n_genes=30, n_clusters=1, separation=0, dispersion=d, depth=3000, seed=3)
        for d in (0.5, 50.0)
    )
    zeros_noisy, zeros_quiet = (800 * 30 - adata.X.nnz for adata in (noisy, quiet))
    assert zeros_noisy > 10 * zeros_quiet


def test_toy():
    """The toy data holds what its description says."""
    adata = datasets.toy(n_cells=80, n_genes=30, n_clusters=2, n_batches=2, seed=4)
    assert adata.shape == (80, 30)
    assert set(adata.obs["cell_type"].cat.categories) == {"type 0", "type 1"}
    assert adata.obs["batch"].nunique() == 2
    assert adata.obsm["spatial"].shape == (80, 2)
    assert "counts" in adata.layers


# ------------------------------------------------------------- recovered counts


@pytest.fixture
def normalized():
    """Counts, their totals over more genes, and log1p of the counts scaled to 10,000, rounded as scanpy's file is."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(2.0, size=(30, 20)).astype(float)
    totals = counts.sum(1) + rng.integers(50, 100, size=30)
    return counts, totals, np.round(np.log1p(counts / totals[:, None] * 1e4), 3)


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix, sp.csc_matrix])
def test_recover_counts(normalized, form):
    """The counts come back exactly, sparse, without stored zeros."""
    counts, totals, log = normalized
    recovered = datasets.recover_counts(form(log), totals, 1e4)
    np.testing.assert_array_equal(recovered.toarray(), counts)
    assert recovered.nnz == (counts > 0).sum()
    assert recovered.dtype == np.float32


def test_recover_counts_refuses_other_values(normalized):
    """Values that were scaled to another total, or not logged, do not come out as integers."""
    _, totals, log = normalized
    for wrong in (np.log1p(np.expm1(log) * 1.13), log * 1.1):
        with pytest.raises(ValueError, match="not log1p of counts scaled to 10000.*from an integer"):
            datasets.recover_counts(wrong, totals, 1e4)


def test_pbmc68k_reduced():
    """scanpy's cells come with whole counts that undo its normalisation and fit in each cell's total."""
    adata = datasets.pbmc68k_reduced()
    source = sc.datasets.pbmc68k_reduced()
    assert adata.shape == (700, 765)
    assert (adata.X.data == np.round(adata.X.data)).all()
    assert adata.X.data.min() >= 1
    totals = source.obs["n_counts"].to_numpy()
    recovered = np.asarray(adata.X.sum(1)).ravel()
    assert (recovered <= totals).all()
    assert recovered.min() >= 1
    again = np.log1p(adata.X.toarray() / totals[:, None] * 1e4)
    np.testing.assert_allclose(again, source.raw.X.toarray(), atol=2e-3)
    assert adata.obs["bulk_labels"].equals(source.obs["bulk_labels"])
    assert adata.obsm["X_umap"].shape == (700, 2)
    assert [name for name in adata.layers if name is not None] == ["counts"]  # newer anndata lists X as None


# --------------------------------------------------------------------- atlases


@pytest.fixture
def server(cells, tmp_path):
    """A web server on this machine that offers a file, and the file's checksum; it counts requests."""
    folder = tmp_path / "served"
    folder.mkdir()
    cells.write_h5ad(folder / "atlas.h5ad")
    requests = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            super().do_GET()

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder)) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, daemon=True)
        thread.start()
        checksum = hashlib.sha256((folder / "atlas.h5ad").read_bytes()).hexdigest()
        yield f"http://127.0.0.1:{httpd.server_port}/atlas.h5ad", checksum, requests
        httpd.shutdown()


def test_fetched_once(server, cells, tmp_path):
    """The file is read, kept in the cache, and not asked for again."""
    url, checksum, requests = server
    for _ in range(2):
        found = datasets.fetch_h5ad(url, checksum, folder=tmp_path / "cache", progressbar=False)
        np.testing.assert_array_equal(found.X.toarray(), cells.X.toarray())
    assert requests == ["/atlas.h5ad"]
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [f"{checksum[:12]}-atlas.h5ad"]


@pytest.mark.parametrize(
    ("here", "there", "refused"),
    [
        ("https://a.org/x.h5ad", "https://cdn.b.org/x.h5ad", False),
        ("http://a.org/x.h5ad", "https://a.org/x.h5ad", False),
        ("http://127.0.0.1/x.h5ad", "http://127.0.0.1/y.h5ad", False),
        ("https://a.org/x.h5ad", "/y.h5ad", False),
        ("https://a.org/x.h5ad", "http://a.org/x.h5ad", True),
        ("http://a.org/x.h5ad", "http://127.0.0.1/x", True),
        ("http://a.org/x.h5ad", "http://169.254.169.254/x", True),
        ("http://a.org/x.h5ad", "http://[::1]/x", True),
        ("http://a.org/x.h5ad", "http://localhost:8000/x", True),
        ("http://a.org/x.h5ad", "//10.0.0.1/x", True),
    ],
)
def test_redirects(here, there, refused):
    """Not from an encrypted address to another, nor into the network of the user."""
    response = requests.Response()
    response.status_code, response.url, response.headers["location"] = 302, here, there
    with pytest.raises(OSError, match="not followed") if refused else contextlib.nullcontext():
        download._check_redirect(response)


def test_redirect_is_refused_while_fetching(monkeypatch, tmp_path):
    """The check is asked at each answer."""

    def send(self, request, **kwargs):
        answer = requests.Response()
        answer.status_code, answer.url, answer.request = 302, request.url, request
        answer.headers["location"] = "http://127.0.0.1/x.h5ad"
        answer.raw = io.BytesIO()
        return answer

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", send)
    with pytest.raises(OSError, match="not followed"):
        datasets.fetch_h5ad("https://a.org/x.h5ad", "0" * 64, tmp_path, progressbar=False)


class Endless(http.server.BaseHTTPRequestHandler):
    """A server whose answer has no end, until nobody listens."""

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        with contextlib.suppress(OSError):
            while True:
                self.wfile.write(b"x" * 4096)

    def log_message(self, *args):
        pass


@pytest.fixture
def endless():
    """Address of a file without end."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Endless) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}/atlas.h5ad"
        httpd.shutdown()


def test_a_file_without_end(endless, tmp_path, monkeypatch):
    """It is given up at the largest size, and nothing of it is left."""
    monkeypatch.setattr(download, "MAX_BYTES", 100_000)
    with pytest.raises(OSError, match=r"http://127.0.0.1:\d+/atlas.h5ad.*more than.*Download it"):
        datasets.fetch_h5ad(endless, "0" * 64, tmp_path, progressbar=False)
    assert not list(tmp_path.iterdir())


def test_a_file_that_takes_too_long(endless, tmp_path, monkeypatch):
    """It is given up after the longest time, and nothing of it is left."""
    clock = iter(range(0, 1_000_000_000, 3600))
    monkeypatch.setattr(download.time, "monotonic", lambda: next(clock))
    with pytest.raises(OSError, match="took more than 24 hours"):
        datasets.fetch_h5ad(endless, "0" * 64, tmp_path, progressbar=False)
    assert not list(tmp_path.iterdir())


def test_a_disk_is_not_filled(endless, tmp_path, monkeypatch):
    """A download leaves others some room on the disk."""
    free = download.MIN_FREE_BYTES + 50_000
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=free))
    with pytest.raises(OSError, match="the disk of .* has room for no more"):
        datasets.fetch_h5ad(endless, "0" * 64, tmp_path, progressbar=False)
    assert not list(tmp_path.iterdir())


def test_a_size_that_is_said_beforehand(server, tmp_path, monkeypatch):
    """A file that is too large is not begun."""
    monkeypatch.setattr(download, "MAX_BYTES", 10)
    monkeypatch.setattr(requests.Response, "iter_content", None)
    with pytest.raises(OSError, match="more than"):
        datasets.fetch_h5ad(*server[:2], folder=tmp_path / "cache", progressbar=False)
    assert not list((tmp_path / "cache").iterdir())


def test_killed_while_fetching(endless, tmp_path, monkeypatch):
    """What a killed download left is removed by the next one, and the user's own files are not."""
    (tmp_path / ".rmve-notes").mkdir()
    (tmp_path / "tmp12345").write_text("mine")
    child = os.fork()
    if child == 0:
        download._Limited.__call__ = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
        datasets.fetch_h5ad(endless, "0" * 64, tmp_path, progressbar=False)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 3
    monkeypatch.setattr(download, "MAX_BYTES", 1000)
    with pytest.raises(OSError, match="more than"):
        datasets.fetch_h5ad(endless, "0" * 64, tmp_path, progressbar=False)
    assert {path.name for path in tmp_path.iterdir()} == {".rmve-notes", "tmp12345"}


def test_a_file_in_the_cache_with_another_content(server, tmp_path):
    """It is fetched again, and what a link there points to is left alone."""
    url, checksum, _ = server
    (tmp_path / "mine").write_text("mine")
    path = tmp_path / f"{checksum[:12]}-atlas.h5ad"
    path.symlink_to(tmp_path / "mine")
    assert datasets.fetch_h5ad(url, checksum, tmp_path, progressbar=False).n_obs == 240
    assert not path.is_symlink()
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.parametrize("checksum", [None, 3, b"0" * 64])
def test_checksum_of_another_type(checksum):
    """The error is about the argument."""
    with pytest.raises(ValueError, match="`sha256`"):
        datasets.fetch_h5ad("https://a.org/x.h5ad", checksum)


@pytest.mark.parametrize("url", ["http://[::1/x.h5ad", None])
def test_address_that_is_none(url):
    """The error is about the argument."""
    with pytest.raises(ValueError, match="`url`"):
        datasets.fetch_h5ad(url, "0" * 64)


def test_cache_from_the_environment(server, tmp_path, monkeypatch):
    """``RMVE_CACHE`` says where files are kept."""
    monkeypatch.setenv("RMVE_CACHE", str(tmp_path / "mine"))
    datasets.fetch_h5ad(*server[:2], progressbar=False)
    assert len(list((tmp_path / "mine").iterdir())) == 1


def test_another_checksum_is_not_read(server, tmp_path):
    """A file that is not the one asked for leaves nothing in the cache."""
    with pytest.raises(ValueError, match="hash"):
        datasets.fetch_h5ad(server[0], "0" * 64, folder=tmp_path / "cache", progressbar=False)
    assert not list((tmp_path / "cache").glob("*.h5ad"))


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd.h5ad",
        "atlas.h5ad",
        "http://host/atlas.zip",
        "http://host/..h5ad",
        "http://host/.h5ad",
        "http://host/%2e%2e%5catlas.h5ad",
    ],
)
def test_addresses_that_are_none(url, tmp_path):
    """Other schemes, other files, and names that could leave the cache are refused before anything is asked for."""
    with pytest.raises(ValueError, match="`url` must be"):
        datasets.fetch_h5ad(url, "0" * 64, folder=tmp_path)


@pytest.mark.parametrize("checksum", ["", "abc", "g" * 64, "0" * 63, "sha256:" + "0" * 64])
def test_checksums_that_are_none(checksum, tmp_path):
    """A download without a checksum is refused."""
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        datasets.fetch_h5ad("http://host/atlas.h5ad", checksum, folder=tmp_path)


def test_mnist(mnist_cache):
    """Images and labels belong together: bars of ink in the middle are ones, holes are noughts."""
    adata = datasets.mnist(500, folder=mnist_cache)
    assert adata.shape == (500, 784)
    assert adata.X.min() == 0
    assert adata.X.max() == 1
    assert adata.obs["digit"].nunique() == 10
    middle = pd.Series(adata.X[:, [13 * 28 + 13, 14 * 28 + 14]].mean(1)).groupby(adata.obs["digit"].to_numpy()).mean()
    assert middle["1"] > 0.8
    assert middle["0"] < 0.1
    assert datasets.mnist(500, folder=mnist_cache).obs_names.equals(adata.obs_names)


def test_mnist_too_many(mnist_cache):
    """There are 70,000 of them."""
    with pytest.raises(ValueError, match=r"at most 70,000; got 70,001"):
        datasets.mnist(70_001, folder=mnist_cache)


@pytest.mark.parametrize("content", ["other images", "pickle"])
def test_mnist_file_with_something_else(tmp_path, content):
    """A file in the cache is not believed for its name, and pickled objects in it are not read."""
    value = np.zeros((2, 28, 28), np.uint8) if content == "other images" else np.array([{"a": 1}], dtype=object)
    np.savez(tmp_path / "mnist.npz", **dict.fromkeys(("x_train", "y_train", "x_test", "y_test"), value))
    with pytest.raises(ValueError, match="does not hold the MNIST digits" if content == "other images" else "pickle"):
        datasets.mnist(folder=tmp_path)


def test_mnist_is_downloaded_once(server, tmp_path, monkeypatch):
    """Without a file there is a download, of which the checksum is verified."""
    url, checksum, requests = server
    monkeypatch.setattr(datasets, "MNIST_URL", url)
    with pytest.raises(ValueError, match="hash"):
        datasets.mnist(folder=tmp_path, progressbar=False)
    assert not list(tmp_path.glob("*.npz"))
    monkeypatch.setattr(datasets, "MNIST_FILE_SHA256", checksum)
    for _ in range(2):
        with pytest.raises(ValueError, match="pickle|npz|Zip|digits|allow"):  # the server has cells, no digits
            datasets.mnist(folder=tmp_path, progressbar=False)
    assert len(requests) == 2


def test_hcl_profiles(atlas_cache):
    """Profiles of one study, each with what its name says; only blood and tissues of no organ are without a place."""
    adata = datasets.hcl_profiles()
    assert adata.shape == (1187, 5467)
    assert (adata.X.data == adata.X.data.round()).all()
    profile = adata.obs.loc["M2 Macrophage_AdultAdipose1"]
    assert profile.to_dict() == {
        "cell_type": "M2 Macrophage",
        "cell_state": "M2 Macrophage",
        "sample": "AdultAdipose1",
        "organ": "adipose",
        "stage": "adult",
    }
    assert adata.obs["stage"].value_counts().to_dict() == {"adult": 695, "fetal": 428, "birth": 64}
    assert adata.obs["sample"].nunique() == 79
    no_place = np.isnan(adata.obsm["spatial"]).any(1)
    assert set(adata.obs["organ"][no_place]) == {
        "calvaria",
        "cord blood",
        "omentum",
        "peripheral blood",
        "rib",
        "thymus",
        "ureter",
    }


def test_profiles_are_made_of_a_file_of_r(tmp_path, monkeypatch):
    """Genes in rows and means of three numbers become profiles in rows and whole numbers; names are unique."""
    table = xr.DataArray(
        [[1 / 3, 2.0, 0.0], [0.0, 4 / 3, 1.0]], [("g", ["A", "B"]), ("p", ["T_Adult&#10;Lung1", "x", "x"])]
    )
    monkeypatch.setitem(sys.modules, "rdata", types.SimpleNamespace(read_rda=lambda path: {"ref.expr": table}))
    monkeypatch.setattr(_atlases, "retrieve", lambda *_: tmp_path)
    made = ad.AnnData(sp.csr_matrix(np.array([[1, 0], [6, 4], [0, 3]], dtype=np.float32)))
    made.obs_names, made.var_names = ["T_AdultLung1", "x", "x-1"], ["A", "B"]
    monkeypatch.setattr(_atlases, "PROFILES", replace(_atlases.PROFILES, counts_sha256=_atlases.digest(made)))
    adata = datasets.hcl_profiles(tmp_path)
    assert adata.obs_names.tolist() == ["T_AdultLung1"]
    assert adata.obs["organ"].tolist() == ["lung"]


def test_profiles_need_a_reader(tmp_path, monkeypatch):
    """Without the package that reads the file, the error says which to install."""
    monkeypatch.setitem(sys.modules, "rdata", None)
    monkeypatch.setattr(_atlases, "retrieve", lambda *_: tmp_path)
    with pytest.raises(ImportError, match=r"rmve\[r\]"):
        datasets.hcl_profiles(tmp_path)
    assert not list(tmp_path.iterdir())


def test_cells_of_other_atlases(atlas_cache):
    """Counts with the authors' labels and the organ, which has a place."""
    heart, gut = datasets.heart_nuclei(), datasets.gut_cells()
    assert heart.obs["cell_state"].nunique() == 38
    assert gut.obs["cell_type"].nunique() == 68
    for adata in (heart, gut):
        assert np.isfinite(organ_positions(adata.obs["organ"])).all()
        assert adata.X.min() == 0
        assert (adata.X.data == adata.X.data.round()).all()


@pytest.fixture
def small_atlas(server, monkeypatch):
    """Nuclei of the server in place of those of the heart; the function that reads them, and the requests."""
    url, checksum, requests = server

    def convert(path):
        return ad.read_h5ad(path)[:10].copy()

    small = _atlases.Atlas("small.h5ad", url, checksum, "", convert)
    monkeypatch.setattr(_atlases, "HEART", small)
    return small, requests


def test_atlas_is_downloaded_and_made_once(small_atlas, cells, tmp_path, monkeypatch):
    """The file that is made of the public one is kept in the cache."""
    small, requests = small_atlas
    made = replace(small, counts_sha256=_atlases.digest(cells[:10]))
    monkeypatch.setattr(_atlases, "HEART", made)
    for _ in range(2):
        found = datasets.heart_nuclei(tmp_path / "cache", progressbar=False)
        assert found.obs_names.equals(cells.obs_names[:10])
    assert len(requests) == 1


def test_atlas_file_with_something_else(small_atlas, tmp_path):
    """A file in the cache is not believed for its name."""
    with pytest.raises(ValueError, match="does not hold the cells of this atlas"):
        datasets.heart_nuclei(tmp_path / "cache", progressbar=False)


class FakeCensus(types.ModuleType):
    """Stands for the package ``cellxgene_census``: takes its arguments and gives cells in its format."""

    def __init__(self, cells):
        super().__init__("cellxgene_census")
        self.cells, self.asked = cells, []

    @contextlib.contextmanager
    def open_soma(self, census_version):
        self.asked.append(census_version)
        yield "opened"

    def get_anndata(self, opened, **arguments):
        self.asked.append(arguments)
        return self.cells


def test_census_gives_cells_with_their_organs_place(cells, monkeypatch):
    """Names of genes and cells are made, blood has no place."""
    found = ad.AnnData(cells.X.copy())
    found.obs["soma_joinid"] = np.arange(240)
    found.obs["tissue_general"] = np.where(np.arange(240) % 3, "liver", "blood")
    found.var["feature_name"] = ["same"] * 2 + [f"g{j}" for j in range(58)]
    census = FakeCensus(found)
    monkeypatch.setitem(sys.modules, "cellxgene_census", census)
    adata = datasets.census("tissue_general == 'liver'", var_names=["ENSG1"], census_version="2025-01-30")
    assert census.asked[0] == "2025-01-30"
    assert census.asked[1]["obs_value_filter"] == "tissue_general == 'liver'"
    assert census.asked[1]["var_value_filter"] == "feature_id in ['ENSG1']"
    assert adata.var_names.is_unique
    np.testing.assert_array_equal(np.isnan(adata.obsm["spatial"]).any(1), adata.obs["tissue_general"] == "blood")
    census.cells = found[:0].copy()
    with pytest.raises(ValueError, match="No cell of the census passes"):
        datasets.census("tissue_general == 'nowhere'")


def test_census_without_its_package_says_what_to_install(monkeypatch):
    """The package is an extra."""
    monkeypatch.setitem(sys.modules, "cellxgene_census", None)
    with pytest.raises(ImportError, match='pip install "rmve\\[census\\]"'):
        datasets.census("tissue == 'lung'")
