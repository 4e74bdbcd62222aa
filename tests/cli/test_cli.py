from __future__ import annotations

import logging
import subprocess
import sys
import warnings

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scvi

import rmve
from rmve import _pipeline
from rmve._keys import Written
from rmve.training._callbacks import CHATTY

QUICK = ["--max-epochs", "2"]


def usage_error(result):
    assert result.exit_code == 2
    return " ".join(result.output.replace("│", " ").split())


# ------------------------------------------------------------------------ demo


@pytest.mark.filterwarnings("error::UserWarning")
def test_demo_writes_data_and_figure_and_reports(run, tmp_path):
    result = run("demo", *QUICK, "--output-dir", "out", "--seed", 3)
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["rmve_demo.h5ad", "rmve_demo.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    assert (tmp_path / "out" / "rmve_demo.png").read_bytes().startswith(b"\x89PNG")

    adata, names = ad.read_h5ad(tmp_path / "out" / "rmve_demo.h5ad"), Written()
    assert adata.shape == (700, 765)
    assert adata.obs[names.cluster].dtype == "category"
    assert adata.obs[names.confidence].between(0, 1).all()
    assert adata.obsm[names.latent].shape[0] == 700
    np.testing.assert_allclose(adata.obsm[names.probabilities].sum(axis=1), 1, rtol=1e-4)
    assert {"params", "components", "versions"} <= set(adata.uns[names.uns])
    assert names.spatial not in adata.obsm

    rows = {
        line.split("│")[1].strip(): line.split("│")[2].strip() for line in result.output.splitlines() if "│ " in line
    }
    assert rows["cells"] == "700"
    assert rows["genes"] == "765"
    assert rows["clusters found"] == str(adata.obs[names.cluster].nunique())
    assert rows["components started from"] == str(len(adata.uns[names.uns]["components"]))
    assert rows["mean confidence"] == f"{adata.obs[names.confidence].mean():.3f}"
    assert rows["seed"] == "3"
    assert {"ARI", "NMI", "seconds"} <= set(rows)
    assert "scoring only" in result.output
    assert "no coordinates" in result.output
    assert "rmve_demo.png" in result.output

    again = run("demo", *QUICK, "--output-dir", "out")  # its own files may be replaced
    assert again.exit_code == 0, again.output


# --------------------------------------------------------------------- cluster


def test_cluster_round_trip(run, source, tmp_path):
    result = run("cluster", source, "-o", "out.h5ad", "--layer", "counts", "--batch-key", "batch", *QUICK)
    assert result.exit_code == 0, result.output
    before, after, names = ad.read_h5ad(source), ad.read_h5ad(tmp_path / "out.h5ad"), Written()
    assert set(after.obs) - set(before.obs) == {names.cluster, names.confidence, names.novelty, names.finest}
    assert set(after.obsm) - set(before.obsm) == {names.latent, names.probabilities}
    assert set(after.uns) - set(before.uns) == {names.uns}
    pd.testing.assert_frame_equal(after.obs[before.obs.columns], before.obs)
    assert (after.X != before.X).nnz == 0
    assert after.uns[names.uns]["params"]["layer"] == "counts"
    assert after.uns[names.uns]["params"]["batch_key"] == "batch"
    assert "clusters found" in result.output
    assert "out.h5ad" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["out.h5ad"]


def test_cluster_options_reach_the_model(run, source, tmp_path):
    options = ["--n-components", 5, "--likelihood", "poisson", "--labels-key", "cell_type", "--key-added", "mine"]
    result = run("cluster", source, "-o", "out.h5ad", *options, "--quiet", *QUICK)
    assert result.exit_code == 0, result.output
    assert result.output == ""
    names = Written("mine")
    adata = ad.read_h5ad(tmp_path / "out.h5ad")
    params = adata.uns[names.uns]["params"]
    assert params["n_components"] == 5
    assert (params["gene_likelihood"], params["labels_key"]) == ("poisson", "cell_type")
    assert set(adata.obs["cell_type"]) <= set(adata.obs[names.cluster].cat.categories)


def test_cluster_result_depends_on_the_seed_alone(run, source, tmp_path):
    latent = []
    for number, seed in enumerate((1, 1, 2)):
        assert run("cluster", source, "-o", f"{number}.h5ad", "--seed", seed, *QUICK).exit_code == 0
        latent.append(ad.read_h5ad(tmp_path / f"{number}.h5ad").obsm[Written().latent])
    assert np.array_equal(latent[0], latent[1])
    assert not np.allclose(latent[0], latent[2])


def test_cluster_overwrites_only_with_force(run, source, tmp_path, one_line_error):
    output = tmp_path / "out.h5ad"
    output.write_bytes(b"precious")
    message = one_line_error(run("cluster", source, "-o", output, *QUICK))
    assert "out.h5ad exists" in message
    assert "--force" in message
    assert output.read_bytes() == b"precious"
    assert run("cluster", source, "-o", output, "--force", *QUICK).exit_code == 0
    assert Written().cluster in ad.read_h5ad(output).obs


def test_cluster_in_place_with_force(run, source, tmp_path):
    path = tmp_path / "cells.h5ad"
    path.write_bytes(source.read_bytes())
    for _ in range(2):  # the second time over results of the first
        assert run("cluster", path, "-o", path, "--force", *QUICK).exit_code == 0
    assert Written().cluster in ad.read_h5ad(path).obs


def test_cluster_keeps_a_column_that_is_not_its_own(run, source, tmp_path, one_line_error):
    message = one_line_error(run("cluster", source, "-o", "out.h5ad", "--key-added", "cell_type", *QUICK))
    assert "'cell_type'" in message
    assert "--key-added" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--layer", "absent"], "'absent'"),
        (["--batch-key", "absent"], "'absent'"),
        (["--labels-key", "absent"], "'absent'"),
        (["--n-components", "121"], "--n-components 121"),
        (["--n-components", "2", "--labels-key", "cell_type"], "3 labels"),
        (["--likelihood", "bernoulli"], "adata.X"),
    ],
)
def test_cluster_wrong_input_is_one_line_and_writes_nothing(run, source, tmp_path, options, named, one_line_error):
    message = one_line_error(run("cluster", source, "-o", "out.h5ad", *options, *QUICK))
    assert named in message
    assert list(tmp_path.iterdir()) == []


