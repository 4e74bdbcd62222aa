"""Figures of RMVE's results, from the names that :meth:`rmve.RMVE.annotate` wrote into AnnData alone.

They work the same on an AnnData read back from disk, and leave it as it is. Only :func:`history`, of a training, and
:func:`stability`, of several, take what they draw as their argument.
"""

from rmve.pl._body import body_map
from rmve.pl._components import components
from rmve.pl._confidence import confidence
from rmve.pl._confusion import confusion
from rmve.pl._embedding import embedding
from rmve.pl._history import history
from rmve.pl._markers import markers
from rmve.pl._merge_tree import merge_tree
from rmve.pl._programmes import gene_programmes
from rmve.pl._separation import separation
from rmve.pl._spatial import spatial
from rmve.pl._spatial_fit import spatial_error, spatial_fit, spatial_genes
from rmve.pl._stability import stability

__all__ = [
    "body_map",
    "components",
    "confidence",
    "confusion",
    "embedding",
    "gene_programmes",
    "history",
    "markers",
    "merge_tree",
    "separation",
    "spatial",
    "spatial_error",
    "spatial_fit",
    "spatial_genes",
    "stability",
]
