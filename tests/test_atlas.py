"""Dissociated cells on an atlas: positions, imputed genes, intensities, and what is refused."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import torch
from sklearn.linear_model import RidgeCV

import rmve

OPTIONS = {"max_epochs": 150, "quiet": True}


@pytest.fixture
def pair() -> tuple[ad.AnnData, ad.AnnData, np.ndarray]:
    """An atlas of 300 places with 150 of 200 genes, 300 other cells with all, and where these are."""
    adata = rmve.datasets.toy(n_cells=600)
    adata.X = adata.layers["counts"].copy()
    atlas, cells = adata[:300, 50:].copy(), adata[300:].copy()
    return atlas, cells, cells.obsm.pop("spatial")


def median_error(placed: np.ndarray, truth: np.ndarray) -> float:
    """Median distance from the true place."""
    return float(np.median(np.linalg.norm(placed - truth, axis=1)))


def error_of_ridge(atlas: ad.AnnData, cells: ad.AnnData, truth: np.ndarray) -> float:
    """What ridge regression on log-normalised genes reaches."""
    known, new = (
        sc.pp.log1p(sc.pp.normalize_total(part, target_sum=1e3, copy=True), copy=True).to_df()[atlas.var_names]
        for part in (atlas, cells)
    )
    ridge = RidgeCV(np.logspace(-2, 4, 13)).fit(known, atlas.obsm["spatial"])
    return median_error(ridge.predict(new), truth)


def test_places_and_genes(pair):
    """Cells come near their true place, and genes that the atlas lacks get the pattern that they have there."""
    atlas, cells, truth = pair
    torch.manual_seed(0)
    found = rmve.map_to_atlas(cells, atlas, **OPTIONS)
    assert median_error(cells.obsm["X_atlas"], truth) < 1.2 * error_of_ridge(atlas, cells, truth)
    assert cells.obs["X_atlas_sd"].gt(0).all()
    np.testing.assert_allclose(found.weights.sum(1), 1.0, rtol=1e-6)
    expected = rmve.datasets.toy(n_cells=600)[:300, :50].to_df()
    imputed = found.impute(cells.to_df())
    assert imputed.shape == (300, 200)
    informative = expected.var() / expected.mean() > 1.5
    assert imputed[expected.columns[informative]].corrwith(expected[expected.columns[informative]]).mean() > 0.3


def test_intensities(pair):
    """An atlas of intensities is read as counts; the same seed draws the same."""
    atlas, cells, truth = pair
    atlas.X = np.log1p(atlas.X.toarray()) / 7.0
    middle = median_error(atlas.obsm["spatial"].mean(0), truth)
    placed = []
    for _ in range(2):
        torch.manual_seed(0)
        rmve.map_to_atlas(cells, atlas, **OPTIONS)
        placed.append(cells.obsm["X_atlas"])
    np.testing.assert_array_equal(*placed)
    assert median_error(placed[0], truth) < 0.75 * middle


def test_called_again_and_written(pair, tmp_path):
    """Results of an earlier call are replaced; the atlas stays as it is."""
    atlas, cells, _ = pair
    before = atlas.copy()
    for _ in range(2):
        found = rmve.map_to_atlas(cells, atlas, max_epochs=1, quiet=True)
    assert before.obs.equals(atlas.obs)
    assert set(before.uns) == set(atlas.uns)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    assert ad.read_h5ad(tmp_path / "cells.h5ad").uns["X_atlas"]["params"]["width"] == found.width
    with pytest.raises(ValueError, match="a row for each cell"):
        found.impute(cells[::-1].to_df())
    with pytest.raises(TypeError, match="an AnnData or a data frame of the cells, not list"):
        found.impute(["gene 0"])


REFUSED = {
    "no positions": (lambda atlas, cells: atlas.obsm.clear(), {}, KeyError, "spatial"),
    "a place without position": (
        lambda atlas, cells: atlas.obsm["spatial"].__setitem__(3, np.nan),
        {},
        ValueError,
        "lacks the position of 1 place",
    ),
    "other genes": (
        lambda atlas, cells: setattr(atlas, "var_names", pd.Index([f"x{n}" for n in range(150)])),
        {},
        ValueError,
        "share 0 gene",
    ),
    "negative intensities": (lambda atlas, cells: setattr(atlas, "X", -atlas.X), {}, ValueError, "negative"),
    "cells without counts": (lambda atlas, cells: setattr(cells, "X", cells.X.log1p()), {}, ValueError, "raw counts"),
    "a name that is taken": (
        lambda atlas, cells: cells.obsm.__setitem__("mine", np.zeros((300, 2))),
        {"key_added": "mine"},
        ValueError,
        "'mine'",
    ),
    "notes of the user": (
        lambda atlas, cells: cells.uns.update(X_atlas={"mine": 1}),
        {},
        ValueError,
        r"uns\['X_atlas'\]",
    ),
    "an empty atlas": (lambda atlas, cells: setattr(atlas, "X", 0 * atlas.X), {}, ValueError, "zeros only"),
    "genes twice": (
        lambda atlas, cells: setattr(atlas, "var_names", ["g"] * 150),
        {},
        ValueError,
        r"`atlas\.var_names",
    ),
    "no seed": (lambda atlas, cells: None, {"seed": "a"}, ValueError, "seed"),
    "no option of training": (lambda atlas, cells: None, {"epochs": 3}, TypeError, "epochs"),
}


@pytest.mark.parametrize(("change", "options", "error", "match"), REFUSED.values(), ids=REFUSED)
def test_refused(pair, unchanged, change, options, error, match):
    """An error names what is wrong, and nothing is written."""
    atlas, cells, _ = pair
    change(atlas, cells)
    with unchanged(cells), unchanged(atlas), pytest.raises(error, match=match):
        rmve.map_to_atlas(cells, atlas, **options)
