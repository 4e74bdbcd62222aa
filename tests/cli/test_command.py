"""Long commands: what is killed goes on with ``--resume``, and files appear whole or not at all."""

from __future__ import annotations

import signal
import subprocess
import sys

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import rmve
from rmve import cli
from rmve._command import COMMAND_FILE, replacing

#: Runs a command in a process of its own, and kills it as `kill -9` does when a number of mini-batches is done.
KILLED = """
import os, signal, sys
from rmve import cli
from rmve.training import RMVETrainingPlan

training_step = RMVETrainingPlan.training_step

def step(self, *args, **kwargs):
    if self.trainer.global_step == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    return training_step(self, *args, **kwargs)

RMVETrainingPlan.training_step = step
cli.app(sys.argv[2:])
"""
OPTIONS = ["--layer", "counts", "--n-components", "3", "--max-epochs", "6"]


@pytest.fixture
def source(cells, tmp_path, monkeypatch):
    """A file with cells, in the folder where commands run."""
    cells.write_h5ad(tmp_path / "cells.h5ad")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return "cells.h5ad"


def run(*arguments):
    """Call ``rmve``."""
    return CliRunner().invoke(cli.app, list(arguments))


@pytest.fixture
def killed(source, tmp_path):
    """Start a command in another process, which kills itself."""

    def start(n_batches: int, *arguments: str) -> None:
        command = [sys.executable, "-c", KILLED, str(n_batches), *arguments]
        ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert ended.returncode == -signal.SIGKILL, ended.stderr

    return start


def test_a_killed_command_goes_on(killed, source, tmp_path):
    """The result is that of a command that was never stopped; the folder holds the model in the end."""
    arguments = ["cluster", source, *OPTIONS, "--checkpoint-dir", "run"]
    killed(9, *arguments, "-o", "out.h5ad")  # in the fifth epoch of two mini-batches
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cells.h5ad", "run"]
    refused = run(*arguments, "-o", "out.h5ad")
    assert refused.exit_code == 1
    assert "run holds a run. Go on with it by --resume" in refused.output
    resumed = run(*arguments, "-o", "out.h5ad", "--resume")
    assert resumed.exit_code == 0, resumed.output
    whole = run(*arguments[:-1], "other", "-o", "whole.h5ad")
    assert whole.exit_code == 0, whole.output
    found, expected = ad.read_h5ad(tmp_path / "out.h5ad"), ad.read_h5ad(tmp_path / "whole.h5ad")
    pd.testing.assert_frame_equal(found.obs, expected.obs)
    np.testing.assert_allclose(found.obsm["X_rmve"], expected.obsm["X_rmve"], atol=1e-5)
    model = rmve.RMVE.load(tmp_path / "run", adata=ad.read_h5ad(source))
    assert model.predict().tolist() == found.obs["rmve"].tolist()
    again = run(*arguments, "-o", "again.h5ad", "--resume", "--report", "page.html")  # nothing is left to train
    assert again.exit_code == 0, again.output
    pd.testing.assert_frame_equal(ad.read_h5ad(tmp_path / "again.h5ad").obs, found.obs)
    assert "<h2>Training</h2>" in (tmp_path / "page.html").read_text()


def test_resume_begins_where_there_is_no_checkpoint(killed, source, tmp_path):
    """A job that is started again and again needs one command only."""
    arguments = ["cluster", source, *OPTIONS, "-o", "out.h5ad", "--checkpoint-dir", "run", "--resume"]
    killed(1, *arguments)
    assert (tmp_path / "run" / COMMAND_FILE).is_file()
    assert run(*arguments).exit_code == 0
    assert (tmp_path / "out.h5ad").is_file()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (["--seed", "1"], "another --seed"),
        (["--max-epochs", "2", "--likelihood", "zinb"], "another --likelihood, --max-epochs"),
        (["--batch-key", "batch"], "another --batch-key"),
    ],
)
def test_resume_with_other_options(source, tmp_path, change, named):
    """A run is not continued, nor its model taken, as something else."""
    arguments = ["cluster", source, *OPTIONS, "--checkpoint-dir", "run", "--max-epochs", "1"]
    assert run(*arguments, "-o", "out.h5ad").exit_code == 0
    result = run(*arguments, *change, "-o", "other.h5ad", "--resume")
    assert result.exit_code == 1
    assert named in result.output
    assert not (tmp_path / "other.h5ad").exists()


def test_a_model_of_somebody_else_is_not_taken(source, tmp_path, shared):
    """A folder with a model that no command has made is refused, with and without ``--resume``."""
    shared.save(tmp_path / "run")
    for options, message in ([], "holds a run"), (["--resume"], "not of this command"):
        result = run("cluster", source, *OPTIONS, "-o", "out.h5ad", "--checkpoint-dir", "run", *options)
        assert result.exit_code == 1
        assert message in result.output


def test_wrong_input_makes_no_folder(source, tmp_path):
    """A wrong key is found before anything is written."""
    result = run("cluster", source, "--layer", "absent", "-o", "out.h5ad", "--checkpoint-dir", "run")
    assert result.exit_code == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cells.h5ad"]


def test_resume_needs_a_folder(source):
    """It is a wrong call without one."""
    result = run("cluster", source, "-o", "out.h5ad", "--resume")
    assert result.exit_code == 2
    assert "--checkpoint-dir" in result.output


def test_ctrl_c_with_checkpoints_tells_how_to_go_on(source, tmp_path, monkeypatch):
    """After Ctrl-C the message names the option, and the option works."""
    from rmve.training import RMVETrainingPlan

    arguments = ["cluster", source, *OPTIONS, "-o", "out.h5ad", "--checkpoint-dir", "run", "--resume"]
    with monkeypatch.context() as patch:
        step = RMVETrainingPlan.training_step

        def interrupted(self, *args, **kwargs):
            if self.trainer.global_step == 5:
                signal.raise_signal(signal.SIGINT)
            return step(self, *args, **kwargs)

        patch.setattr(RMVETrainingPlan, "training_step", interrupted)
        result = run(*arguments)
    assert result.exit_code == 130
    assert "no output was written. The same command with --resume goes on" in result.output
    assert run(*arguments).exit_code == 0
    assert (tmp_path / "out.h5ad").is_file()


def test_a_file_is_replaced_when_it_is_whole(tmp_path):
    """The old content stays until the new one is complete."""
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write_half() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            assert path.read_text() == "old"
            raise OSError

    with pytest.raises(OSError):  # noqa: PT011
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
