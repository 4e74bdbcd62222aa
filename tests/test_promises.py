"""Each promise, and each fault that was found, names a test that is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
GUIDE = ROOT / "docs" / "user_guide"
PROMISES, ATTACKS = ((GUIDE / name).read_text(encoding="utf-8") for name in ("promises.md", "attacks.md"))
NAMED = sorted(set(re.findall(r"`((?:\w+/)*test_\w+\.py)::(\w+)`", PROMISES + ATTACKS)))
TESTS = re.compile(r"`(?:\w+/)*test_\w+\.py::\w+`")


def rows(page: str) -> list[list[str]]:
    """Cells of the tables of a page, without their heads."""
    lines = [line.strip().strip("|").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line] for line in lines if not set("".join(line)) <= set("-| ")]


def test_there_are_names():
    """There is something to check."""
    assert len(NAMED) > 60


@pytest.mark.parametrize(("file", "name"), NAMED, ids=lambda part: part)
def test_named_test_is_there(file, name):
    """A test that a page names exists, and is not skipped."""
    text = (ROOT / "tests" / file).read_text(encoding="utf-8")
    found = re.search(rf"((?:^@.*\n|^[ )\]].*\n)*)^def {name}\(", text, flags=re.MULTILINE)
    assert found
    assert "mark.skip(" not in found[1]
    assert "mark.xfail" not in found[1]


def test_each_fault_has_a_state_and_a_test():
    """All 42 of the review, each once, mended or refused with a reason."""
    found = {row[0]: row for row in rows(ATTACKS) if re.fullmatch(r"F\d+", row[0])}
    assert list(found) == [f"F{n}" for n in range(1, 43)]
    for number, (_, _, state, tests) in found.items():
        assert state.startswith(("mended", "refused")), number
        assert TESTS.search(tests), number


def test_each_promise_has_a_test():
    """What the page says in bold letters stands in its table of tests, and nothing else does."""
    said = [re.sub(r"\s+", " ", promise) for promise in re.findall(r"^\*\*(.*?)\*\*", PROMISES, flags=re.M | re.S)]
    table = {row[0]: row[1] for row in rows(PROMISES.partition("## Tests of each promise")[2])[1:]}
    assert list(table) == [promise.rstrip(".") for promise in said]
    assert all(TESTS.search(tests) for tests in table.values())


def test_pages_that_promise_a_result_name_the_threads():
    """The same seed gives the same result with the same number of threads, and all who say the one say the other."""
    silent = []
    for page in [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "src" / "rmve" / "cli.py"]:
        for part in re.split(r"\n\s*\n|\n\|", page.read_text(encoding="utf-8")):
            if re.search(r"same seed[^.]{0,80}same result", part, flags=re.I | re.S) and "thread" not in part:
                silent.append(page.name)
    assert not silent