def test_cluster_leaves_nothing_behind_when_writing_fails(run, source, tmp_path, monkeypatch, one_line_error):
    def fail(path, adata):
        path.write_bytes(b"half")
        raise OSError("No space left.")

    monkeypatch.setattr("rmve.data.h5ad.write", fail)
    assert "No space left." in one_line_error(run("cluster", source, "-o", "out.h5ad", "--quiet", *QUICK))
    assert list(tmp_path.iterdir()) == []


def test_cluster_finds_what_cannot_be_written_before_training(run, cells, tmp_path, monkeypatch, one_line_error):
    """One line names the element; the run does not begin."""
    monkeypatch.setattr(rmve.RMVE, "train", lambda *args, **kwargs: pytest.fail("Training began."))
    cells.write_h5ad(tmp_path / "odd.h5ad")
    with h5py.File(tmp_path / "odd.h5ad", "r+") as file:
        file["uns"]["opaque"] = np.void(b"xyz")
    assert "uns['opaque']" in one_line_error(run("cluster", "odd.h5ad", "-o", "out.h5ad"))


@pytest.mark.parametrize("part", ["figure", "page"])
def test_cluster_keeps_the_output_when_the_report_fails(run, source, tmp_path, monkeypatch, part, one_line_error):
    """The output comes first; what went wrong with the report is one line."""

    def fail(*args, **kwargs):
        raise RuntimeError("no drawing today")

    monkeypatch.setattr(*((rmve.pl, "embedding") if part == "figure" else (_pipeline, "make_report")), fail)
    line = one_line_error(run("cluster", source, "-o", "out.h5ad", "--report", "out.html", "--quiet", *QUICK))
    assert "Wrote out.h5ad, but the report could not be made: no drawing today" in line
    assert "rmve" in ad.read_h5ad(tmp_path / "out.h5ad").obs
    assert not (tmp_path / "out.html").exists()


