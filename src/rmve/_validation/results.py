"""Checks of names that results are to be written under."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

from rmve._keys import Written
from rmve.data.checksums import array_checksum, column_checksum

#: Entries of ``uns`` that :meth:`rmve.RMVE.annotate` writes.
ENTRIES = {"params", "components", "component_means", "component_variances", "resolutions", "levels", "level_columns"}
ENTRIES |= {"versions", "spatial_map", "spatial_genes", "held_out", "checksums"}
#: Entry of the checksums for the names of the cells.
CELLS = "cells"


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
    _check_name(key)
    for part, name in foreign_names(adata, key, with_map) + [
        (part, name) for part, name in Written(key).places(with_map) if name in registered.get(part, ())
    ]:
        raise ValueError(f"`key_added={key!r}` would overwrite `adata.{part}[{name!r}]`. Choose another name.")


def _check_name(key: object) -> None:
    if not isinstance(key, str):
        raise TypeError(f"`key_added` must be a string, not {type(key).__name__}.")
    if not key or "/" in key or not key.isprintable():
        raise ValueError(f"`key_added` must not be empty or hold '/' or control characters; got {key!r}.")


def foreign_names(adata: ad.AnnData, key: str, with_map: bool) -> list[tuple[str, str]]:
    """Part and name of all that stands where results are to be written, and was not written by RMVE."""
    ours = _own_results(adata, Written(key))
    return [
        (part, name)
        for part, name in Written(key).places(with_map)
        if name in getattr(adata, part) and (part, name) not in ours
    ]


def _own_results(adata: ad.AnnData, names: Written) -> set[tuple[str, str]]:
    """What an earlier ``annotate`` wrote, for which it left its version, and nobody changed since."""
    entry = adata.uns.get(names.uns)
    versions = entry.get("versions") if isinstance(entry, Mapping) else None
    if not isinstance(versions, Mapping) or "rmve" not in versions:
        return set()
    ours = set(names.places(with_map="spatial_map" in entry))
    if not set(entry) <= ENTRIES:  # somebody keeps something of their own among them
        ours.discard(("uns", names.uns))
    if not _are_our_clusters(adata, names, entry.get("components")):
        ours.discard(("obs", names.cluster))
    probabilities, confidence = adata.obsm.get(names.probabilities), adata.obs.get(names.confidence)
    if isinstance(probabilities, pd.DataFrame) and confidence is not None:
        largest = probabilities.to_numpy().max(axis=1)
        if confidence.dtype.kind != "f" or not np.allclose(largest, confidence, atol=1e-6):
            ours.discard(("obs", names.confidence))
    ours -= changed_places(adata, names)
    latent, means = adata.obsm.get(names.latent), entry.get("component_means")
    if latent is not None and means is not None and np.shape(latent)[1:] != np.shape(means)[1:]:
        ours.discard(("obsm", names.latent))
    return ours


def checksums(index: pd.Index, obs: Mapping[str, pd.Series], obsm: Mapping[str, Any]) -> dict[str, Any]:
    """Checksum of all that ``annotate`` writes for each cell, by which its next call sees what somebody changed since.

    Parameters
    ----------
    index
        Names of the cells.
    obs, obsm
        Columns and arrays, by name.
    """
    return {
        CELLS: str(column_checksum(index)),
        "obs": {name: str(column_checksum(column)) for name, column in obs.items()},
        "obsm": {name: str(array_checksum(array)) for name, array in obsm.items()},
    }


def changed_places(adata: ad.AnnData, names: Written) -> set[tuple[str, str]]:
    """Part and name of all that ``annotate`` wrote for these very cells and that is something else now.

    Of other cells, as of a subset, nothing is known.
    """
    entry = adata.uns.get(names.uns)
    written = entry.get("checksums") if isinstance(entry, Mapping) else None
    if not isinstance(written, Mapping):
        return set()
    before = {part: table for part in ("obs", "obsm") if isinstance(table := written.get(part), Mapping)}
    there: dict[str, dict[str, Any]] = {"obs": {}, "obsm": {}}
    for part, table in before.items():
        there[part] = {name: getattr(adata, part)[name] for name in table if name in getattr(adata, part)}
    now = checksums(adata.obs_names, **there)
    if now[CELLS] != written.get(CELLS):
        return set()
    return {(part, name) for part in before for name in now[part] if now[part][name] != before[part][name]}


def _are_our_clusters(adata: ad.AnnData, names: Written, components: object) -> bool:
    """Whether the column of clusters holds what the table of components says of each cell's component."""
    column, finest = adata.obs.get(names.cluster), adata.obs.get(names.finest)
    if column is None or not isinstance(components, pd.DataFrame) or "cluster" not in components:
        return True
    cluster = components["cluster"].astype(str).set_axis(components.index.astype(str))
    if finest is None:
        return set(map(str, pd.unique(column.dropna()))) <= set(cluster)
    expected = finest.astype(str).map(cluster)
    return bool((column.astype(str).to_numpy() == expected.to_numpy()).all())


def check_free(adata: ad.AnnData, key: str, others: Sequence[tuple[str, str]], function: str) -> None:
    """Raise unless a function can write under names that are free, or hold what it wrote before.

    Parameters
    ----------
    adata
        Data to write to.
    key
        Key of ``adata.uns``, whose ``"params"`` name the function.
    others
        Parts of ``adata`` and names in them.
    function
        Name of the function.

    Raises
    ------
    TypeError
        If the key is no string.
    ValueError
        If it is empty or holds ``/``, or a name is taken.
    """
    _check_name(key)
    entry = adata.uns.get(key)
    params = entry.get("params") if isinstance(entry, Mapping) else None
    if isinstance(params, Mapping) and params.get("function") == function and set(entry) == {"params"}:
        return
    for part, name in (("uns", key), *others):
        if name in getattr(adata, part):
            raise ValueError(
                f"`adata.{part}[{name!r}]` is there already, and not from `{function}`. Choose another `key_added`."
            )
