"""Dissociated cells on an atlas of places: where each cell was, and what the atlas did not measure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from sklearn.neighbors import NearestNeighbors

from rmve import _validation as check
from rmve.clusters.initialization import log_normalize
from rmve.likelihoods import get_likelihood
from rmve.model import RMVE

#: Counts drawn for each place of an atlas of intensities.
N_DRAWS = 2
#: Cells that a place is matched with, at most.
N_MATCHED = 100
#: Widths of the kernel to choose from, in root-mean-square distances between two points of the latent space.
WIDTHS = (0.03, 0.05, 0.08, 0.12, 0.18, 0.27)
#: Least number of genes that cells and atlas share.
MIN_SHARED = 5
ATLAS, CELLS = "atlas", "cells"


@dataclass(frozen=True)
class AtlasMap:
    """Cells matched with the places of an atlas.

    Attributes
    ----------
    model
        Model of both, with a linear map to the positions of the atlas.
    weights
        Weight of each cell for each place, shape ``(n_places, n_cells)``; rows sum to one.
    width
        Width of the kernel that the weights are made with, in root-mean-square distances.
    fit
        Mean Pearson correlation between measured and imputed patterns of the shared genes, which the width was chosen by.
    places, cells
        Names of the places and of the cells.
    """

    model: RMVE
    weights: sp.csr_matrix
    width: float
    fit: float
    places: pd.Index
    cells: pd.Index

    def impute(self, values: AnnData | pd.DataFrame) -> pd.DataFrame:
        """Values of the cells at the places of the atlas, for genes that it lacks.

        Parameters
        ----------
        values
            Values of the same cells, shape ``(n_cells, G)``: log-normalised expression, or any other numbers.

        Returns
        -------
        Data frame of shape ``(n_places, G)``: for each place the weighted mean over the cells that match it.

        Raises
        ------
        TypeError
            If ``values`` are neither an AnnData nor a data frame.
        ValueError
            If the cells are not those of the map, in their order.
        """
        frame = values.to_df() if isinstance(values, AnnData) else values
        if not isinstance(frame, pd.DataFrame):
            raise TypeError(f"`values` must be an AnnData or a data frame of the cells, not {type(values).__name__}.")
        if not frame.index.equals(self.cells):
            raise ValueError(
                "`values` must have a row for each cell of the map, in its order. Use `values.loc[atlas_map.cells]`."
            )
        return pd.DataFrame(self.weights @ frame.to_numpy(float), index=self.places, columns=frame.columns)


def map_to_atlas(
    cells: AnnData,
    atlas: AnnData,
    spatial_key: str = "spatial",
    layer: str | None = None,
    atlas_layer: str | None = None,
    key_added: str = "X_atlas",
    seed: int = 0,
    **train_kwargs,
) -> AtlasMap:
    """Place dissociated cells on an atlas, and write their positions into ``cells.obsm``.

    One model learns cells and atlas together on the genes that both have, as two batches, with the positions of the atlas. An
    atlas of intensities is read as counts: Poisson draws around the intensities, with the mean of each gene and the depths
    of the cells.

    Parameters
    ----------
    cells
        Cells without positions; counts.
    atlas
        Places, cells or spots with positions; counts, or intensities that are not negative.
    spatial_key
        Key of ``atlas.obsm`` with the positions, shape ``(n_places, 1 to 3)``.
    layer, atlas_layer
        Layers with the values; ``None`` is ``X``.
    key_added
        Key of ``cells.obsm`` for the positions, and with ``_sd`` of ``cells.obs`` for their standard deviation; those of an
        earlier call are replaced.
    seed
        Seed of the Poisson draws.
    **train_kwargs
        Passed to :meth:`rmve.RMVE.train`.

    Returns
    -------
    The map, which imputes genes at the places.

    Raises
    ------
    KeyError
        If a key is missing.
    ValueError
        If the two share fewer than five genes, a place has no position, values are negative, or ``key_added`` holds
        something else.

    Examples
    --------
    >>> import rmve
    >>> adata = rmve.datasets.toy(n_cells=300)
    >>> atlas, cells = adata[:150].copy(), adata[150:].copy()
    >>> found = rmve.map_to_atlas(cells, atlas, layer="counts", atlas_layer="counts", max_epochs=2, quiet=True)
    >>> found.impute(cells.to_df()).shape
    (150, 200)
    """
    check.check_positive_int("seed", seed, minimum=0)
    positions = _checked(cells, atlas, spatial_key, key_added)
    shared = atlas.var_names[atlas.var_names.isin(cells.var_names)]
    if len(shared) < MIN_SHARED:
        raise ValueError(f"`cells` and `atlas` share {len(shared)} gene(s). Give both the same names in `var_names`.")
    part = cells[:, shared]
    check.check_values(part, layer, "nb", check.check_finite(part, layer))
    counts = sp.csr_matrix(check.get_matrix(part, layer), dtype=np.float32)
    measured = _dense(atlas[:, shared], atlas_layer)
    if measured.min() < 0 or not measured.any():
        raise ValueError(
            "`atlas` has negative values, or zeros only. Give counts, or intensities that are not negative."
        )
    depth = np.asarray(counts.sum(1)).ravel()
    drawn = measured if get_likelihood("nb").problem(measured) is None else _as_counts(measured, counts, depth, seed)
    n_draws = len(drawn) // len(measured)
    both = AnnData(
        sp.vstack([sp.csr_matrix(drawn, dtype=np.float32), counts], format="csr"),
        obs=pd.DataFrame(
            {"source": pd.Categorical([ATLAS] * len(drawn) + [CELLS] * len(depth))},
            index=np.arange(len(drawn) + len(depth)).astype(str),
        ),
        var=pd.DataFrame(index=shared.to_numpy()),
    )
    unknown = np.full((len(depth), positions.shape[1]), np.nan)
    both.obsm["spatial"] = np.vstack([np.tile(positions, (n_draws, 1)), unknown])
    # a place of which nothing was drawn cannot be read; each cell has counts
    both = both[np.asarray(both.X.sum(1)).ravel() > 0].copy()
    is_cell = (both.obs["source"] == CELLS).to_numpy()
    RMVE.setup_anndata(both, batch_key="source", spatial_key="spatial")
    model = RMVE(both)
    model.train(**train_kwargs)
    placed = model.map_to_space()[is_cell]
    place = both.obs_names[~is_cell].astype(int).to_numpy() % len(positions)
    latent = model.get_latent_representation().astype(float)
    expression = log_normalize(counts.toarray(), depth, float(np.median(depth)))
    weights, width, fit = _match(latent[~is_cell], place, latent[is_cell], measured, expression)
    sd = placed.pop("sd").to_numpy()
    cells.obsm[key_added] = placed.to_numpy()
    cells.obs[f"{key_added}_sd"] = sd
    params = {
        "function": "map_to_atlas",
        "spatial_key": spatial_key,
        "n_genes": len(shared),
        "width": width,
        "fit": fit,
    }
    cells.uns[key_added] = {"params": params}
    return AtlasMap(model, weights, width, fit, atlas.obs_names.copy(), cells.obs_names.copy())


def _checked(cells: AnnData, atlas: AnnData, spatial_key: str, key_added: str) -> np.ndarray:
    """Positions of the atlas, after the checks of what is given."""
    for name, adata in (("cells", cells), ("atlas", atlas)):
        try:
            check.check_anndata(adata)
        except (TypeError, ValueError) as error:
            raise type(error)(str(error).replace("`adata", f"`{name}")) from None
    check.check_free(cells, key_added, [("obsm", key_added), ("obs", f"{key_added}_sd")], "map_to_atlas")
    return check.get_all_coordinates(atlas, spatial_key, "atlas", "place")


def _dense(adata: AnnData, layer: str | None) -> np.ndarray:
    check.check_finite(adata, layer)
    matrix = check.get_matrix(adata, layer)
    return np.asarray(matrix.toarray() if sp.issparse(matrix) else matrix, dtype=float)


def _as_counts(intensities: np.ndarray, counts: sp.csr_matrix, depth: np.ndarray, seed: int) -> np.ndarray:
    """Poisson draws around intensities, with the genes' means and the depths of some cells; :data:`N_DRAWS` of each place."""
    rng = np.random.default_rng(seed)
    rates = intensities / np.maximum(intensities.mean(0), 1e-300) * np.asarray(counts.mean(0))
    rates = np.tile(rates, (N_DRAWS, 1))
    return rng.poisson(rates * rng.choice(depth / depth.mean(), size=(len(rates), 1)))


