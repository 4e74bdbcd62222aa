"""The linear map from an embedding to coordinates, by itself and within a model."""

from __future__ import annotations

import warnings
from dataclasses import asdict

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import pdist

import rmve
from rmve import RMVE, SpatialMap
from rmve._validation import check_n_positions
from rmve.spatial import SCHEMES, cross_validate, folds, quality
from rmve.spatial._affine import held_out_slope


@pytest.fixture
def mapped():
    """Embedding and coordinates that depend on it linearly, in a large unit, with noise on the second axis."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(300, 4))
    coef = 1000.0 * rng.normal(size=(2, 4))
    s = z @ coef.T + [5000.0, -100.0]
    s[:, 1] += 500.0 * rng.normal(size=300)
    return z, s, coef


@pytest.fixture
def two_pieces():
    """Two clusters whose coordinates depend on the embedding in opposite ways, with different noise."""
    rng = np.random.default_rng(1)
    z = rng.normal(size=(400, 2))
    y = rng.integers(2, size=400)
    s = np.where(y[:, None] == 0, z, 30.0 - z) + rng.normal(size=(400, 2)) * np.where(y == 0, 0.1, 1.0)[:, None]
    return z, s, np.eye(2)[y]


# -------------------------------------------------------------------- quality


def test_quality_by_hand(mapped):
    """R², error, its share of the diameter and the correlation of distances, computed in another way."""
    _, s, _ = mapped
    predicted = s + np.random.default_rng(2).normal(size=s.shape) * [100.0, 300.0]
    found = quality(s, predicted)
    np.testing.assert_allclose(found.r2_, 1 - ((s - predicted) ** 2).sum(0) / ((s - s.mean(0)) ** 2).sum(0))
    errors = np.sqrt(((s - predicted) ** 2).sum(1))
    assert found.error_ == pytest.approx(np.median(errors))
    diagonal = np.sqrt(((s.max(0) - s.min(0)) ** 2).sum())
    assert found.error_fraction_ == pytest.approx(np.median(errors) / diagonal)
    assert found.distance_correlation_ == pytest.approx(np.corrcoef(pdist(s), pdist(predicted))[0, 1])
    assert found.p_value_ == pytest.approx(1 / 200)
    assert found.has_signal_
    assert found.n_judged_ == 300


def test_many_cells_have_their_distances_sampled():
    """The correlation of 100,000 random pairs is close to that of all."""
    rng = np.random.default_rng(0)
    s = rng.normal(size=(1500, 2))
    predicted = s + 0.5 * rng.normal(size=s.shape)
    exact = np.corrcoef(pdist(s), pdist(predicted))[0, 1]
    assert quality(s, predicted).distance_correlation_ == pytest.approx(exact, abs=0.01)


def test_quality_without_signal():
    """Random predictions have a p-value like any, constant ones no correlation."""
    rng = np.random.default_rng(0)
    s = rng.normal(size=(100, 2))
    assert quality(s, rng.normal(size=s.shape)).p_value_ > 0.05
    constant = quality(s, np.zeros_like(s))
    assert constant.distance_correlation_ == 0.0
    assert constant.p_value_ == 1.0
    assert not constant.has_signal_


@pytest.mark.parametrize("seed", range(3))
def test_p_values_of_no_signal_are_not_small(seed):
    """Cross-validated maps from noise are rarely called a signal: of 20, at most 4 at the level of 0.05."""
    rng = np.random.default_rng(seed)
    small = 0
    for _ in range(20):
        z, s = rng.normal(size=(80, 5)), rng.normal(size=(80, 2))
        small += SpatialMap.fit(z, s).has_signal_
    assert small <= 4


# ------------------------------------------------------------------------ map


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
    assert smap.n_cells_ == smap.n_judged_ == 300
    np.testing.assert_allclose(smap.predict(z), z @ smap.coef_.T + smap.intercept_)


def test_the_unit_does_not_matter(mapped):
    """Coordinates in another unit give the same map in that unit."""
    z, s, _ = mapped
    metres, microns = SpatialMap.fit(z, s), SpatialMap.fit(z, 1e6 * s)
    np.testing.assert_allclose(microns.predict(z), 1e6 * metres.predict(z), rtol=1e-6)
    np.testing.assert_allclose(microns.predict_sd(z), 1e6 * metres.predict_sd(z), rtol=1e-6)
    assert microns.error_fraction_ == pytest.approx(metres.error_fraction_)


def test_standard_deviation_covers_the_truth(mapped):
    """68 % of new cells lie within one standard deviation on the noisy axis; cells far away are less certain."""
    z, s, coef = mapped
    smap = SpatialMap.fit(z, s)
    rng = np.random.default_rng(5)
    new = rng.normal(size=(4000, 4))
    true = new @ coef.T + [5000.0, -100.0] + np.array([0.0, 500.0]) * rng.normal(size=(4000, 2))
    inside = np.abs(true - smap.predict(new)) < smap.predict_sd(new)
    assert inside[:, 1].mean() == pytest.approx(0.683, abs=0.03)
    assert (smap.predict_sd(50.0 * new) > 1.5 * smap.predict_sd(new)).mean() > 0.9


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
    assert not smap.has_signal_


@pytest.mark.parametrize("n_axes", [1, 3])
def test_other_dimensions(n_axes):
    """One axis and three work like two."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(50, 3))
    smap = SpatialMap.fit(z, z[:, :n_axes] * 10.0, np.eye(2)[rng.integers(2, size=50)], kind="by_cluster")
    assert smap.coef_.shape == (n_axes, 3)
    assert smap.intercept_.shape == smap.r2_.shape == smap.residual_sd_.shape == (n_axes,)
    assert smap.cluster_coef_.shape == (2, n_axes, 3)
    np.testing.assert_allclose(smap.predict(z, np.eye(2)[[0] * 50]), z[:, :n_axes] * 10.0, atol=1e-2)


