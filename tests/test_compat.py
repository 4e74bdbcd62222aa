"""Every name from scvi-tools that is not public is still there, and behaves as RMVE expects."""

from __future__ import annotations

import inspect
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from scvi.model.base import BaseModelClass
from scvi.train import TrainingPlan

from rmve import _compat


@pytest.mark.parametrize("name", _compat.__all__)
def test_name_is_there(name):
    """Each name is imported and listed."""
    assert getattr(_compat, name) is not None


def test_all_imports_are_listed():
    """``__all__`` lists all that the module imports, so that the test above sees it."""
    imported = {name for name in vars(_compat) if not name.startswith("__")}
    assert imported == set(_compat.__all__)


def test_least_version_of_torch():
    """Older versions can be made to execute code, or to write outside of memory, by a file of weights."""
    path = Path(__file__).parents[1] / "pyproject.toml"
    requirements = map(Requirement, tomllib.loads(path.read_text())["project"]["dependencies"])
    (torch,) = (requirement for requirement in requirements if requirement.name == "torch")
    assert not any(torch.specifier.contains(version) for version in ("2.5.1", "2.6.0", "2.9.1"))
    assert torch.specifier.contains("2.10.0")


def test_registry_keys():
    """The names in a model's registry are those that saved models hold."""
    assert (_compat.MODEL_NAME_KEY, _compat.SETUP_ARGS_KEY) == ("model_name", "setup_args")


def test_device_arguments():
    """A device is parsed into torch's form."""
    *_, device = _compat.parse_device_args("cpu", "auto", return_device="torch", validate_single_device=True)
    assert device.type == "cpu"


@pytest.mark.parametrize(
    ("owner", "names"),
    [
        (BaseModelClass, ["_validate_anndata", "_make_data_loader", "_check_if_trained", "_get_init_params"]),
        (BaseModelClass, ["_get_most_recent_anndata_manager", "_register_manager_for_instance", "get_var_names"]),
        (TrainingPlan, ["compute_and_log_metrics", "n_obs_training"]),
    ],
)
def test_methods_of_base_classes(owner, names):
    """Methods of scvi-tools that RMVE overrides or calls exist."""
    for name in names:
        assert inspect.getattr_static(owner, name) is not None
