"""The theory pages name the test that checks each statement, and the code of the user guide runs."""

from __future__ import annotations

import ast
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


def imported_modules(source: str) -> set[str]:
    """Modules and folders of the package that a file imports when it is imported, by their first name."""
    names = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.ImportFrom) and node.module == "rmve":
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rmve."):
            names.add(node.module.split(".")[1])
    return names


def test_imports_run_down_the_list():
    """Contributors are told of each public module, and none imports one that stands above it."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    order = re.findall(r"^    (\w+)(?:\.py|/) ", text, flags=re.MULTILINE)
    package = ROOT / "src" / "rmve"
    paths = {path.stem: path for path in package.glob("*") if re.fullmatch(r"[a-z]\w*(\.py)?", path.name)}
    assert sorted(order) == sorted(paths)
    upwards = []
    for place, name in enumerate(order):
        files = [paths[name]] if paths[name].is_file() else paths[name].glob("*.py")
        imported = set().union(*(imported_modules(file.read_text(encoding="utf-8")) for file in files))
        upwards += [f"{name} imports {above}" for above in order[:place] if above in imported]
    assert not upwards


def code_of(page: Path) -> list[str]:
    """Python blocks of a page, in their order."""
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


PAGES = [page for page in sorted((ROOT / "docs" / "user_guide").glob("*.md")) if code_of(page)]


def test_pages_have_code():
    """There is something to run."""
    assert {"model", "training", "saving", "extending", "spatial"} <= {page.stem for page in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_code_of_the_user_guide_runs(page, run_blocks):
    """The blocks of a page run one after the other; training is short, and long enough for clusters to compare."""
    run_blocks(code_of(page), page.stem, n_epochs=40 if page.stem == "model" else 6)