def test_a_map_for_each_cluster(two_pieces):
    """Clusters with maps of their own need ``by_cluster``, which finds both, and their noise."""
    z, s, w = two_pieces
    linear, pieces = SpatialMap.fit(z, s, w), SpatialMap.fit(z, s, w, kind="by_cluster")
    assert (linear.r2_ < 0.2).all()
    assert (pieces.r2_ > 0.99).all()
    np.testing.assert_allclose(pieces.coef_ + pieces.cluster_coef_[0], np.eye(2), atol=0.05)
    np.testing.assert_allclose(pieces.coef_ + pieces.cluster_coef_[1], -np.eye(2), atol=0.2)
    np.testing.assert_allclose(pieces.cluster_sd_[0], 0.1, atol=0.15)
    np.testing.assert_allclose(pieces.cluster_sd_[1], 1.0, atol=0.15)
    sd = pieces.predict_sd(z, w)
    assert sd[w[:, 0] == 1].max() < sd[w[:, 1] == 1].min()
    half = pieces.predict(z, np.full((400, 2), 0.5))
    both = (pieces.predict(z, np.eye(2)[[0] * 400]) + pieces.predict(z, np.eye(2)[[1] * 400])) / 2
    np.testing.assert_allclose(half, both, atol=1e-9)


def test_clusters_alike_are_shrunk_to_the_common_map(mapped):
    """Where one map holds for all, the deviations are small and the quality is no worse."""
    z, s, _ = mapped
    w = np.eye(3)[np.random.default_rng(0).integers(3, size=300)]
    pieces = SpatialMap.fit(z, s, w, kind="by_cluster")
    assert np.abs(pieces.cluster_coef_[:, 0]).max() < 0.05 * np.abs(pieces.coef_[0]).max()
    assert pieces.r2_[0] > 0.99


def test_held_out_cells_judge(mapped):
    """They are predicted by a map that did not see them, with the slope of the others, and are part of the final one."""
    z, s, _ = mapped
    held_out = np.arange(300) < 60
    smap = SpatialMap.fit(z, s, held_out=held_out)
    rest, center = SpatialMap.fit(z[60:], s[60:]), s[60:].mean(0)
    placed = rest.predict(z[:60])
    expected = np.empty_like(placed)
    for i in range(60):
        slope = held_out_slope(np.delete(s[:60], i, 0), np.delete(placed, i, 0), center)
        expected[i] = center + slope * (placed[i] - center)
    np.testing.assert_allclose(smap.r2_, quality(s[:60], expected).r2_, atol=1e-3)
    assert smap.error_ == pytest.approx(quality(s[:60], expected).error_, rel=1e-2)
    assert (smap.n_judged_, smap.n_cells_) == (60, 300)
    everything = SpatialMap.fit(z, s)
    np.testing.assert_allclose(smap.coef_, smap.slope_[:, None] * everything.coef_)
    np.testing.assert_allclose(smap.predict(z) - s.mean(0), smap.slope_ * (everything.predict(z) - s.mean(0)))
    np.testing.assert_array_equal(everything.slope_, 1.0)


