"""How RMVE is trained: options, phases, schedules and callbacks."""

from rmve.training._data import TrainingData
from rmve.training._options import TrainingOptions
from rmve.training._plan import RMVETrainingPlan

__all__ = ["RMVETrainingPlan", "TrainingData", "TrainingOptions"]