def _match(
    points: np.ndarray, place: np.ndarray, cells: np.ndarray, measured: np.ndarray, expression: np.ndarray
) -> tuple[sp.csr_matrix, float, float]:
    """Weights of the cells for each place by a Gaussian kernel, and the width with which shared genes fit best.

    Parameters
    ----------
    points, place
        Latent points of the atlas, shape ``(m, d)``, and the place of each, shape ``(m,)``.
    cells
        Latent points of the cells, shape ``(n, d)``.
    measured, expression
        Shared genes in the atlas, shape ``(n_places, G)``, and in the cells, shape ``(n, G)``.
    """
    unit = np.sqrt(2.0 * np.vstack([points, cells]).var(0).sum())
    nearest = NearestNeighbors(n_neighbors=min(N_MATCHED, len(cells))).fit(cells)
    distance, index = nearest.kneighbors(points)
    best: tuple[sp.csr_matrix, float, float] | None = None
    for width in WIDTHS:
        # relative to the nearest cell, so that no place is without any
        kernel = np.exp(-(distance**2 - distance[:, :1] ** 2) / (2.0 * (width * unit) ** 2))
        rows = np.repeat(place, index.shape[1])
        weights = sp.csr_matrix((kernel.ravel(), (rows, index.ravel())), shape=(len(measured), len(cells)))
        total = np.asarray(weights.sum(1)).ravel()
        weights = sp.csr_matrix(sp.diags(1.0 / np.maximum(total, 1e-300)) @ weights)
        fit = float(np.nanmean(_correlations(weights @ expression, measured)))
        if best is None or fit > best[2]:
            best = weights, width, fit
    assert best is not None
    return best


def _correlations(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Pearson correlation of each column; NaN for one that is constant."""
    found, true = found - found.mean(0), true - true.mean(0)
    norm = np.linalg.norm(found, axis=0) * np.linalg.norm(true, axis=0)
    return np.divide((found * true).sum(0), norm, out=np.full(norm.shape, np.nan), where=norm > 0)
