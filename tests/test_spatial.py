"""The linear map from an embedding to coordinates, by itself and within a model."""

from __future__ import annotations

import numpy as np
import pytest

from rmve import RMVE, SpatialMap


@pytest.fixture
def mapped():
    """Embedding and coordinates that depend on it linearly, in a large unit, with noise on the second axis."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(300, 4))
    coef = 1000.0 * rng.normal(size=(2, 4))
    s = z @ coef.T + [5000.0, -100.0]
    s[:, 1] += 500.0 * rng.normal(size=300)
    return z, s, coef


def test_recovers_a_linear_map(mapped):
    """Coefficients, intercept, quality and residuals are those of the truth, in the unit of the coordinates."""
    z, s, coef = mapped
    smap = SpatialMap.fit(z, s)
    np.testing.assert_allclose(smap.coef_[0], coef[0], rtol=1e-3)
    assert smap.intercept_[0] == pytest.approx(5000.0, rel=1e-3)
    assert smap.r2_[0] > 0.999
    noise_share = 500.0**2 / s[:, 1].var()
    assert smap.r2_[1] == pytest.approx(1 - noise_share, abs=0.05)
    assert smap.residual_sd_[1] == pytest.approx(500.0, rel=0.1)
    assert smap.error_ == pytest.approx(500.0 * 0.6745, rel=0.15)  # median of |N(0, 500)|
    assert smap.n_cells_ == 300
    np.testing.assert_allclose(smap.predict(z), z @ smap.coef_.T + smap.intercept_)


def test_unknown_positions_are_left_out(mapped):
    """Rows of NaN do not change the map, however many there are."""
    z, s, _ = mapped
    more = np.vstack([s, np.full((50, 2), np.nan)])
    with_unknown = SpatialMap.fit(np.vstack([z, 100.0 + np.ones((50, 4))]), more)
    plain = SpatialMap.fit(z, s)
    np.testing.assert_allclose(with_unknown.coef_, plain.coef_)
    assert with_unknown.n_cells_ == 300


def test_no_relation_gives_no_quality():
    """Coordinates that do not depend on the embedding are not explained: the quality is cross-validated."""
    rng = np.random.default_rng(0)
    smap = SpatialMap.fit(rng.normal(size=(60, 10)), rng.normal(size=(60, 2)))
    assert (smap.r2_ < 0.1).all()


@pytest.mark.parametrize("n_axes", [1, 3])
def test_other_dimensions(n_axes):
    """One axis and three work like two."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(50, 3))
    smap = SpatialMap.fit(z, z[:, :n_axes] * 10.0)
    assert smap.coef_.shape == (n_axes, 3)
    assert smap.intercept_.shape == smap.r2_.shape == smap.residual_sd_.shape == (n_axes,)
    np.testing.assert_allclose(smap.predict(z), z[:, :n_axes] * 10.0, atol=1e-2)


def test_too_few_cells():
    """Fewer cells than parameters are refused with the number needed."""
    with pytest.raises(ValueError, match="at least 12 cells with a position; there are 11"):
        SpatialMap.fit(np.zeros((11, 10)), np.zeros((11, 2)))


def test_to_dict_is_complete(mapped):
    """The written form makes the same map again."""
    z, s, _ = mapped
    smap = SpatialMap.fit(z, s)
    np.testing.assert_array_equal(SpatialMap.from_dict(smap.to_dict()).predict(z), smap.predict(z))


# ----------------------------------------------------------------- in a model


def test_model_maps_cells_to_their_place(model, unchanged):
    """Types that lie apart in space are mapped there, in the coordinates' unit, without touching the data."""
    with unchanged(model.adata):
        smap = model.fit_spatial_map(spatial_key="spatial")
        placed = model.map_to_space()
    assert (smap.r2_ > 0.7).all()
    assert list(placed.columns) == ["0", "1", "sd"]
    assert placed.index.equals(model.adata.obs_names)
    truth = model.adata.obsm["spatial"]
    error = np.linalg.norm(placed[["0", "1"]].to_numpy() - truth, axis=1)
    assert np.median(error) < 0.25 * np.ptp(truth)
    latent = model.get_latent_representation()
    np.testing.assert_allclose(placed[["0", "1"]], smap.predict(latent), rtol=1e-5)
    assert (placed["sd"] > 0).all()


def test_key_from_setup(make_cells, fit):
    """The key given at set-up is the default, also where some positions are unknown."""
    adata = make_cells()
    adata.obsm["spatial"][:40] = np.nan
    model = fit(adata, {"spatial_key": "spatial"}, epochs=10)
    assert model.fit_spatial_map().n_cells_ == 200
    assert model.map_to_space().notna().all(axis=None)


def test_new_cells_need_no_positions(model, make_cells, unchanged):
    """Cells without coordinates are mapped."""
    model.fit_spatial_map(spatial_key="spatial")
    query = make_cells(n_cells=60, seed=5)
    truth = query.obsm.pop("spatial")
    with unchanged(query, without_scvi=True):
        placed = model.map_to_space(query)
    assert placed.index.equals(query.obs_names)
    assert np.median(np.linalg.norm(placed[["0", "1"]].to_numpy() - truth, axis=1)) < 0.3 * np.ptp(truth)


def test_fit_on_other_cells(model, make_cells):
    """Positions of other cells than those trained on can be used."""
    other = make_cells(n_cells=90, seed=6)
    assert model.fit_spatial_map(other, spatial_key="spatial").n_cells_ == 90


def test_errors(model):
    """What is missing is named."""
    with pytest.raises(RuntimeError, match="fit_spatial_map"):
        model.map_to_space()
    with pytest.raises(ValueError, match="`spatial_key`"):
        model.fit_spatial_map()
    with pytest.raises(KeyError, match="`spatial_key='xy'`"):
        model.fit_spatial_map(spatial_key="xy")
    with pytest.raises(ValueError, match="`kind` must be one of 'linear'"):
        model.fit_spatial_map(spatial_key="spatial", kind="rbf")
    assert model.spatial_map_ is None


def test_toy_coordinates_are_linear_in_the_truth(fit):
    """The toy data's positions are a linear function of its latent truth."""
    import rmve

    adata = rmve.datasets.toy(n_cells=200, n_genes=50)
    smap = SpatialMap.fit(adata.obsm["true_latent"], adata.obsm["spatial"])
    assert (smap.r2_ > 0.999).all()
    RMVE.setup_anndata(adata, spatial_key="spatial")
