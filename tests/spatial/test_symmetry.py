"""Tissue that looks the same on both sides: found where it is, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest

from rmve import RMVE
from rmve.spatial import SpatialMap, find_mirrors


def mirrors_of(z, s, share=0.2):
    judged = np.random.default_rng(1).random(len(s)) < share
    r2 = SpatialMap.fit(z, s).r2_
    return find_mirrors(z, s, judged, r2)


@pytest.fixture
def places():
    return np.random.default_rng(0).uniform(-1, 1, size=(500, 2))


def with_noise(*columns, scale=0.1):
    z = np.stack(columns, axis=1)
    return z + scale * np.random.default_rng(2).normal(size=z.shape)


def test_hemispheres(places):
    """Expression follows the distance from the midline, and the second axis as it is."""
    found = mirrors_of(with_noise(np.abs(places[:, 0] - 0.1), places[:, 1]), places)
    assert [mirror.axis for mirror in found] == [0]
    assert found[0].middle == pytest.approx(0.1, abs=0.2)
    assert found[0].r2_of_distance > 0.7 > 0.2 > found[0].r2


def test_ring(places):
    """Layers around a middle: neither axis is told apart."""
    assert [mirror.axis for mirror in mirrors_of(with_noise(np.hypot(*places.T)), places)] == [0, 1]


@pytest.mark.parametrize("skew", [1.0, 3.0])
def test_a_gradient_is_no_mirror(places, skew):
    """Also if cells crowd at one end, where position and distance from the middle go together."""
    s = np.abs(places) ** skew
    assert mirrors_of(with_noise(s[:, 0], s[:, 1]), s) == []


def test_no_signal_is_no_mirror(places):
    z = np.random.default_rng(3).normal(size=(500, 4))
    assert mirrors_of(z, places) == []


def test_few_cells_say_nothing(places):
    z = with_noise(np.abs(places[:, 0]), places[:, 1])
    assert find_mirrors(z[:40], places[:40], np.arange(40) < 9, np.zeros(2)) == []


def test_places_that_are_all_in_the_middle():
    """Half of the cells stand at one place."""
    rng = np.random.default_rng(0)
    s = np.where(rng.random((200, 1)) < 0.8, 0.0, rng.uniform(-1, 1, (200, 1)))
    assert len(mirrors_of(np.abs(s) + 0.01 * rng.normal(size=s.shape), s)) == 1


def test_a_model_warns(make_cells, fit):
    """Both sides of the first axis express the same."""
    cells = make_cells(n_cells=400)
    side = np.where(np.arange(400) % 2, 1.0, -1.0)
    depth = np.abs(cells.obsm["spatial"][:, 0] - cells.obsm["spatial"][:, 0].min())
    cells.obsm["mirrored"] = np.column_stack([side * depth, cells.obsm["spatial"][:, 1]])
    model = fit(cells, epochs=5)
    with pytest.warns(UserWarning, match=r"Axis 0 of `adata.obsm\['mirrored'\]` looks the same on both sides of"):
        model.fit_spatial_map(spatial_key="mirrored")
    assert isinstance(model, RMVE)
