"""The theory pages name the test that checks each statement."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

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
