"""Commands, called in an empty folder."""

from __future__ import annotations

import numpy as np
import pytest
import scvi
import torch
from typer.testing import CliRunner

from rmve import cli


@pytest.fixture(autouse=True)
def _own_seed():
    """Commands set the seed of the process: put it back."""
    seed, numpy_state = scvi.settings.seed, np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        yield
        scvi.settings.seed = seed
    np.random.set_state(numpy_state)  # noqa: NPY002


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Call ``rmve`` in an empty folder on a wide terminal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments):
        return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])

    return call


@pytest.fixture(scope="session")
def source(make_cells, tmp_path_factory):
    """A file with 120 cells of 3 types in 2 batches."""
    path = tmp_path_factory.mktemp("cli") / "cells.h5ad"
    make_cells(120, n_batches=2).write_h5ad(path)
    return path


@pytest.fixture
def one_line_error():
    """Take the one line that a command which failed prints."""

    def take(result):
        assert result.exit_code == 1
        assert "Traceback" not in result.output
        (line,) = [line for line in result.output.splitlines() if line]
        assert line.startswith("Error: ")
        return line

    return take
