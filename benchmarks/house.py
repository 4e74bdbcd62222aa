"""Figures of the source itself: sizes of files and functions, what stands on top, what a class reads of other files.

    python benchmarks/house.py                      # RMVE
    python benchmarks/house.py scvi scanpy anndata  # and packages that are installed beside it

Accesses that leave their file are those of ``self.x`` and ``cls.x``, in the main class and its bases of the same package,
where ``x`` is defined in none of the file's classes; names that come from other packages are counted apart.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

ROOT = Path(__file__).parents[1]
MAIN_CLASS = {"rmve": "RMVE", "scvi": "SCVI"}


def parse(folder: Path) -> dict[Path, ast.Module]:
    """All modules of a package, without the ``__init__`` files."""
    return {path: ast.parse(path.read_text()) for path in sorted(folder.rglob("*.py")) if path.name != "__init__.py"}


def n_lines(paths: Iterator[Path] | list[Path]) -> list[int]:
    return [len(path.read_text().splitlines()) for path in paths]


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def docstring_lines(tree: ast.Module) -> int:
    """Lines of all docstrings of a module."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    documented = [node for node in ast.walk(tree) if isinstance(node, kinds) and ast.get_docstring(node) is not None]
    return sum(node.body[0].end_lineno - node.body[0].lineno + 1 for node in documented)


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function after its docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def main_classes(trees: dict[Path, ast.Module], name: str) -> list[tuple[Path, ast.ClassDef]]:
    """A class, and those of its bases that the package itself defines, with their files."""
    known = {
        node.name: (path, node) for path, tree in trees.items() for node in tree.body if isinstance(node, ast.ClassDef)
    }
    found, wanted = [], [name]
    while wanted:
        if (entry := known.pop(wanted.pop(0), None)) is not None:
            found.append(entry)
            wanted += [base.id for base in entry[1].bases if isinstance(base, ast.Name)]
    return found


def defined(owner: ast.ClassDef) -> set[str]:
    """Names of methods, class attributes, and attributes that methods set."""
    names = set()
    for node in ast.walk(owner):
        if isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def accesses(trees: dict[Path, ast.Module], name: str) -> dict[str, object]:
    """Reads of attributes of a class by its own methods: all, and those that another file defines."""
    classes = main_classes(trees, name)
    by_file = {path: set().union(*(defined(node) for p, node in classes if p == path)) for path, _ in classes}
    own = set().union(*by_file.values())
    read = [
        (path, node.attr)
        for path, owner in classes
        for node in ast.walk(owner)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
        if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
    ]
    leaving = [attr for path, attr in read if attr not in by_file[path]]
    return {
        "files of the main class": len(by_file),
        "reads of `self.x`": len(read),
        "of them leave their file": sum(attr in own for attr in leaving),
        "of them another package's": sum(attr not in own for attr in leaving),
        "longest method body": max(body_lines(node) for _, owner in classes for node in functions(owner)),
    }


def figures(name: str, folder: Path, tests: Path | None) -> dict[str, object]:
    """Figures of one package."""
    trees = parse(folder)
    sizes = n_lines(list(trees))
    lengths = [node.end_lineno - node.lineno + 1 for tree in trees.values() for node in functions(tree)]
    longest = list(trees)[int(np.argmax(sizes))]
    row: dict[str, object] = {
        "files": len(sizes),
        "lines": sum(sizes),
        "median file": int(np.median(sizes)),
        "longest file": f"{max(sizes)} ({longest.relative_to(folder)})",
        "files above 400 lines": sum(size > 400 for size in sizes),
        "median function": int(np.median(lengths)),
        "95 % of functions": int(np.percentile(lengths, 95)),
        "longest function": max(lengths),
        "modules on top": sum(path.parent == folder for path in trees),
        "packages on top": sum((path / "__init__.py").is_file() for path in folder.iterdir()),
        "share of docstrings": f"{sum(map(docstring_lines, trees.values())) / sum(sizes):.0%}",
    }
    if name in MAIN_CLASS:
        row |= accesses(trees, MAIN_CLASS[name])
    if tests is not None:
        n_tests = sum(n_lines(list(tests.rglob("*.py"))))
        row |= {"lines of tests": n_tests, "tests / source": f"{n_tests / sum(sizes):.2f}"}
    return row


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("packages", nargs="*", help="packages to set beside RMVE")
    table = {"rmve": figures("rmve", ROOT / "src" / "rmve", ROOT / "tests")}
    for package in parser.parse_args().packages:
        found = importlib.util.find_spec(package)
        table[package] = figures(package, Path(found.submodule_search_locations[0]), None)
    print(pd.DataFrame(table).fillna("").to_string())
