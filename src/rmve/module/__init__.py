"""The generative model and its inference network."""

from rmve.module._module import POSTERIORS, RMVEModule
from rmve.module._objective import Objective

__all__ = ["POSTERIORS", "Objective", "RMVEModule"]
