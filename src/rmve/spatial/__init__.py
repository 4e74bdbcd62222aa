"""Linear maps from the latent space to physical space, how they are judged, and neighbourhoods in a tissue."""

from rmve.spatial._domains import pool_neighbors
from rmve.spatial._map import KINDS, SCHEMES, Quality, SpatialMap, cross_validate, folds, quality

__all__ = ["KINDS", "SCHEMES", "Quality", "SpatialMap", "cross_validate", "folds", "pool_neighbors", "quality"]
