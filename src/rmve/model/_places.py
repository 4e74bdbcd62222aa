"""From the latent space to physical coordinates: fit of the map, places of cells, genes along an axis."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd
from anndata import AnnData

from rmve import _validation as check
from rmve import spatial
from rmve.model._decode import change_along
from rmve.model._encode import Posterior
from rmve.model._held_out import HeldOut, identify
from rmve.module import RMVEModule
from rmve.spatial import Quality, SpatialMap


def fit_map(
    adata: AnnData,
    spatial_key: str,
    posterior: Callable[[], Posterior],
    n_latent: int,
    kind: str,
    judging: Callable[[np.ndarray], np.ndarray | None],
    scheme: str,
    group_key: str | None,
) -> SpatialMap:
    """Map from the latent mean to coordinates; see :meth:`rmve.RMVE.fit_spatial_map`.

    Parameters
    ----------
    adata
        Cells.
    spatial_key
        Key of ``adata.obsm`` with their coordinates.
    posterior
        Function that returns the posterior of the cells; it is called when all checks have passed.
    n_latent
        Dimension of the latent space.
    kind, scheme, group_key
        Arguments of :meth:`rmve.RMVE.fit_spatial_map`.
    judging
        Function of the mask of cells with known coordinates that returns the mask of those that judge the map, or
        ``None`` for cross-validation.
    """
    coordinates = check.get_coordinates(adata, spatial_key)
    known = np.isfinite(coordinates).all(1)
    check.check_n_positions(int(known.sum()), n_latent)
    groups = None if group_key is None else check.require_column(adata, group_key, "group_key").to_numpy()
    held_out = judging(known)
    found = posterior()
    fitted = SpatialMap.fit(found.latent, coordinates, found.assignment, kind, held_out, scheme, groups)
    if not fitted.has_signal_:
        warnings.warn(
            f"The positions in `adata.obsm[{spatial_key!r}]` are not predicted better than by chance (p = "
            f"{fitted.p_value_:.2g}, R² {np.round(fitted.r2_, 2).tolist()}): no linear map exists from what the cells "
            "express. Do not read the mapped positions as places.",
            UserWarning,
            stacklevel=3,
        )
    mirrored = _warn_of_mirrors(spatial_key, found.latent[known], coordinates[known], held_out, known, fitted)
    if fitted.has_signal_:
        _warn_of_little(spatial_key, fitted, mirrored)
    return fitted


def _warn_of_little(spatial_key: str, fitted: SpatialMap, mirrored: set[int]) -> None:
    """Warn of axes that the map predicts little better than their mean would, for which there is no other warning."""
    poor = {axis: r2 for axis, r2 in enumerate(fitted.r2_) if r2 < spatial.LITTLE and axis not in mirrored}
    if poor:
        axes = ", ".join(f"axis {axis} (R² {r2:.2f})" for axis, r2 in poor.items())
        warnings.warn(
            f"Of `adata.obsm[{spatial_key!r}]`, {axes} is predicted little better than by the mean of all cells: what the "
            "cells express says hardly anything about it. Do not read it as a place.",
            UserWarning,
            stacklevel=4,
        )


def _warn_of_mirrors(
    spatial_key: str, z: np.ndarray, s: np.ndarray, held_out: np.ndarray | None, known: np.ndarray, fitted: SpatialMap
) -> set[int]:
    """Warn of axes along which both sides of the tissue look alike, and return them."""
    judged = np.arange(len(s)) % 5 == 0 if held_out is None else held_out[known]
    mirrors = spatial.find_mirrors(z, s, judged, fitted.r2_)
    for mirror in mirrors:
        warnings.warn(
            f"Axis {mirror.axis} of `adata.obsm[{spatial_key!r}]` looks the same on both sides of {mirror.middle:.3g}: the distance "
            f"from there is predicted (R² {mirror.r2_of_distance:.2f}), the position is not (R² {mirror.r2:.2f}). Cells of a "
            "mirror image or a ring express the same, so that no linear map tells the sides apart. Give one side, or the "
            "distance from the middle as a coordinate.",
            UserWarning,
            stacklevel=4,
        )
    return {mirror.axis for mirror in mirrors}


def identify_cells(adata: AnnData, spatial_key: str | None) -> np.ndarray:
    """What tells each cell from others, by its name and its registered position; empty where that is unknown."""
    try:
        positions = check.get_coordinates(adata, spatial_key)
    except (KeyError, ValueError):  # none, or too few to have been learned
        return np.full(adata.n_obs, "", dtype=object)
    return identify(adata.obs_names.to_numpy(), positions)


def judging_cells(adata: AnnData, registered: str | None, held_out: HeldOut, known: np.ndarray) -> np.ndarray | None:
    """Cells that can judge a map, as a mask of shape ``(n,)``; ``None`` if no position was learned.

    Parameters
    ----------
    adata
        Cells.
    registered
        Key of ``adata.obsm`` with the positions that the model may have learned.
    held_out
        Cells whose position was held out of training, and learned.
    known
        Cells whose coordinates are known, shape ``(n,)``.
    """
    cells = identify_cells(adata, registered)
    cells[~known] = ""
    return held_out.judges(adata.obs_names.to_numpy(), cells)


def require_map(spatial_map: SpatialMap | None) -> SpatialMap:
    """The map of a model; RuntimeError if it has none."""
    if spatial_map is None:
        raise RuntimeError("There is no spatial map yet. Call `model.fit_spatial_map(spatial_key=...)` first.")
    return spatial_map


def place(spatial_map: SpatialMap, posterior: Posterior, index: pd.Index) -> pd.DataFrame:
    """Predicted coordinates of cells and their standard deviation; see :meth:`rmve.RMVE.map_to_space`."""
    predicted = spatial_map.predict(posterior.latent, posterior.assignment)
    frame = pd.DataFrame(predicted, index=index, columns=[str(i) for i in range(predicted.shape[1])])
    sd = spatial_map.predict_sd(posterior.latent, posterior.assignment)
    frame["sd"] = np.sqrt((sd**2).mean(1))
    return frame


def genes_along_axes(
    module: RMVEModule, spatial_map: SpatialMap, posterior: Posterior, loader: Iterable[dict], genes: pd.Index
) -> pd.DataFrame:
    """Change of each gene along each axis of space; see :meth:`rmve.RMVE.get_spatial_genes`.

    Parameters
    ----------
    module
        Trained networks.
    spatial_map
        Map to coordinates.
    posterior
        Posterior of the training cells.
    loader
        Mini-batches of the same cells.
    genes
        Names of the genes.
    """
    a, latent = spatial_map.coef_, posterior.latent
    spread = np.cov(latent.T).reshape(latent.shape[1], -1)
    placed = spatial_map.predict(latent, posterior.assignment)
    steps = (spread @ a.T @ np.linalg.pinv(a @ spread @ a.T)).T * placed.std(0)[:, None]
    change = change_along(module, loader, steps)
    return pd.DataFrame(change.T, index=genes.copy(), columns=[str(i) for i in range(len(steps))])


def cross_validate(
    adata: AnnData,
    spatial_key: str,
    scheme: str,
    group_key: str | None,
    n_folds: int,
    predict: Callable[[AnnData], pd.DataFrame],
) -> tuple[pd.DataFrame, Quality]:
    """Place cells whose positions are hidden, fold by fold; see :meth:`rmve.RMVE.cross_validate_positions`.

    Parameters
    ----------
    adata
        Cells.
    spatial_key
        Key of ``adata.obsm`` with their coordinates.
    scheme, group_key, n_folds
        Arguments of :meth:`rmve.RMVE.cross_validate_positions`.
    predict
        Function that trains on cells, some without a position, and returns the places of all of them.
    """
    check.check_choice("scheme", scheme, spatial.SCHEMES)
    groups = None if group_key is None else check.require_column(adata, group_key, "group_key").to_numpy()
    if scheme == "groups" and groups is None:
        raise ValueError('`scheme="groups"` needs `group_key`, a column of `adata.obs`.')
    coordinates = check.get_coordinates(adata, spatial_key)
    known = np.flatnonzero(np.isfinite(coordinates).all(1))
    if not adata.obs_names.is_unique:
        raise ValueError("`adata.obs_names` has duplicates. Call `adata.obs_names_make_unique()` first.")
    splits = spatial.folds(coordinates[known], scheme, None if groups is None else groups[known], n_folds, seed=0)
    parts = []
    for _, test in splits:
        hidden = coordinates.copy()
        hidden[known[test]] = np.nan
        fold = adata.to_memory() if adata.isbacked else adata.copy()
        fold.obsm[spatial_key] = hidden
        parts.append(predict(fold).iloc[known[test]])
    placed = pd.concat(parts).loc[adata.obs_names[known]]
    return placed, spatial.quality(coordinates[known], placed.drop(columns="sd").to_numpy())
