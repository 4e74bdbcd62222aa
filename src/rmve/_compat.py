"""Every import from scvi-tools that is not part of its public ``__all__``, in one place.

scvi-tools moves private names between minor releases; ``tests/test_compat.py`` imports each of these.
"""

from scvi.data._constants import _MANAGER_UUID_KEY as MANAGER_KEY
from scvi.data._constants import _MODEL_NAME_KEY as MODEL_NAME_KEY
from scvi.data._constants import _SCVI_UUID_KEY as UUID_KEY
from scvi.data._constants import _SETUP_ARGS_KEY as SETUP_ARGS_KEY
from scvi.data._constants import _SETUP_METHOD_NAME as SETUP_METHOD_KEY
from scvi.data.fields import (
    CategoricalJointObsField,
    CategoricalObsField,
    LabelsWithUnlabeledObsField,
    LayerField,
    NumericalJointObsField,
    NumericalObsField,
    ObsmField,
)
from scvi.model._utils import parse_device_args, use_distributed_sampler
from scvi.model.base._archesmixin import _set_params_online_update as freeze_for_query
from scvi.model.base._de_core import _de_core as compare_groups
from scvi.train._logger import SimpleLogger

__all__ = [
    "MANAGER_KEY",
    "MODEL_NAME_KEY",
    "SETUP_ARGS_KEY",
    "SETUP_METHOD_KEY",
    "UUID_KEY",
    "CategoricalJointObsField",
    "CategoricalObsField",
    "LabelsWithUnlabeledObsField",
    "LayerField",
    "NumericalJointObsField",
    "NumericalObsField",
    "ObsmField",
    "SimpleLogger",
    "compare_groups",
    "freeze_for_query",
    "parse_device_args",
    "use_distributed_sampler",
]