@pytest.mark.parametrize("name", ["a_{b$ and $c", "x" * 5_000, "CD4+\n" * 200, "a/b"])
def test_cluster_with_an_odd_label(run, make_cells, tmp_path, name):
    """The report draws it as text, and the output holds it."""
    adata = make_cells(120)
    adata.obs["label"] = adata.obs["cell_type"].cat.rename_categories({"A": name}).astype(str)
    adata.write_h5ad(tmp_path / "in.h5ad")
    result = run(
        "cluster", "in.h5ad", "-o", "out.h5ad", "--labels-key", "label", "--report", "out.html", "--quiet", *QUICK
    )
    assert result.exit_code == 0, result.output
    assert name in ad.read_h5ad(tmp_path / "out.h5ad").obs["rmve"].cat.categories


def test_cluster_takes_the_counts_of_raw(run, cells, tmp_path, one_line_error):
    """Where X is normalised and no layer holds counts, `--layer raw` does; without it, the error says so."""
    cells.layers.clear()
    cells.raw = cells.copy()
    sc.pp.normalize_total(cells)
    sc.pp.log1p(cells)
    chosen = cells[:, 5:].copy()
    chosen.write_h5ad(tmp_path / "in.h5ad")
    assert "--layer raw" in one_line_error(run("cluster", "in.h5ad", "-o", "out.h5ad", *QUICK))
    result = run("cluster", "in.h5ad", "-o", "out.h5ad", "--layer", "raw", "--quiet", *QUICK)
    assert result.exit_code == 0, result.output
    out = ad.read_h5ad(tmp_path / "out.h5ad")
    assert "rmve" in out.obs
    assert not out.layers
    del chosen.raw
    chosen.write_h5ad(tmp_path / "in.h5ad")
    assert "adata.raw" in one_line_error(run("cluster", "in.h5ad", "-o", "o.h5ad", "--layer", "raw", *QUICK))


def test_cluster_on_a_full_disk(make_cells, tmp_path):
    """One line, exit status 1, no crash, nothing left but the old output."""
    make_cells(240, n_batches=2).write_h5ad(tmp_path / "in.h5ad")
    (tmp_path / "out.h5ad").write_bytes(b"old")
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000)); from rmve.cli import app;"
        "sys.argv = ['rmve', 'cluster', 'in.h5ad', '-o', 'out.h5ad', '--force', '--quiet', '--max-epochs', '1']; app()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("Error: out.h5ad could not be written")
    assert (tmp_path / "out.h5ad").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.h5ad", "out.h5ad"]


def test_cluster_output_needs_a_folder(run, source, one_line_error):
    assert "nowhere" in one_line_error(run("cluster", source, "-o", "nowhere/out.h5ad", *QUICK))


def test_cluster_file_that_is_not_h5ad_inside(run, tmp_path, one_line_error):
    (tmp_path / "fake.h5ad").write_text("not HDF5")
    one_line_error(run("cluster", "fake.h5ad", "-o", "out.h5ad"))


def test_programming_errors_keep_their_traceback(run, source, monkeypatch):
    def fail(*args, **kwargs):
        raise ZeroDivisionError

    monkeypatch.setattr(rmve.RMVE, "setup_anndata", fail)
    assert isinstance(run("cluster", source, "-o", "out.h5ad").exception, ZeroDivisionError)


