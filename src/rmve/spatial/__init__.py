"""Linear maps from the latent space to physical space, how they are judged, and neighbourhoods in a tissue."""

from rmve.spatial._domains import pool_neighbors as pool_neighbors
from rmve.spatial._folds import SCHEMES, folds
from rmve.spatial._map import KINDS, cross_validate
from rmve.spatial._map import SpatialMap as SpatialMap
from rmve.spatial._quality import LITTLE as LITTLE
from rmve.spatial._quality import Quality, quality
from rmve.spatial._symmetry import find_mirrors as find_mirrors

#: ``SpatialMap`` and ``pool_neighbors`` are documented as names of the package.
__all__ = ["KINDS", "SCHEMES", "Quality", "cross_validate", "folds", "quality"]