@pytest.mark.parametrize("kind", ["linear", "by_cluster"])
def test_positions_known_by_heart_are_pulled_in(kind):
    """An embedding that is the position for cells it learned, and the position with noise for others."""
    rng = np.random.default_rng(0)
    s = rng.normal(size=(2000, 2)) + [10.0, 0.0]
    fresh = np.arange(2000) < 1000
    z = s + fresh[:, None] * rng.normal(size=s.shape) * [1.0, 0.1]
    known, new, w = np.arange(2000) >= 500, np.arange(2000) < 500, np.eye(2)[rng.integers(2, size=2000)]
    smap = SpatialMap.fit(z[known], s[known], w[known], kind, held_out=fresh[known])
    # var(s) / (var(s) + var(noise)), of the map fitted to the 1,000 cells without noise
    np.testing.assert_allclose(smap.slope_, [0.5, 0.99], atol=0.06)
    placed = quality(s[new], smap.predict(z[new], w[new]))
    by_heart = quality(s[new], SpatialMap.fit(z[~fresh], s[~fresh], w[~fresh], kind).predict(z[new], w[new]))
    assert by_heart.r2_[0] < 0.1 < 0.4 < placed.r2_[0]
    np.testing.assert_allclose(smap.r2_, placed.r2_, atol=0.1)


def test_slope_of_held_out_cells():
    """Not below 0, towards 1 where few cells speak, and the same as leaving cells out one by one."""
    rng = np.random.default_rng(0)
    predicted = rng.normal(size=(40, 1))
    center = np.zeros(1)
    half = held_out_slope(0.5 * predicted, predicted, center)
    np.testing.assert_allclose(half, (40 * 0.5 + 10) / 50)
    assert held_out_slope(0.5 * predicted[:2], predicted[:2], center) > 0.9
    twice = (40 * 2.0 + 10) / 50
    error = (2.0 - twice) * np.sqrt((predicted**4).sum()) / ((predicted**2).sum() * 50 / 40)
    np.testing.assert_allclose(held_out_slope(2.0 * predicted, predicted, center), twice - error)
    np.testing.assert_array_equal(held_out_slope(-2.0 * predicted, predicted, center), 0.0)
    np.testing.assert_array_equal(held_out_slope(predicted, np.zeros_like(predicted), center), 1.0)
    squares = (predicted**2).mean()
    for factor in (0.8, 2.0):
        true = factor * predicted + rng.normal(size=predicted.shape)
        each = held_out_slope(true, predicted, center, leave_one_out=True)
        for i in range(40):
            x, y = np.delete(predicted, i), np.delete(true, i)
            spread = x @ x + 10 * squares
            slope = (x @ y + 10 * squares) / spread
            error = np.linalg.norm(x * (y - slope * x)) / spread
            assert each[i, 0] == pytest.approx(slope if factor < 1 else slope - error)


def test_a_slope_above_one_by_chance_does_not_count():
    rng = np.random.default_rng(0)
    predicted = rng.normal(size=(4000, 1))
    noise = rng.normal(size=predicted.shape)
    for n, counts in ((40, False), (4000, True)):
        x = predicted[:n]
        off = noise[:n] - x * (noise[:n] * x).sum() / (x**2).sum()  # so that the slope is 1.1 in both
        assert (held_out_slope(1.1 * x + off, x, np.zeros(1))[0] > 1.0) == counts


