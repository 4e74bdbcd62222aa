"""The theory pages name the test that checks each statement, and the code of the user guide runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rmve import pl

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


GALLERY = ROOT / "docs" / "gallery.md"
PAGES = [page for page in sorted((ROOT / "docs" / "user_guide").glob("*.md")) if code_of(page)]


def test_pages_have_code():
    """There is something to run."""
    assert {"model", "training", "saving", "extending", "spatial"} <= {page.stem for page in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_code_of_the_user_guide_runs(page, run_blocks):
    """The blocks of a page run one after the other; training is short, and long enough for clusters to compare."""
    run_blocks(code_of(page), page.stem, n_epochs=40 if page.stem == "model" else 6)


@pytest.mark.slow
def test_code_of_the_gallery_runs(run_blocks):
    """So that each line draws what the page shows."""
    run_blocks(code_of(GALLERY), "gallery", n_epochs=25)


def test_gallery_has_each_figure():
    """A section with code and a picture for each function of `rmve.pl`; no picture is left over or missing, all are small."""
    page = GALLERY.read_text(encoding="utf-8")
    code = "\n".join(code_of(GALLERY))
    assert [name for name in pl.__all__ if f"rmve.pl.{name}(" not in code] == []
    shown = re.findall(r"^```\{image\} (\S+)$", page, flags=re.MULTILINE)
    pictures = {f"figures/gallery/{path.name}": path for path in (ROOT / "docs" / "figures" / "gallery").glob("*.png")}
    assert sorted(shown) == sorted(pictures)
    assert code.count("rmve.pl.") == len(shown)
    assert sum(path.stat().st_size for path in pictures.values()) < 1e6
