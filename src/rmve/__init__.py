"""RMVE: clusters, embeds and places single cells with a repulsive mixture variational autoencoder."""

from importlib.metadata import version

from rmve import body, datasets, maths, pl
from rmve._level_names import cut_levels
from rmve.domains import pool_neighbors
from rmve.model import RMVE
from rmve.spatial import SpatialMap
from rmve.stability import Stability

__all__ = ["RMVE", "SpatialMap", "Stability", "body", "cut_levels", "datasets", "maths", "pl", "pool_neighbors"]
__version__ = version("rmve")