def test_cluster_report(run, source, tmp_path, one_line_error):
    options = ["--report", "out.html", "--labels-key", "cell_type", *QUICK]
    result = run("cluster", source, "-o", "out.h5ad", *options)
    assert result.exit_code == 0, result.output
    assert "Wrote out.h5ad and out.html." in result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.h5ad", "out.html"]
    assert "<td>120</td>" in (tmp_path / "out.html").read_text()
    one_line_error(run("cluster", source, "-o", "other.h5ad", *options))  # out.html exists
    assert not (tmp_path / "other.h5ad").exists()


def test_cluster_force_replaces_a_column_of_another(run, source, tmp_path):
    result = run("cluster", source, "-o", "out.h5ad", "--key-added", "cell_type", "--force", *QUICK)
    assert result.exit_code == 0, result.output
    assert Written("cell_type").confidence in ad.read_h5ad(tmp_path / "out.h5ad").obs


@pytest.mark.parametrize(
    "options", [["--key-added", "a/b"], ["--key-added", "batch", "--batch-key", "batch", "--force"]]
)
def test_cluster_wrong_key_is_found_before_training(run, source, tmp_path, monkeypatch, options, one_line_error):
    monkeypatch.setattr(rmve.RMVE, "train", lambda *args, **kwargs: pytest.fail("Training began."))
    assert "--key-added" in one_line_error(run("cluster", source, "-o", "out.h5ad", *options))
    assert list(tmp_path.iterdir()) == []


