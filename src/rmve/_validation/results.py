"""Checks of names that results are to be written under."""

from __future__ import annotations

from collections.abc import Mapping

import anndata as ad
import numpy as np
import pandas as pd

from rmve._keys import Written


def check_key_added(adata: ad.AnnData, key: str, registered: Mapping[str, set], with_map: bool) -> None:
    """Raise unless results can be written under ``key`` without losing the user's data.

    Parameters
    ----------
    adata
        Where to write.
    key
        The ``key_added`` of ``annotate``.
    registered
        Names in each part of ``adata`` that the model reads.
    with_map
        Whether there is a spatial map, whose results have names, too.

    Raises
    ------
    TypeError
        If it is not a string.
    ValueError
        If it is empty, holds ``/`` (which h5ad cannot store), or one of the names made from it holds something that
        RMVE did not write, or that the model reads.
    """
    if not isinstance(key, str):
        raise TypeError(f"`key_added` must be a string, not {type(key).__name__}.")
    if not key or "/" in key or not key.isprintable():
        raise ValueError(f"`key_added` must not be empty or hold '/' or control characters; got {key!r}.")
    for part, name in foreign_names(adata, key, with_map) + [
        (part, name) for part, name in Written(key).places(with_map) if name in registered.get(part, ())
    ]:
        raise ValueError(f"`key_added={key!r}` would overwrite `adata.{part}[{name!r}]`. Choose another name.")


def foreign_names(adata: ad.AnnData, key: str, with_map: bool) -> list[tuple[str, str]]:
    """Part and name of all that stands where results are to be written, and was not written by RMVE."""
    ours = _own_results(adata, Written(key))
    return [
        (part, name)
        for part, name in Written(key).places(with_map)
        if name in getattr(adata, part) and (part, name) not in ours
    ]


def _own_results(adata: ad.AnnData, names: Written) -> set[tuple[str, str]]:
    """What an earlier ``annotate`` wrote: it left its version and the names of its clusters, which are still there."""
    entry = adata.uns.get(names.uns)
    versions = entry.get("versions") if isinstance(entry, Mapping) else None
    if not isinstance(versions, Mapping) or "rmve" not in versions:
        return set()
    ours = set(names.places(with_map="spatial_map" in entry))
    components, column = entry.get("components"), adata.obs.get(names.cluster)
    if column is not None and isinstance(components, pd.DataFrame) and "cluster" in components:
        known = set(components["cluster"].astype(str))
        if not set(map(str, pd.unique(column.dropna()))) <= known:  # somebody gave the clusters other names
            ours.discard(("obs", names.cluster))
    latent, means = adata.obsm.get(names.latent), entry.get("component_means")
    if latent is not None and means is not None and np.shape(latent)[1:] != np.shape(means)[1:]:
        ours.discard(("obsm", names.latent))
    return ours