@pytest.mark.parametrize("kind", ["linear", "by_cluster"])
def test_new_cells_that_are_pulled_to_the_middle_are_spread(kind):
    """An embedding that is the position for cells it learned, and four fifths of it for others."""
    rng = np.random.default_rng(0)
    s = rng.beta(0.5, 2.0, size=(600, 1))
    fresh = np.arange(600) < 300
    z = np.where(fresh[:, None], s.mean() + 0.8 * (s - s.mean()), s) + rng.normal(scale=0.005, size=s.shape)
    known, new, w = np.arange(600) >= 150, np.arange(600) < 150, np.eye(2)[rng.integers(2, size=600)]
    smap = SpatialMap.fit(z[known], s[known], w[known], kind, held_out=fresh[known])
    assert 1.12 < smap.slope_[0] < 1.25
    placed = quality(s[new], smap.predict(z[new], w[new]))
    as_fitted = quality(s[new], SpatialMap.fit(z[~fresh], s[~fresh], w[~fresh], kind).predict(z[new], w[new]))
    assert placed.error_ < 0.5 * as_fitted.error_
    assert placed.r2_[0] > as_fitted.r2_[0]


@pytest.mark.parametrize("spread", [1e-6, 0.03, 1.0])
@pytest.mark.parametrize("n", [3, 30])
def test_slope_of_chance_does_little(spread, n):
    """Where predictions are noise the slope is any number, but what it adds to the error is small."""
    rng = np.random.default_rng(0)
    cost = []
    for _ in range(200):
        predicted, true = spread * rng.normal(size=(n, 1)), rng.normal(size=(n, 1))
        cost.append((held_out_slope(true, predicted, np.zeros(1)) * spread) ** 2)
    assert np.mean(cost) < spread**2 + 1.0 / n


def test_to_dict_is_complete(mapped, two_pieces, tmp_path):
    """The written form makes the same map again, also read back from an h5ad file."""
    z, s, w = two_pieces
    for smap in (SpatialMap.fit(*mapped[:2]), SpatialMap.fit(z, s, w, kind="by_cluster")):
        ad.AnnData(np.ones((1, 1)), uns={"map": smap.to_dict()}).write_h5ad(tmp_path / "map.h5ad")
        again = SpatialMap.from_dict(ad.read_h5ad(tmp_path / "map.h5ad").uns["map"])
        for name, value in asdict(smap).items():
            np.testing.assert_array_equal(getattr(again, name), value, err_msg=name)


# ----------------------------------------------------------- cross-validation


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_cell_is_left_out_once(scheme):
    """Folds are a partition; blocks are whole regions, groups whole groups."""
    rng = np.random.default_rng(0)
    s, groups = rng.uniform(size=(500, 2)), rng.integers(3, size=500)
    splits = folds(s, scheme, groups, 5, seed=0)
    assert len(splits) == (3 if scheme == "groups" else 5)
    tests = np.concatenate([test for _, test in splits])
    assert sorted(tests) == list(range(500))
    for train, test in splits:
        assert not set(train) & set(test)
        if scheme == "groups":
            assert len(np.unique(groups[test])) == 1


def test_blocks_leave_no_neighbour_behind():
    """Most cells of a left-out block have their nearest cell left out, too; in random folds few do."""
    from sklearn.neighbors import NearestNeighbors

    s = np.random.default_rng(0).uniform(size=(1000, 2))
    nearest = NearestNeighbors(n_neighbors=2).fit(s).kneighbors(s)[1][:, 1]
    share = {}
    for scheme in ("folds", "blocks"):
        splits = folds(s, scheme, None, 5, seed=0)
        share[scheme] = np.mean([np.isin(nearest[test], test).mean() for _, test in splits])
    assert share["blocks"] > 0.8
    assert share["folds"] < 0.3


def test_blocks_are_harder_where_the_map_is_local():
    """An embedding that knows the neighbourhood but no direction maps random cells, and no left-out regions."""
    rng = np.random.default_rng(0)
    s = rng.uniform(size=(600, 2))
    centers = rng.uniform(size=(40, 2))
    local = np.exp(-((s[:, None] - centers) ** 2).sum(-1) / 0.01)
    easy, hard = (quality(s, cross_validate(local, s, scheme=scheme)).r2_.mean() for scheme in ("folds", "blocks"))
    assert easy > 0.7
    assert hard < easy - 0.3


def test_cross_validation_leaves_unknown_positions_out(mapped):
    """They have no prediction, and the others' does not depend on them."""
    z, s, _ = mapped
    s = s.copy()
    s[::10] = np.nan
    predicted = cross_validate(z, s)
    assert np.isnan(predicted[::10]).all()
    known = ~np.isnan(s).any(1)
    np.testing.assert_allclose(predicted[known], cross_validate(z[known], s[known]))


