"""RMVE: clusters, embeds and places single cells with a repulsive mixture variational autoencoder.

Names are imported when they are first asked for, so that ``import rmve`` and ``rmve --help`` need no torch.
"""

from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rmve import body, datasets, levels, maths, pl, stability
    from rmve.atlas import map_to_atlas
    from rmve.clusters.stability import Stability
    from rmve.domains import spatial_domains
    from rmve.model import RMVE
    from rmve.model._cut import cut_levels
    from rmve.spatial import SpatialMap, pool_neighbors

__all__ = [
    "RMVE",
    "SpatialMap",
    "Stability",
    "body",
    "cut_levels",
    "datasets",
    "levels",
    "map_to_atlas",
    "maths",
    "pl",
    "pool_neighbors",
    "spatial_domains",
    "stability",
]
__version__ = version("rmve")

#: Module of each public name that is no module itself.
_HOMES = {
    "RMVE": "rmve.model",
    "SpatialMap": "rmve.spatial",
    "Stability": "rmve.clusters.stability",
    "cut_levels": "rmve.model._cut",
    "map_to_atlas": "rmve.atlas",
    "pool_neighbors": "rmve.spatial",
    "spatial_domains": "rmve.domains",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        value = globals()[name] = getattr(import_module(_HOMES[name]), name)
        return value
    if not name.startswith("__") and find_spec(f"rmve.{name}") is not None:
        return import_module(f"rmve.{name}")
    raise AttributeError(f"module 'rmve' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
