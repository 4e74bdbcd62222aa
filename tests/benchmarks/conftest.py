import sys
from pathlib import Path

import pytest

# The scripts import one another by their bare names, as they do when they are run.
FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
MODULES = [path.stem for path in FOLDER.glob("*.py")]


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    yield
    for name in MODULES:
        sys.modules.pop(name, None)