def test_bad_options(mapped, two_pieces):
    """What is wrong is named, with what would be right."""
    z, s, w = *mapped[:2], two_pieces[2][:300]
    with pytest.raises(ValueError, match="at least 12 cells with a position; there are 11"):
        SpatialMap.fit(np.zeros((11, 10)), np.zeros((11, 2)))
    with pytest.raises(ValueError, match="`kind` must be one of 'linear', 'by_cluster'"):
        SpatialMap.fit(z, s, kind="rbf")
    with pytest.raises(ValueError, match='`kind="by_cluster"` needs `clusters`'):
        SpatialMap.fit(z, s, kind="by_cluster")
    with pytest.raises(ValueError, match="needs `clusters`"):
        SpatialMap.fit(z, s, w, kind="by_cluster").predict(z)
    with pytest.raises(ValueError, match="`scheme` must be one of 'folds', 'blocks', 'groups'"):
        cross_validate(z, s, scheme="random")
    with pytest.raises(ValueError, match='`scheme="groups"` needs `groups`'):
        cross_validate(z, s, scheme="groups")
    with pytest.raises(ValueError, match="at least two `groups`"):
        cross_validate(z, s, scheme="groups", groups=np.zeros(300))


# ----------------------------------------------------------------- in a model


@pytest.fixture(scope="session")
def placed(make_cells, fit) -> RMVE:
    """A model trained with positions, of which 40 are unknown; tests must leave it as it is."""
    adata = make_cells()
    adata.obsm["spatial"][:40] = np.nan
    return fit(adata, {"layer": "counts", "spatial_key": "spatial"}, epochs=40)


def test_model_maps_cells_to_their_place(model, unchanged):
    """Types that lie apart in space are mapped there, in the coordinates' unit, without touching the data."""
    with unchanged(model.adata):
        smap = model.fit_spatial_map(spatial_key="spatial")
        placed = model.map_to_space()
    assert (smap.r2_ > 0.7).all()
    assert smap.n_judged_ == smap.n_cells_ == 240  # cross-validated: the model learned no positions
    assert list(placed.columns) == ["0", "1", "sd"]
    assert placed.index.equals(model.adata.obs_names)
    truth = model.adata.obsm["spatial"]
    error = np.linalg.norm(placed[["0", "1"]].to_numpy() - truth, axis=1)
    assert np.median(error) < 0.25 * np.ptp(truth)
    latent = model.get_latent_representation()
    np.testing.assert_allclose(placed[["0", "1"]], smap.predict(latent), rtol=1e-4, atol=1e-4)
    assert (placed["sd"] > 0).all()


def test_positions_shape_the_latent_space(placed, make_cells):
    """Trained with positions, the model has a map at once, judged by cells that it did not learn, better than without."""
    smap = placed.spatial_map_
    assert (smap.n_cells_, smap.n_judged_, len(placed.held_out_)) == (200, 20, 20)
    assert (smap.r2_ > 0.9).all()
    assert not np.isin(placed.held_out_.names, placed.adata.obs_names[:40]).any()
    truth = make_cells().obsm["spatial"]
    hidden = placed.map_to_space().iloc[:40]
    error = np.linalg.norm(hidden[["0", "1"]].to_numpy() - truth[:40], axis=1)
    assert np.median(error) < 0.1 * np.linalg.norm(np.ptp(truth, axis=0))
    assert "position_loss_train" in placed.history


def test_weight_zero_switches_the_term_off(make_cells, fit):
    """The network is that of a model without positions, and no map is made."""
    options = {"epochs": 3, "train": {"max_epochs": 3, "batch_size": 64, "plan_kwargs": {"position_weight": 0.0}}}
    off = fit(make_cells(), {"layer": "counts", "spatial_key": "spatial"}, **options)
    assert off.spatial_map_ is None
    assert len(off.held_out_) == 0
    assert "position_loss_train" not in off.history