def test_cluster_ctrl_c(run, source, tmp_path, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(rmve.RMVE, "train", interrupted)
    result = run("cluster", source, "-o", "out.h5ad")
    assert result.exit_code == 130
    assert "nothing was written" in result.output
    assert list(tmp_path.iterdir()) == []


# ----------------------------------------------------------------------- usage


def test_usage_wrong_input_path(run, source, tmp_path):
    assert "does not exist" in usage_error(run("cluster", "absent.h5ad", "-o", "out.h5ad"))
    assert "is a directory" in usage_error(run("cluster", tmp_path, "-o", "out.h5ad"))
    (tmp_path / "cells.csv").write_text("a,b")
    assert "does not end in .h5ad" in usage_error(run("cluster", "cells.csv", "-o", "out.h5ad"))
    assert "does not end in .h5ad" in usage_error(run("cluster", source, "-o", "out.csv"))
    assert "--output" in usage_error(run("cluster", source))
    assert "does not end in .html" in usage_error(run("cluster", source, "-o", "out.h5ad", "--report", "out.pdf"))


@pytest.mark.parametrize(
    "options",
    [
        ["--n-components", "0"],
        ["--n-components=-3"],
        ["--n-components", "many"],
        ["--n-components", "2.5"],
        ["--likelihood", "gamma"],
        ["--max-epochs", "0"],
        ["--seed=-1"],
    ],
)
def test_usage_wrong_value_names_the_option(run, source, tmp_path, options):
    assert options[0].split("=")[0] in usage_error(run("cluster", source, "-o", "out.h5ad", *options))
    assert list(tmp_path.iterdir()) == []


def test_version(run):
    result = run("--version")
    assert (result.exit_code, result.output) == (0, f"rmve {rmve.__version__}\n")


def test_as_a_module():
    """``python -m rmve`` is the same command, under its own name."""
    done = subprocess.run([sys.executable, "-m", "rmve", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "Usage: rmve" in done.stdout


def test_help_shows_commands_and_defaults(run):
    assert {"cluster", "demo"} <= set(run("--help").output.split())
    text = " ".join(run("cluster", "--help").output.split())
    for default in ("(X)", "auto", "nb", "(fewer for more cells)", "rmve"):
        assert f"[default: {default}]" in text


# --------------------------------------------------------------------- silence


@pytest.fixture
def notes():
    """What the training libraries log."""
    records = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "scvi")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    yield records
    for logger, level in zip(loggers, levels, strict=True):
        logger.removeHandler(handler)
        logger.setLevel(level)


def test_notes_of_the_training_libraries_are_silent_in_a_command_only(run, source, notes):
    levels, filters = [logging.getLogger(name).level for name in CHATTY], list(warnings.filters)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert run("cluster", source, "-o", "out.h5ad", *QUICK).exit_code == 0
    assert notes == []
    assert not [warning for warning in caught if "lightning" in warning.filename]
    assert [logging.getLogger(name).level for name in CHATTY] == levels
    assert list(warnings.filters) == filters

    scvi.settings.seed = 0
    assert notes == ["Seed set to 0"]


# -------------------------------------------------------------------------- map


@pytest.fixture(scope="session")
def placed_source(make_cells, tmp_path_factory):
    """A file in which every second cell has a position."""
    adata = make_cells(160)
    adata.obsm["where"] = adata.obsm.pop("spatial")
    adata.obsm["where"][::2] = np.nan
    path = tmp_path_factory.mktemp("map") / "cells.h5ad"
    adata.write_h5ad(path)
    return path


def test_map_places_all_cells(run, placed_source, tmp_path):
    """Results are written, nothing else is changed, and the quality is reported, on screen and in the page."""
    out, page = tmp_path / "out.h5ad", tmp_path / "page.html"
    arguments = ["--spatial-key", "where", "--max-epochs", "30", "--n-components", "3", "--report", page]
    result = run("map", placed_source, "-o", out, *arguments)
    assert result.exit_code == 0, result.output
    before, after = ad.read_h5ad(placed_source), ad.read_h5ad(out)
    np.testing.assert_array_equal(after.obsm["where"], before.obsm["where"])
    names = Written()
    assert np.isfinite(after.obsm[names.spatial]).all()
    assert (after.obs[names.spatial_sd] > 0).all()
    smap = after.uns[names.uns]["spatial_map"]
    assert smap["kind"] == "linear"
    assert f"{smap['r2_'][0]:.3f} {smap['r2_'][1]:.3f}" in result.output
    assert "judged by cells" in result.output
    text = page.read_text()
    assert "<h2>Place</h2>" in text
    assert "Where the linear map puts them" in text
    assert not [name for name in after.obs if name.startswith("_scvi")]


def test_notes_on_positions_are_silent(run, placed_source, notes, tmp_path):
    result = run("map", placed_source, "-o", tmp_path / "out.h5ad", "--spatial-key", "where", *QUICK)
    assert result.exit_code == 0, result.output
    assert notes == []


def test_map_by_cluster(run, placed_source, tmp_path):
    """The other kind of map is an option."""
    out = tmp_path / "out.h5ad"
    result = run("map", placed_source, "-o", out, "--spatial-key", "where", "--kind", "by_cluster", *QUICK, "--quiet")
    assert result.exit_code == 0, result.output
    assert ad.read_h5ad(out).uns["rmve"]["spatial_map"]["kind"] == "by_cluster"


def test_map_without_positions_writes_nothing(run, source, placed_source, tmp_path, one_line_error):
    """The key is named, and so are those that are there."""
    out = tmp_path / "out.h5ad"
    line = one_line_error(run("map", placed_source, "-o", out, *QUICK))
    assert "--spatial-key 'spatial' is not in `adata.obsm`" in line
    assert "'where'" in line
    assert not out.exists()
    usage_error(run("map", placed_source, "-o", out, "--kind", "cubic"))


def test_cluster_writes_other_levels(run, source, tmp_path):
    """Each level that is asked for has a column."""
    run("cluster", source, "-o", "out.h5ad", "--layer", "counts", "--level", "2", "--level", "1", *QUICK)
    obs = ad.read_h5ad(tmp_path / "out.h5ad").obs
    assert (obs["rmve_2"].nunique(), obs["rmve_1"].nunique()) == (2, 1)
