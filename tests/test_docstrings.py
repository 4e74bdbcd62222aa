"""Everything public is documented, and the examples run."""

from __future__ import annotations

import contextlib
import doctest
import enum
import functools
import importlib
import inspect
import io
import pkgutil
import re

import pytest
import torch

import rmve
import rmve.model
from rmve._docs import PLACE

MODULES = ["rmve", *(module.name for module in pkgutil.walk_packages(rmve.__path__, "rmve."))]


def own_members(owner):
    """Public functions, classes and properties that ``owner`` itself defines, with their names."""
    for name, member in vars(owner).items():
        if name.startswith("_") and name != "__init__":
            continue
        function = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        if isinstance(function, property):
            yield f"{owner.__name__}.{name}", function
        elif inspect.isclass(function) or inspect.isroutine(function):
            if getattr(function, "__module__", "").startswith("rmve"):
                yield f"{owner.__name__}.{name}", function


def public_objects():
    """Modules, their public functions and classes, and the public methods of those classes."""
    for name in MODULES:
        module = importlib.import_module(name)
        yield name, module
        for member_name, member in own_members(module):
            if member.__module__ != name or isinstance(member, enum.EnumType):
                continue
            yield member_name, member
            if inspect.isclass(member):
                yield from ((n, m) for n, m in own_members(member) if not n.endswith("__init__"))


OBJECTS = dict(public_objects())


def test_the_list_is_complete():
    """The tests below see modules, functions, classes, methods, class methods and properties."""
    for name in (
        "rmve.training",
        "rmve.defaults.default_epochs",
        "RMVE.train",
        "RegisteredModel.setup_anndata",
        "RMVE.annotate",
        "RMVE.n_clusters",
        "rmve.maths.repulsion.expected_overlap",
        "SavedModel.load",
    ):
        assert name in OBJECTS


@pytest.mark.parametrize("name", OBJECTS)
def test_documented(name):
    """Each public object has a description of its own, without a placeholder left in it."""
    text = OBJECTS[name].__doc__
    assert (text or "").strip(), "no docstring"
    assert not PLACE.search(inspect.cleandoc(text))


@pytest.mark.parametrize("name", [name for name, member in OBJECTS.items() if inspect.isroutine(member)])
def test_parameters_are_those_of_the_signature(name):
    """A section on parameters names only parameters that there are, and in methods of RMVE all of them."""
    function = OBJECTS[name]
    text = inspect.getdoc(function) or ""
    if "Parameters\n----------" not in text:
        return
    section = re.split(r"\n\S[^\n]*\n-{3,}\n", text.split("Parameters\n----------\n")[1])[0]
    lines = [line for line in section.splitlines() if line and not line.startswith(" ")]
    documented = {word.strip().lstrip("*") for line in lines for word in line.split(":")[0].split(",")}
    parameters = set(inspect.signature(function).parameters) - {"self", "cls"}
    assert documented <= parameters
    if function.__qualname__.split(".")[0] in {part.__name__ for part in rmve.RMVE.__mro__}:
        assert parameters - documented <= {"kwargs"}


def public_methods_of_rmve():
    """Names of all that a user can call on a model, inherited ones included."""
    return [name for name, _ in inspect.getmembers(rmve.RMVE) if not name.startswith("_")]


@pytest.mark.parametrize("name", public_methods_of_rmve())
def test_methods_of_the_model_have_a_docstring(name):
    """What a model inherits is documented, too; placeholders are allowed in scvi-tools' own texts only."""
    member = inspect.getattr_static(rmve.RMVE, name)
    function = member.__func__ if isinstance(member, classmethod | staticmethod) else member
    function = function.fget if isinstance(function, property) else function
    if not callable(function):
        return
    assert inspect.getdoc(getattr(rmve.RMVE, name))
    if function.__module__.startswith("rmve"):
        assert "%(" not in function.__doc__


def examples():
    """Docstrings of the package with examples in them."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = []
    for name in MODULES:
        found += [test for test in finder.find(importlib.import_module(name)) if test.examples]
    return {test.name: test for test in found}


EXAMPLES = examples()


def test_the_model_has_an_example():
    """The class that users meet first shows how it is used."""
    assert "rmve.model._model.RMVE" in EXAMPLES


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_run(name, monkeypatch):
    """Examples give the output that they show, the progress bar aside."""
    monkeypatch.setattr(rmve.RMVE, "train", functools.partialmethod(rmve.RMVE.train, enable_progress_bar=False))
    report = io.StringIO()
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    with torch.random.fork_rng(devices=[]), contextlib.redirect_stderr(io.StringIO()):
        torch.manual_seed(0)
        runner.run(EXAMPLES[name], out=report.write, clear_globs=False)
    assert runner.failures == 0, report.getvalue()