def test_saved_with_its_map(placed, tmp_path, make_cells):
    """A loaded model places cells alike, and knows which positions it held out."""
    placed.save(tmp_path / "model")
    query = make_cells(n_cells=30, seed=3)
    del query.obsm["spatial"]
    for again in (RMVE.load(tmp_path / "model", adata=False), RMVE.load(tmp_path / "model", adata=placed.adata)):
        assert again.held_out_ == placed.held_out_
        np.testing.assert_allclose(again.map_to_space(query), placed.map_to_space(query), rtol=1e-4)
    assert again.fit_spatial_map().n_judged_ == 20


def test_going_on_keeps_the_held_out_cells(placed, tmp_path):
    """A second training does not learn what was held out in the first."""
    placed.save(tmp_path / "model")
    again = RMVE.load(tmp_path / "model", adata=placed.adata)
    again.train(max_epochs=2, batch_size=64, enable_progress_bar=False)
    assert again.held_out_ == placed.held_out_


def test_query_cells_need_no_positions(placed, make_cells):
    """Mapped to a reference with positions, cells of a new batch are placed, and teach the map nothing."""
    adata = make_cells(n_batches=2, seed=1)
    reference, query = adata[adata.obs["batch"] == "batch 0"].copy(), adata[adata.obs["batch"] == "batch 1"].copy()
    RMVE.setup_anndata(reference, batch_key="batch", spatial_key="spatial")
    model = RMVE(reference, n_components=3, n_hidden=32)
    model.train(max_epochs=20, batch_size=64, enable_progress_bar=False)
    truth = query.obsm.pop("spatial")
    adapted = RMVE.load_query_data(query, model)
    adapted.spatial_map_ = model.spatial_map_
    adapted.train(max_epochs=2, batch_size=64, enable_progress_bar=False, plan_kwargs={"weight_decay": 0.0})
    found = adapted.map_to_space()[["0", "1"]].to_numpy()
    assert np.median(np.linalg.norm(found - truth, axis=1)) < 0.3 * np.linalg.norm(np.ptp(truth, axis=0))


def test_by_cluster_uses_the_components(placed, tmp_path):
    """Each component has a deviation; the predictions differ from the common map's."""
    placed.save(tmp_path / "model")
    model = RMVE.load(tmp_path / "model", adata=placed.adata)
    smap = model.fit_spatial_map(kind="by_cluster")
    assert smap.cluster_coef_.shape == (model.module.n_components, 2, 5)
    posterior = model._posterior()
    assignment, latent = posterior.assignment, posterior.latent
    found = model.map_to_space()
    np.testing.assert_allclose(found[["0", "1"]], smap.predict(latent, assignment), rtol=1e-5)
    sd = smap.predict_sd(latent, assignment)
    np.testing.assert_allclose(found["sd"], np.sqrt((sd**2).mean(1)), rtol=1e-5)


def test_annotate_writes_the_places(placed, tmp_path):
    """With the keys of the contract; the file reads back."""
    names = rmve._keys.Written()
    adata = placed.adata.copy()
    placed.annotate(adata)
    assert adata.obsm[names.spatial].shape == (240, 2)
    np.testing.assert_allclose(adata.obs[names.spatial_sd], placed.map_to_space()["sd"], rtol=1e-5)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    uns = ad.read_h5ad(tmp_path / "cells.h5ad").uns[names.uns]
    assert set(uns["held_out"]) == set(placed.held_out_.names)
    assert uns["params"]["spatial_key"] == "spatial"
    pd.testing.assert_frame_equal(uns["spatial_genes"], placed.get_spatial_genes(), rtol=1e-4)


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
    """Positions of other cells than those trained on can be used, cross-validated by groups."""
    other = make_cells(n_cells=90, seed=6)
    smap = model.fit_spatial_map(other, spatial_key="spatial", scheme="groups", group_key="donor")
    assert smap.n_cells_ == 90


def test_genes_point_where_their_type_is(placed, make_cells):
    """Type B is at high values of axis 0, C of axis 1: their markers rise in that direction."""
    genes = placed.get_spatial_genes()
    assert list(genes.index) == list(placed.adata.var_names)
    marker = {name: genes.iloc[20 * k : 20 * (k + 1)].mean() for k, name in enumerate("ABC")}
    assert marker["B"]["0"] == max(marker[name]["0"] for name in "ABC")
    assert marker["C"]["1"] == max(marker[name]["1"] for name in "ABC")
    assert marker["B"]["0"] > 0.5  # log2: the markers differ ten-fold
    assert marker["A"]["0"] < 0 > marker["A"]["1"]


