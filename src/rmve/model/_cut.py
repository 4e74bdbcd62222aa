"""Clusters of other levels, from annotated cells alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from anndata import AnnData

from rmve import _validation as check
from rmve._keys import DEFAULT_KEY, Written
from rmve.clusters._clusters import Clusters
from rmve.clusters.levels import MergeTree


def level_names(tree: MergeTree, clusters_at: Callable[[int], Clusters]) -> pd.DataFrame:
    """Name of each component's cluster, rows, at each level, columns, from the finest to the coarsest.

    Parameters
    ----------
    tree
        Merges of the components.
    clusters_at
        Clusters of a level, from their number.
    """
    columns = {}
    for number in range(tree.n_finest, tree.n_coarsest - 1, -1):
        clusters = clusters_at(number)
        columns[str(number)] = [clusters.names[cluster] for cluster in clusters.of_component]
    return pd.DataFrame(columns, index=pd.RangeIndex(tree.n_components).astype(str))


def level_columns(adata: AnnData, names: Written, levels: Sequence[int], registered: set) -> dict[str, int]:
    """Column of ``obs`` for each level.

    Raises
    ------
    ValueError
        If a column is there and was not written by RMVE, or is read by the model.
    """
    if not isinstance(levels, Sequence | np.ndarray) or isinstance(levels, str):
        raise TypeError(f"`levels` must be a list of numbers of clusters, not {levels!r}.")
    ours = own_columns(adata, names)
    columns = {f"{names.cluster}_{number}": number for number in levels}
    for name in columns:
        if name in registered or (name in adata.obs and name not in ours):
            raise ValueError(f"`levels` would overwrite `adata.obs[{name!r}]`. Choose another `key_added`.")
    return columns


def own_columns(adata: AnnData, names: Written) -> set[str]:
    """Columns of ``obs`` with levels that earlier calls of ``annotate`` wrote, and nobody changed since."""
    entries = adata.uns.get(names.uns)
    written = entries.get("level_columns", ()) if isinstance(entries, Mapping) else ()
    changed = check.changed_places(adata, names)
    return {str(name) for name in written if name in adata.obs and ("obs", name) not in changed}


def labels_at(table: pd.DataFrame, sizes: np.ndarray, component: pd.Series, n_clusters: int) -> pd.Series:
    """Cluster of each cell at a level.

    Parameters
    ----------
    table
        From :func:`level_names`.
    sizes
        Training cells of each component.
    component
        Component of each cell, as text.
    n_clusters
        Number of clusters of the level.

    Raises
    ------
    ValueError
        If there is no such level.
    """
    if isinstance(n_clusters, bool) or str(n_clusters) not in table:
        least, most = table.columns[-1], table.columns[0]
        raise ValueError(f"There is no level of {n_clusters!r} clusters: the levels are those of {least} to {most}.")
    names = table[str(n_clusters)].astype(str)
    total = pd.Series(np.asarray(sizes), index=names.to_numpy()).groupby(level=0).sum()
    number = {name: int(name) if name.isdecimal() else len(total) for name in total.index}
    order = sorted(total.index, key=lambda name: (-total[name], number[name], name))
    labels = names.reindex(component.astype(str)).to_numpy()
    return pd.Series(pd.Categorical(labels, categories=order), index=component.index)


def cut_levels(adata: AnnData, n_clusters: int, key: str = DEFAULT_KEY) -> pd.Series:
    """Clusters at another level, from annotated cells alone, without the model.

    Parameters
    ----------
    adata
        Cells that :meth:`rmve.RMVE.annotate` wrote to; it is left as it is.
    n_clusters
        Number of clusters, from the coarsest to the finest level: see ``adata.uns[key]["resolutions"]``.
    key
        ``key_added`` of ``annotate``.

    Returns
    -------
    Categorical series, what :meth:`rmve.RMVE.merge_components` would return for these cells.

    Raises
    ------
    KeyError
        If ``adata`` was not annotated under ``key``.
    ValueError
        If there is no level of that number.

    Examples
    --------
    >>> adata.obs["coarse"] = rmve.cut_levels(adata, 3)  # doctest: +SKIP
    """
    names = Written(key)
    entries = adata.uns.get(names.uns)
    call = "" if key == DEFAULT_KEY else f"key_added={key!r}"
    for part, where, name in ((entries or {}, f"uns[{names.uns!r}]", "levels"), (adata.obs, "obs", names.finest)):
        if name not in part:
            raise KeyError(f"`adata.{where}[{name!r}]` is missing. Call `model.annotate({call})` first.")
    sizes = entries["components"]["n_cells"].to_numpy()
    return labels_at(entries["levels"], sizes, adata.obs[names.finest], n_clusters).rename(f"{key}_{n_clusters}")
