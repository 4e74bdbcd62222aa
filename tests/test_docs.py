"""The theory pages name the test that checks each statement, and the code of the user guide runs."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch

import rmve

ROOT = Path(__file__).resolve().parents[1]
CITED = sorted(
    {
        match
        for page in (ROOT / "docs").glob("theory/*.md")
        for match in re.findall(r"(tests/[\w/]+\.py)::(\w+)", page.read_text(encoding="utf-8"))
    }
)


def test_pages_cite_tests():
    """There is something to check."""
    assert len(CITED) > 30


@pytest.mark.parametrize(("file", "name"), CITED)
def test_cited_test_exists(file, name):
    """A test that a page names is there."""
    assert re.search(rf"^def {name}\(", (ROOT / file).read_text(encoding="utf-8"), flags=re.MULTILINE)


def code_of(page: Path) -> list[str]:
    """Python blocks of a page, in their order."""
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


PAGES = [page for page in sorted((ROOT / "docs" / "user_guide").glob("*.md")) if code_of(page)]


def test_pages_have_code():
    """There is something to run."""
    assert {"model", "training", "saving", "extending", "spatial"} <= {page.stem for page in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_code_of_the_user_guide_runs(page, tmp_path, monkeypatch):
    """The blocks of a page run one after the other; training is short."""

    @functools.wraps(rmve.RMVE.train)
    def train(self, *args, **options):
        return original(self, *args, **({"max_epochs": 6} | options | {"quiet": True}))

    original = rmve.RMVE.train
    monkeypatch.setattr(rmve.RMVE, "train", train)
    monkeypatch.chdir(tmp_path)
    repulsions = dict(rmve.maths.repulsion.REPULSIONS)
    namespace: dict[str, object] = {"__name__": page.stem}
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            for block in code_of(page):
                exec(compile(block, f"{page.name}: {block.splitlines()[0]}", "exec"), namespace)
    finally:
        for name in set(rmve.maths.repulsion.REPULSIONS) - set(repulsions):
            del rmve.maths.repulsion.REPULSIONS[name]
        plt.close("all")