def test_noise_is_called_noise(model):
    """Positions that have nothing to do with expression give a warning, not a map to trust."""
    model.adata.obsm["noise"] = np.random.default_rng(0).normal(size=(240, 2))
    with pytest.warns(UserWarning, match="`adata.obsm\\['noise'\\]` are not predicted better than by chance"):
        model.fit_spatial_map(spatial_key="noise")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.fit_spatial_map(spatial_key="spatial")


def test_an_axis_of_noise_is_named(model):
    """One axis follows expression and the other does not: the map has a signal, and only the first is a place."""
    mixed = np.column_stack([model.adata.obsm["spatial"][:, 0], np.random.default_rng(0).normal(size=240)])
    model.adata.obsm["half"] = mixed
    with pytest.warns(
        UserWarning, match=r"Of `adata.obsm\['half'\]`, axis 1 \(R² -?0.0\d\) is predicted little better"
    ):
        found = model.fit_spatial_map(spatial_key="half")
    assert found.has_signal_


def test_errors(model, make_cells):
    """What is missing is named."""
    for call in (model.map_to_space, model.get_spatial_genes):
        with pytest.raises(RuntimeError, match="fit_spatial_map"):
            call()
    with pytest.raises(ValueError, match="`spatial_key`"):
        model.fit_spatial_map()
    with pytest.raises(KeyError, match="`spatial_key='xy'`"):
        model.fit_spatial_map(spatial_key="xy")
    with pytest.raises(ValueError, match="`kind` must be one of 'linear'"):
        model.fit_spatial_map(spatial_key="spatial", kind="rbf")
    with pytest.raises(KeyError, match="group_key='section'"):
        model.fit_spatial_map(spatial_key="spatial", scheme="groups", group_key="section")
    few = make_cells(n_cells=6)
    with pytest.raises(ValueError, match="at least 7 cells with a position; there are 6"):
        model.fit_spatial_map(few, spatial_key="spatial")
    assert model.spatial_map_ is None


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        (lambda s: np.full_like(s, np.nan), "fewer than three cells with a position"),
        (lambda s: np.column_stack([s[:, 0], np.ones(len(s))]), "Column 1 .* is the same for all cells"),
        (lambda s: np.tile(s, 2), "1 to 3 columns"),
        (lambda s: np.where(np.arange(2) == 0, np.nan, s), "partly missing"),
        (lambda s: np.where(np.arange(2) == 0, np.inf, s), "infinite"),
    ],
)
def test_bad_positions_are_refused_at_setup(cells, unchanged, positions, message):
    """Before anything is written."""
    cells.obsm["spatial"] = positions(cells.obsm["spatial"])
    with unchanged(cells), pytest.raises(ValueError, match=message):
        RMVE.setup_anndata(cells, spatial_key="spatial")


def test_fewer_positions_than_dimensions_are_refused(cells):
    """Before training starts."""
    cells.obsm["spatial"][11:] = np.nan
    RMVE.setup_anndata(cells, spatial_key="spatial")
    model = RMVE(cells, n_components=3, n_latent=10)
    with pytest.raises(
        ValueError, match="at least 14 cells with a position, 2 of them.*there are 11.*fewer latent dimensions"
    ):
        model.train(max_epochs=1)
    assert not model.is_trained_
    check_n_positions(12, 10)


@pytest.mark.parametrize("at_one_place", [False, True])
def test_few_positions_make_a_map(cells, fit, at_one_place):
    """As many positions as a map needs, or held-out cells at one place, are judged without an error."""
    if at_one_place:
        cells.obsm["spatial"][1:] = [3.0, 4.0]
    else:
        cells.obsm["spatial"][7:] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = fit(cells, {"spatial_key": "spatial"}, epochs=2, n_latent=3)
    assert model.spatial_map_.n_judged_ >= 2
    assert model.map_to_space().shape == (240, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s + 1e12, "Subtract the mean"),
        (lambda s: s * 1e200, "everyday size"),
        (lambda s: s * 1e-200, "everyday size"),
        (lambda s: np.where(np.arange(240)[:, None] == 3, 1e300, s), "everyday size"),
    ],
)
def test_positions_that_lose_their_digits_are_refused(cells, change, message):
    """Before training; a map of them would be noise."""
    cells.obsm["spatial"] = change(cells.obsm["spatial"])
    with pytest.raises(ValueError, match=message):
        RMVE.setup_anndata(cells, spatial_key="spatial")


