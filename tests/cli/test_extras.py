"""Command line: quick answers, and what ``rmve cluster`` does beyond clustering."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import typer
from sklearn.metrics import adjusted_rand_score

from rmve import cli, likelihoods, spatial

QUICK = ["--max-epochs", "2"]
PAGE = Path(__file__).resolve().parents[2] / "docs" / "user_guide" / "command_line.md"


@pytest.mark.parametrize("option", ["--version", "--help"])
def test_version_and_help_import_no_torch(option):
    """They answer at once: what a command needs is imported when it is called."""
    code = (
        "import sys; from rmve.cli import app; sys.argv = ['rmve', sys.argv[1]]\n"
        "try: app()\n"
        "finally: print('HEAVY', sorted({'torch', 'scanpy', 'scvi', 'anndata', 'sklearn', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, option], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "rmve" in done.stdout
    assert "HEAVY []" in done.stdout


def test_names_are_imported_when_asked_for():
    """As if they had been imported at once; a wrong name is an AttributeError."""
    code = (
        "import rmve; assert set(rmve.__all__) <= set(dir(rmve)); rmve.RMVE.setup_anndata; rmve.pl.embedding\n"
        "rmve.datasets.toy; rmve.levels.MergeTree; from rmve import *; assert RMVE is rmve.RMVE and pl is rmve.pl\n"
        "assert not hasattr(rmve, 'absent')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_choices_are_those_of_the_model():
    assert tuple(likelihoods.LIKELIHOODS) == cli.GENE_LIKELIHOODS
    assert cli.KINDS == spatial.KINDS


@pytest.mark.parametrize("command", ["cluster", "map"])
def test_options_are_in_the_help_and_the_guide(run, command):
    """Each option is explained in both."""
    parameters = typer.main.get_command(cli.app).commands[command].params
    options = {name for parameter in parameters for name in parameter.opts if name.startswith("--")} - {"--help"}
    assert {"--backed", "--output", "--seed"} <= options
    shown = run(command, "--help").output
    guide = PAGE.read_text()
    for option in options:
        assert re.search(rf"{option}\b", shown)
        assert re.search(rf"`{option}\b", guide), option


def test_help_says_what_backed_does(run):
    text = " ".join(re.sub(r"[│*]", " ", run("cluster", "--help").output).split())
    assert re.search(r"--backed (<bool> )?Leave the matrices in the input file", text)


def test_cluster_divides_a_cluster_and_writes_tables(run, source, tmp_path, one_line_error):
    """A column of sub-clusters, nested in the clusters, and two CSV files."""
    options = ["--n-components", 3, "--subcluster", "all", "--csv", "clusters.csv", "--markers", "markers.csv"]
    result = run("cluster", source, "-o", "out.h5ad", "--layer", "counts", *options, "--max-epochs", 10)
    assert result.exit_code == 0, result.output
    assert "Wrote out.h5ad, clusters.csv and markers.csv." in result.output
    adata = ad.read_h5ad(tmp_path / "out.h5ad")
    outer = adata.obs["rmve_sub"].astype(str).str.split(".").str[0]
    assert (outer == adata.obs["rmve"].astype(str)).all()
    table = pd.read_csv(tmp_path / "clusters.csv", index_col="cell")
    assert list(table.columns) == ["cluster", "confidence", "novelty", "subcluster"]
    assert (table["cluster"].astype(str) == adata.obs["rmve"].astype(str)).all()
    np.testing.assert_allclose(table["confidence"], adata.obs["rmve_confidence"], rtol=1e-5)
    assert {"cluster", "gene", "log_fold_change"} <= set(pd.read_csv(tmp_path / "markers.csv").columns)
    assert "markers.csv exists" in one_line_error(run("cluster", source, "-o", "new.h5ad", "--markers", "markers.csv"))


def test_cluster_keeps_the_output_when_there_is_no_such_cluster(run, source, tmp_path, one_line_error):
    line = one_line_error(run("cluster", source, "-o", "out.h5ad", "--subcluster", "absent", "--quiet", *QUICK))
    assert "Wrote out.h5ad, but --subcluster absent: there is no such cluster. The clusters are 0" in line
    assert "rmve" in ad.read_h5ad(tmp_path / "out.h5ad").obs


def test_cluster_on_variable_genes_with_umap(run, source, tmp_path, one_line_error):
    """The model sees the most variable genes, the output keeps all; the report draws the UMAP."""
    options = ["--layer", "counts", "--n-top-genes", 30, "--umap", "--report", "out.html", *QUICK]
    result = run("cluster", source, "-o", "out.h5ad", *options)
    assert result.exit_code == 0, result.output
    before, after = ad.read_h5ad(source), ad.read_h5ad(tmp_path / "out.h5ad")
    assert after.shape == before.shape
    assert after.obsm["X_umap"].shape == (120, 2)
    assert "rmve" in after.obs
    page = (tmp_path / "out.html").read_text()
    assert "<th>genes</th><td>30</td>" in page
    assert "UMAP of the embedding" in page
    line = one_line_error(run("cluster", "out.h5ad", "-o", "new.h5ad", "--umap", *QUICK))
    assert "--umap would overwrite" in line


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--n-top-genes", "61"], "--n-top-genes 61 is more than the 60 genes"),
        (["--n-top-genes", "9", "--likelihood", "normal"], "--likelihood normal is for other values"),
        (["--n-top-genes", "9", "--layer", "absent"], "--layer 'absent'"),
        (["--layer", "absent"], "--layer 'absent'"),
    ],
)
def test_cluster_errors_are_in_the_words_of_the_flags(run, source, tmp_path, options, named, one_line_error):
    assert named in one_line_error(run("cluster", source, "-o", "out.h5ad", *options, *QUICK))
    assert list(tmp_path.iterdir()) == []


def test_progress_is_a_line_for_each_tenth_where_there_is_no_terminal(run, source):
    result = run("cluster", source, "-o", "out.h5ad", "--max-epochs", 20)
    lines = [line for line in result.output.splitlines() if "of the training" in line]
    assert len(lines) == 10
    assert lines[0] == " 10 % of the training: epoch 2 of 20"
    assert lines[-1] == "100 % of the training: epoch 20 of 20"


def test_compare_with_a_column(run, source, tmp_path):
    """Agreement with a column that training does not see, in the output and the report."""
    options = ["--n-components", 3, "--max-epochs", 10, "--compare-with", "cell_type", "--batch-key", "batch"]
    result = run("cluster", source, "-o", "out.h5ad", "--layer", "counts", *options, "--report", "report.html")
    assert result.exit_code == 0, result.output
    assert "compared with" in result.output
    adata = ad.read_h5ad(tmp_path / "out.h5ad")
    expected = f"{adjusted_rand_score(adata.obs['cell_type'], adata.obs['rmve']):.3f}"
    assert expected in result.output
    assert adata.uns["rmve"]["params"].get("labels_key") is None
    page = (tmp_path / "report.html").read_text()
    for text in (expected, "markers", "Batches", "confusion", "cell_type"):
        assert text in page


def test_compare_with_a_column_that_is_not_there(run, source, one_line_error):
    result = run("cluster", source, "-o", "out.h5ad", "--layer", "counts", "--compare-with", "nothing")
    assert "--compare-with 'nothing' is not in `adata.obs`" in one_line_error(result)


@pytest.mark.parametrize("other", ["a.csv", "./a.csv"])
def test_one_file_for_two_tables(run, source, tmp_path, other, one_line_error):
    """Refused before training, since the second would overwrite the first."""
    result = run("cluster", source, "-o", "out.h5ad", "--layer", "counts", "--csv", "a.csv", "--markers", other)
    assert "is named twice" in one_line_error(result)
    assert not list(tmp_path.glob("*"))
