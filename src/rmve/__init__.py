"""RMVE: clusters, embeds and places single cells with a repulsive mixture variational autoencoder."""

from importlib.metadata import version

from rmve import datasets, maths, pl
from rmve.model import RMVE
from rmve.spatial import SpatialMap
from rmve.stability import Stability

__all__ = ["RMVE", "SpatialMap", "Stability", "datasets", "maths", "pl"]
__version__ = version("rmve")