def test_positions_of_a_section_in_a_large_frame(cells):
    """Coordinates of a map of a country are fine."""
    cells.obsm["spatial"] += 5e6
    RMVE.setup_anndata(cells, spatial_key="spatial")


def test_cross_validation_leaves_the_set_up_alone(cells, unchanged):
    """The cells can be used for a model, and cross-validated again."""
    RMVE.setup_anndata(cells, spatial_key="spatial")
    options = {"train_kwargs": {"max_epochs": 1, "quiet": True}, "n_folds": 2, "n_components": 3, "n_latent": 3}
    with warnings.catch_warnings(), unchanged(cells):
        warnings.simplefilter("ignore")
        RMVE.cross_validate_positions(cells, **options)
        RMVE.cross_validate_positions(cells, **options)
    RMVE(cells, n_components=3)


@pytest.mark.parametrize(("n_folds", "message"), [(1, "n_folds"), (0, "n_folds")])
def test_number_of_folds(cells, n_folds, message):
    """One fold leaves nothing to train on."""
    RMVE.setup_anndata(cells, spatial_key="spatial")
    with pytest.raises(ValueError, match=message):
        RMVE.cross_validate_positions(cells, n_folds=n_folds)


def test_cross_validation_needs_unique_names(cells):
    """Before the first fold is trained."""
    cells.obs_names = ["cell"] * cells.n_obs
    RMVE.setup_anndata(cells, spatial_key="spatial")
    with pytest.raises(ValueError, match="obs_names_make_unique"):
        RMVE.cross_validate_positions(cells)


def test_mixed_units_are_warned_of(make_cells):
    """Batches whose positions are spread 1,000 times wider than others' are probably in another unit."""
    adata = make_cells(n_batches=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        RMVE.setup_anndata(adata, batch_key="batch", spatial_key="spatial")
    adata.obsm["spatial"][adata.obs["batch"] == "batch 1"] *= 1000.0
    with pytest.warns(UserWarning, match="in batch 'batch 1' of `adata.obs\\['batch'\\]`.*same unit"):
        RMVE.setup_anndata(adata, batch_key="batch", spatial_key="spatial")


def test_cross_validation_of_a_model(make_cells, unchanged):
    """Each fold's positions are hidden while a model of its own is trained; the data stays as it is."""
    adata = make_cells()
    adata.obsm["spatial"][:10] = np.nan
    RMVE.setup_anndata(adata, layer="counts", spatial_key="spatial")
    train = {"max_epochs": 10, "batch_size": 64, "enable_progress_bar": False}
    options = {"n_components": 3, "n_latent": 5, "n_hidden": 32, "n_layers": 1}
    with unchanged(adata):
        placed, found = RMVE.cross_validate_positions(adata, n_folds=2, train_kwargs=train, **options)
    assert placed.index.equals(adata.obs_names[10:])
    expected = quality(adata.obsm["spatial"][10:], placed[["0", "1"]].to_numpy())
    np.testing.assert_allclose(found.r2_, expected.r2_)
    assert (found.r2_ > 0.5).all()


def test_cross_validation_needs_positions_and_groups(cells):
    """What is missing is named."""
    RMVE.setup_anndata(cells)
    with pytest.raises(ValueError, match="Set up `adata` with `spatial_key`"):
        RMVE.cross_validate_positions(cells)
    RMVE.setup_anndata(cells, spatial_key="spatial")
    with pytest.raises(ValueError, match="needs `group_key`"):
        RMVE.cross_validate_positions(cells, scheme="groups")


def test_toy_coordinates_are_linear_in_the_truth():
    """The toy data's positions are a linear function of its latent truth."""
    adata = rmve.datasets.toy(n_cells=200, n_genes=50)
    smap = SpatialMap.fit(adata.obsm["true_latent"], adata.obsm["spatial"])
    assert (smap.r2_ > 0.999).all()
