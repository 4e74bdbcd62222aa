"""The notebooks of the tutorials run, are executed, and say nothing of the machine they were made on."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import scanpy as sc
import scvi

import rmve

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "tutorials").glob("*.ipynb"))
#: Largest size of a notebook, in bytes.
MAX_SIZE = 1_000_000
#: Epochs of a run, at most.
N_EPOCHS = 20


def cells_of(notebook: Path, kind: str) -> list[dict]:
    """Cells of a notebook of one kind."""
    return [cell for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


def test_there_are_notebooks():
    """There is something to run."""
    assert len(NOTEBOOKS) == 9


@pytest.fixture
def restore_settings():
    """Show no windows, and put back what notebooks set for the whole process."""
    verbosity, autoshow = scvi.settings.verbosity, sc.settings.autoshow
    sc.settings.autoshow = False
    yield
    sc.settings.autoshow = autoshow
    scvi.settings.verbosity = verbosity


@pytest.mark.slow
@pytest.mark.usefixtures("restore_settings")
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_code_runs(notebook, run_blocks, request, monkeypatch):
    """The cells run one after the other; training is short. What notebooks download comes from a folder.

    Of the digits, a tenth is taken.
    """
    if "datasets.hcl_profiles(" in notebook.read_text(encoding="utf-8"):
        request.getfixturevalue("atlas_cache")
    if "datasets.mnist(" in notebook.read_text(encoding="utf-8"):
        request.getfixturevalue("mnist_cache")
        mnist = rmve.datasets.mnist
        monkeypatch.setattr(rmve.datasets, "mnist", lambda n_digits=70_000: mnist(n_digits // 10))
    if "datasets.pbmc3k(" in notebook.read_text(encoding="utf-8"):
        request.getfixturevalue("pbmc3k_cache")
    # few steps leave one cluster, which a page on several cannot show
    run_blocks(["".join(cell["source"]) for cell in cells_of(notebook, "code")], notebook.stem, n_epochs=N_EPOCHS)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_is_executed(notebook):
    """All code cells were run once, in their order, and none printed a warning, an error or a path of the machine."""
    assert notebook.stat().st_size < MAX_SIZE
    code = cells_of(notebook, "code")
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output["output_type"] in ("stream", "error")]
    shown = json.dumps([output["data"].get("text/plain") for output in outputs])
    assert not re.search(r"/(home|root|tmp|opt|work|usr)/", shown)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_states_data_and_runtime(notebook):
    """The first cell says where the data come from and how long it takes."""
    first = "".join(cells_of(notebook, "markdown")[0]["source"])
    assert "**Data.**" in first
    assert "**Runtime.**" in first
