"""The model on AnnData: what it is made of, how it is trained, and what it knows."""

from rmve.model._model import RMVE

__all__ = ["RMVE"]
