"""RMVE: clusters, embeds and places single cells with a repulsive mixture variational autoencoder."""

from importlib.metadata import version

from rmve import body, datasets, maths, pl
from rmve.domains import pool_neighbors
from rmve.model import RMVE
from rmve.spatial import SpatialMap
from rmve.stability import Stability

__all__ = ["RMVE", "SpatialMap", "Stability", "body", "datasets", "maths", "pl", "pool_neighbors"]
__version__ = version("rmve")
