"""Names that users give to clusters, kept at all levels, and what clusters are called at each level."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData

from rmve._cluster_names import free_name
from rmve._keys import DEFAULT_KEY, Written

if TYPE_CHECKING:
    from rmve.model import RMVE


def renamed(names: Sequence[str], new: Mapping[str, str]) -> list[str]:
    """Names after some were exchanged.

    Parameters
    ----------
    names
        Name of each cluster.
    new
        From old names to new ones.

    Raises
    ------
    KeyError
        If there is no cluster of a name.
    TypeError
        If ``new`` is no dictionary of text.
    ValueError
        If two clusters would have one name, or one is empty.
    """
    if not isinstance(new, Mapping):
        raise TypeError(f"`names` must be a dictionary from clusters to names, not {type(new).__name__}.")
    for old, name in new.items():
        if old not in names:
            raise KeyError(f"There is no cluster {old!r} (`names`). The clusters are {', '.join(map(repr, names))}.")
        if not isinstance(name, str):
            raise TypeError(f"`names[{old!r}]` must be a string, not {type(name).__name__}.")
        if not name or not name.isprintable():
            raise ValueError(f"`names[{old!r}]` must not be empty or hold control characters; got {name!r}.")
    found = [new.get(name, name) for name in names]
    twice = [name for name in dict.fromkeys(found) if found.count(name) > 1]
    if twice:
        raise ValueError(
            f"`names` calls two clusters {twice[0]!r}. Choose another name for one, or merge them by `merge_components`."
        )
    return found


def with_given_names(
    names: Sequence[str], cluster_of: Sequence[int], given: Mapping[str, Sequence[int]], active: Iterable[int]
) -> list[str]:
    """Names of clusters, of which those that users named, at whatever level, keep their name.

    Parameters
    ----------
    names
        Name of each cluster without them.
    cluster_of
        Cluster of each component.
    given
        Components of each name that was given.
    active
        Components that hold cells; others do not count.
    """
    active = set(map(int, active))
    parts: dict[int, set[int]] = {}
    for component in active:
        parts.setdefault(int(cluster_of[component]), set()).add(component)
    found = {
        cluster: name
        for name, of_name in given.items()
        for cluster, part in parts.items()
        if part == set(of_name) & active
    }
    taken, result = set(found.values()), []
    for cluster, name in enumerate(names):
        if cluster not in found:
            name = free_name(name, taken)
            taken.add(name)
        result.append(found.get(cluster, name))
    return result


def level_table(model: RMVE, assignment: np.ndarray) -> pd.DataFrame:
    """Name of each component's cluster, rows, at each level, columns, from the finest to the coarsest.

    Parameters
    ----------
    model
        A trained model.
    assignment
        ``q(y|x)`` of the training data.
    """
    tree, columns = model.tree, {}
    for number in range(tree.n_finest, tree.n_coarsest - 1, -1):
        cluster_of = model._numbered(tree.cut(number), assignment)
        names = model._names_of(cluster_of)
        columns[str(number)] = [names[cluster] for cluster in cluster_of]
    return pd.DataFrame(columns, index=pd.RangeIndex(tree.n_components).astype(str))


def labels_at(table: pd.DataFrame, sizes: np.ndarray, component: pd.Series, n_clusters: int) -> pd.Series:
    """Cluster of each cell at a level.

    Parameters
    ----------
    table
        From :func:`level_table`.
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
    return pd.Series(pd.Categorical(labels, categories=order), index=component.index, name=f"rmve_{n_clusters}")


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
