"""Every import from scvi-tools that is not part of its public ``__all__``, in one place.

scvi-tools moves private names between minor releases; ``tests/test_compat.py`` imports each of these.
"""

from scvi.data._constants import _MODEL_NAME_KEY as MODEL_NAME_KEY
from scvi.data._constants import _SETUP_ARGS_KEY as SETUP_ARGS_KEY
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
from scvi.train._logger import SimpleLogger

__all__ = [
    "MODEL_NAME_KEY",
    "SETUP_ARGS_KEY",
    "CategoricalJointObsField",
    "CategoricalObsField",
    "LabelsWithUnlabeledObsField",
    "LayerField",
    "NumericalJointObsField",
    "NumericalObsField",
    "ObsmField",
    "SimpleLogger",
    "parse_device_args",
    "use_distributed_sampler",
]
