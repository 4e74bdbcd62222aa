"""Checks of where cells are: neighbour graphs and coordinates."""

from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from rmve._validation.arguments import shorten
from rmve.data.on_disk import check_matrix

#: Ratio of the spread of two batches' positions from which on their units seem to differ.
MIXED_UNITS = 10.0
#: Limits of the standard deviation of positions, and of their distance from the origin in standard deviations: beyond,
#: single precision loses them.
MIN_SPREAD, MAX_SPREAD, MAX_OFFSET = 1e-15, 1e15, 1e6


def find_graph(adata: ad.AnnData, neighbors_key: str):
    """The neighbour graph that ``neighbors_key`` names, in ``adata.obsp`` or through ``adata.uns``.

    Returns
    -------
    The ``(n, n)`` connectivity matrix.

    Raises
    ------
    KeyError
        If there is none of that name.
    ValueError
        If it holds distances, has negative or non-finite weights, or no edges, or points to cells that do not exist.
    """
    key = neighbors_key
    if key not in adata.obsp:
        entry = adata.uns.get(key, {})
        key = entry.get("connectivities_key", "") if isinstance(entry, dict) else ""
    if key not in adata.obsp:
        raise KeyError(
            f"`neighbors_key={neighbors_key!r}` names no graph in `adata.obsp` or `adata.uns`. Make one with "
            f"`sc.pp.neighbors(adata)` or `squidpy.gr.spatial_neighbors(adata)`. `adata.obsp` has: "
            f"{shorten(list(adata.obsp)) or 'nothing'}."
        )
    named = {entry.get("distances_key") for entry in adata.uns.values() if isinstance(entry, dict)}
    if key in named or "distance" in key.lower():
        raise ValueError(
            f"`neighbors_key={neighbors_key!r}` names `adata.obsp[{key!r}]`, which holds distances: the farther, the "
            "larger. Give the graph of weights that was made with it, for example `neighbors_key='neighbors'` or "
            "`'connectivities'`."
        )
    graph = adata.obsp[key]
    if not isinstance(graph, np.ndarray) and not sp.issparse(graph):
        raise TypeError(f"`adata.obsp[{key!r}]` must be a NumPy array or a SciPy matrix, not {type(graph).__name__}.")
    check_matrix(graph, f"`adata.obsp[{key!r}]`")
    values = graph.data if sp.issparse(graph) else np.asarray(graph)
    if values.size == 0 or not np.isfinite(values).all() or values.min() < 0 or values.max() == 0:
        raise ValueError(f"`adata.obsp[{key!r}]` must have finite, non-negative weights and at least one edge.")
    return graph


def get_coordinates(adata: ad.AnnData, spatial_key: str | None) -> np.ndarray:
    """Coordinates of the cells, shape ``(n, 1 to 3)``, with rows of NaN where unknown.

    Raises
    ------
    KeyError
        If ``adata.obsm`` has no such key.
    ValueError
        If the array is not numeric, has more than three columns, infinite or partly missing rows, or fewer
        than three cells with a position; or if its values are too large, too small or too far from the origin.
    """
    if spatial_key not in adata.obsm:
        raise KeyError(
            f"`spatial_key={spatial_key!r}` is not in `adata.obsm`. Its keys: {shorten(list(adata.obsm)) or 'none'}."
        )
    stored = adata.obsm[spatial_key]
    coordinates = np.asarray(stored)
    try:  # NumPy would read numbers in text and dates, and forget masks and imaginary parts
        if isinstance(stored, np.ma.MaskedArray) or coordinates.dtype.kind in "UScmM":
            raise TypeError
        coordinates = coordinates.astype(np.float64)
    except (TypeError, ValueError):
        raise ValueError(
            f"`adata.obsm[{spatial_key!r}]` must hold real numbers, and NaN where they are unknown."
        ) from None
    if coordinates.ndim != 2 or not 1 <= coordinates.shape[1] <= 3:
        raise ValueError(f"`adata.obsm[{spatial_key!r}]` must have 1 to 3 columns; its shape is {coordinates.shape}.")
    missing = np.isnan(coordinates)
    if np.isinf(coordinates).any() or (missing.any(1) != missing.all(1)).any():
        raise ValueError(
            f"`adata.obsm[{spatial_key!r}]` has infinite or partly missing rows. A cell of unknown position is a row of NaN."
        )
    if (~missing.any(1)).sum() < 3:
        raise ValueError(f"`adata.obsm[{spatial_key!r}]` has fewer than three cells with a position.")
    constant = np.flatnonzero(np.nanmax(coordinates, 0) == np.nanmin(coordinates, 0))
    if len(constant):
        raise ValueError(
            f"Column {constant[0]} of `adata.obsm[{spatial_key!r}]` is the same for all cells. Drop it: "
            "there is nothing to map to."
        )
    known = coordinates[~missing.any(1)]
    with np.errstate(over="ignore"):
        spread, offset = known.std(0), np.abs(known.mean(0))
    if not ((spread > MIN_SPREAD) & (spread < MAX_SPREAD)).all():
        raise ValueError(
            f"`adata.obsm[{spatial_key!r}]` is spread over {spread.min():.3g} to {spread.max():.3g}, beyond what can be "
            "computed with. Give it in a unit of everyday size, and look for outliers."
        )
    if (offset > MAX_OFFSET * spread).any():
        raise ValueError(
            f"`adata.obsm[{spatial_key!r}]` is {(offset / spread).max():.3g} times farther from the origin than it is "
            "spread: its digits do not suffice. Subtract the mean position first."
        )
    return coordinates


def get_all_coordinates(adata: ad.AnnData, spatial_key: str, name: str, row: str) -> np.ndarray:
    """:func:`get_coordinates` of data in which each row has some.

    Parameters
    ----------
    adata, spatial_key
        As in :func:`get_coordinates`.
    name, row
        Words of an error for the data and for a row of it.

    Raises
    ------
    KeyError, ValueError
        As :func:`get_coordinates`, and if a row has no position.
    """
    coordinates = get_coordinates(adata, spatial_key)
    missing = int(np.isnan(coordinates).any(1).sum())
    if missing:
        where = f"{name}.obsm[{spatial_key!r}]"
        raise ValueError(
            f"`{where}` lacks the position of {missing} {row}(s). Leave them out: "
            f"`{name}[np.isfinite({where}).all(1)].copy()`."
        )
    return coordinates


def warn_of_mixed_units(adata: ad.AnnData, spatial_key: str, batch_key: str) -> None:
    """Warn if the positions of one batch are spread :data:`MIXED_UNITS` times wider than another's."""
    coordinates = pd.DataFrame(get_coordinates(adata, spatial_key)).groupby(adata.obs[batch_key].to_numpy())
    spread = np.sqrt((coordinates.std() ** 2).mean(axis=1)).dropna()
    spread = spread[spread > 0]
    if len(spread) > 1 and spread.max() > MIXED_UNITS * spread.min():
        warnings.warn(
            f"The positions in `adata.obsm[{spatial_key!r}]` are spread over {spread.max():.3g} in batch "
            f"{str(spread.idxmax())!r} of `adata.obs[{batch_key!r}]` and over {spread.min():.3g} in {str(spread.idxmin())!r}. "
            "One map serves all batches: bring them to the same unit and frame first.",
            UserWarning,
            stacklevel=3,
        )
