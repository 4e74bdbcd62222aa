"""Every bad input of the list gets its error, and changes nothing."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from pathlib import Path

import matplotlib.pyplot as plt
import pytest


def _load(name: str):
    """A module beside this one, under every import mode of pytest."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


bad_inputs = _load("bad_inputs")
CASES = bad_inputs.CASES


@pytest.fixture
def world(cells, saved, partly_labelled, batched, tmp_path, make_cells, forge):
    """What the cases act on."""
    yield bad_inputs.World(cells, saved, partly_labelled, batched, tmp_path, make_cells, forge)
    plt.close("all")


def test_there_are_many_and_each_is_another():
    """The list is long, and no case is on it twice."""
    assert len(CASES) >= 200
    twice = [name for name, n in Counter((case.where, case.given) for case in CASES).items() if n > 1]
    assert not twice


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.where}-{case.given}")
def test_bad_input(case, world, contents, assert_same, monkeypatch):
    """The error is of the kind on the list, names what is at fault, and the data is as it was."""
    seen = {}
    traces = case.where != "setup_anndata"  # scvi-tools' own notes may be there, but not after a set-up that failed

    def look(adata, change=None):
        if change is not None:
            change(adata)
        seen["adata"], seen["before"] = adata, contents(adata, without_scvi=traces)
        return adata

    monkeypatch.setattr(bad_inputs, "changed", look)
    look(world.cells)
    with pytest.raises(case.error) as caught:
        case.act(world)
    assert type(caught.value) is case.error
    message = str(caught.value.args[0])
    assert case.named in message
    assert message.rstrip().endswith((".", "?"))
    if not case.where.startswith("pl."):  # whose cases annotate first
        assert_same(seen["before"], contents(seen["adata"], without_scvi=traces))
