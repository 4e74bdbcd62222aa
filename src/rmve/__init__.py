"""RMVE: clusters, embeds and places single cells with a repulsive mixture variational autoencoder."""

import sys
from importlib.metadata import version

from rmve import body, datasets, maths, pl
from rmve.clusters import levels, stability
from rmve.clusters.stability import Stability
from rmve.domains import pool_neighbors
from rmve.model import RMVE
from rmve.model._cut import cut_levels
from rmve.spatial import SpatialMap

#: Public names of modules that are in a folder.
sys.modules |= {"rmve.levels": levels, "rmve.stability": stability}

__all__ = [
    "RMVE",
    "SpatialMap",
    "Stability",
    "body",
    "cut_levels",
    "datasets",
    "levels",
    "maths",
    "pl",
    "pool_neighbors",
    "stability",
]
__version__ = version("rmve")
