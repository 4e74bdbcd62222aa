"""Clusters inside a cluster: the model is trained again on its cells, with the genes that vary among them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

#: Fewest cells of a cluster that is looked into: below, a component of the start has fewer than ten.
MIN_CELLS = 40
#: Genes that are found in fewer cells than this share (and than three) tell nothing about a division of the cluster.
MIN_SHARE_OF_CELLS, MIN_CELLS_OF_GENE = 0.002, 3


def informative_genes(x: np.ndarray | sp.spmatrix) -> np.ndarray:
    """Genes that enough cells of a cluster express.

    Parameters
    ----------
    x
        Values of the cluster's cells, shape ``(n, G)``.

    Returns
    -------
    Boolean mask, shape ``(G,)``.
    """
    n_found = np.asarray((x != 0).sum(0)).ravel()
    return n_found >= max(MIN_CELLS_OF_GENE, MIN_SHARE_OF_CELLS * x.shape[0])


def choose(names: Sequence[str], wanted: str | Sequence[str] | None) -> list[str]:
    """Clusters to divide.

    Parameters
    ----------
    names
        Names of all clusters.
    wanted
        Name or names; ``None`` is all.

    Raises
    ------
    KeyError
        If there is no cluster of a name.
    """
    chosen = list(names) if wanted is None else [wanted] if isinstance(wanted, str) else list(wanted)
    unknown = [name for name in chosen if name not in names]
    if unknown:
        raise KeyError(f"There is no cluster {unknown[0]!r}. The clusters are {', '.join(map(repr, names))}.")
    return chosen


def places_of(cells: pd.Index, adata: AnnData) -> np.ndarray:
    """Row of ``adata`` of each cell; ValueError if it lacks some."""
    missing = cells.difference(adata.obs_names)
    if len(missing):
        raise ValueError(f"`adata` lacks {len(missing)} training cells, for example {missing[0]!r}.")
    return adata.obs_names.get_indexer(cells)


def divide(
    labels: pd.Series,
    chosen: list[str],
    adata: AnnData,
    layer: str | None,
    cluster: Callable[[AnnData], pd.Series],
    places: np.ndarray | None = None,
) -> pd.Series:
    """Cluster the cells of each chosen cluster on their own.

    Parameters
    ----------
    labels
        Cluster of each cell, categorical.
    chosen
        Clusters to divide.
    adata
        The cells, in memory or on disk.
    layer
        Layer of ``adata`` with the values; ``None`` is ``X``.
    cluster
        Returns the clusters of the cells of an AnnData, a categorical series; a single one if they are one population.
    places
        Row of ``adata`` of each cell, shape ``(n,)``; ``None``: they are in the order of ``labels``.

    Returns
    -------
    Categorical series: ``"3.0"``, ``"3.1"``, ... in place of ``"3"``, and the old name where a cluster stays whole.
    """
    fine, names = labels.astype(str), []
    for name in labels.cat.categories:
        rows = np.flatnonzero(labels == name)
        names.append([name])
        if name not in chosen or len(rows) < MIN_CELLS:
            continue
        part = adata[rows if places is None else places[rows]].to_memory()  # a view of cells on disk has no views
        x = part.X if layer is None else part.layers[layer]
        found = cluster(part[:, informative_genes(x)].copy())
        if found.nunique() > 1:
            names[-1] = [f"{name}.{inner}" for inner in found.cat.categories]
            fine.iloc[rows] = [f"{name}.{inner}" for inner in found]
    return pd.Series(pd.Categorical(fine, categories=[name for group in names for name in group]), index=labels.index)
