"""Held-out positions are those of cells, not of rows: in another order, with fewer cells, with others, in queries."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pytest

from rmve import RMVE
from rmve.model._held_out import HeldOut, identify


@pytest.fixture(scope="module")
def placed(make_cells, fit) -> RMVE:
    """A model that was trained with the positions of 240 cells."""
    return fit(make_cells(), {"layer": "counts", "spatial_key": "spatial"}, epochs=10)


@pytest.fixture(scope="module")
def folder(placed, tmp_path_factory) -> Path:
    """Folder of that model."""
    path = tmp_path_factory.mktemp("placed") / "model"
    placed.save(path)
    return path


def held_out_names(adata: ad.AnnData) -> set[str]:
    return set(adata.uns["rmve"]["held_out"])


TRAIN = {"max_epochs": 1, "batch_size": 64, "enable_progress_bar": False}


def test_cells_in_another_order(placed, folder, cells):
    """The same cells are held out, judge the map, and are not learned."""
    order = np.random.default_rng(0).permutation(cells.n_obs)
    model = RMVE.load(folder, adata=cells[order].copy())
    assert model.fit_spatial_map().n_judged_ == 24
    np.testing.assert_allclose(model.spatial_map_.r2_, placed.spatial_map_.r2_, atol=1e-3)
    model.annotate()
    assert held_out_names(model.adata) == set(placed.held_out_.names)
    model.train(**TRAIN)
    assert set(model.held_out_.names) == set(placed.held_out_.names)
    assert model.spatial_map_.n_judged_ == 24


def test_fewer_cells(placed, folder, cells):
    """Those of the held-out cells that are there judge the map."""
    model = RMVE.load(folder, adata=cells[40:].copy())
    there = set(placed.held_out_.names) & set(model.adata.obs_names)
    assert 0 < len(there) < 24
    assert model.fit_spatial_map().n_judged_ == len(there)
    model.annotate()
    assert held_out_names(model.adata) == there
    model.train(**TRAIN)
    assert set(model.held_out_.names) == set(placed.held_out_.names)


def test_learned_cells_alone(placed, folder, cells):
    """Positions that the model learned cannot judge it: refused before anything is changed."""
    learned = cells[~np.isin(cells.obs_names, placed.held_out_.names)].copy()
    model = RMVE.load(folder, adata=learned)
    before = model.spatial_map_
    for act in (model.fit_spatial_map, lambda: model.train(**TRAIN), lambda: placed.fit_spatial_map(learned)):
        with pytest.raises(ValueError, match="has learned the positions of the cells.*cannot judge"):
            act()
    assert model.spatial_map_ is before
    model.annotate()
    assert held_out_names(model.adata) == set()


@pytest.mark.parametrize("n_cells", [30, 240, 300])
def test_other_cells(folder, make_cells, n_cells):
    """Cells that the model has not seen judge it by cross-validation; further training holds a tenth of them out."""
    other = make_cells(n_cells=n_cells, seed=5)
    other.obs_names = [f"other {i}" for i in range(n_cells)]
    model = RMVE.load(folder, adata=other)
    assert model.fit_spatial_map().n_judged_ == n_cells
    model.annotate()
    assert held_out_names(other) == set()
    before = model.held_out_
    model.train(**TRAIN)
    new = set(model.held_out_.names) - set(before.names)
    assert set(model.held_out_.names) > set(before.names)
    assert new < set(other.obs_names)
    assert model.spatial_map_.n_judged_ == len(new) == n_cells // 10


def test_other_cells_of_the_same_names(placed, folder, make_cells):
    """Cells that are only called like those of the training are told from them by where they are."""
    other = make_cells(seed=5)
    model = RMVE.load(folder, adata=other)
    for act in (model.fit_spatial_map, lambda: model.train(**TRAIN), lambda: placed.fit_spatial_map(other)):
        with pytest.raises(ValueError, match="names of cells that the model held out of training, but other positions"):
            act()
    for writer in (model, placed):
        writer.annotate(other)
        assert held_out_names(other) == set()


def test_old_and_new_cells(placed, cells, make_cells):
    """New cells beside those of the training judge the map together with the held-out ones."""
    new = make_cells(n_cells=30, seed=5)
    new.obs_names = [f"new {i}" for i in range(30)]
    both = ad.concat([cells, new])
    model = RMVE.load_query_data(both.copy(), placed)
    assert model.fit_spatial_map().n_judged_ == 54


def test_queries(placed, make_cells):
    """Cells of a query were not held out, whatever their names and number, with positions or without."""
    query = make_cells(n_cells=30, seed=9)
    model = RMVE.load_query_data(query, placed)
    model.annotate()
    assert held_out_names(query) == set()
    assert query.obsm["X_rmve_spatial"].shape == (30, 2)
    without = make_cells(n_cells=30, seed=9)
    del without.obsm["spatial"]
    placed.annotate(without)
    assert held_out_names(without) == set()


def test_known_by_name_and_place():
    """A cell is its name and its position in single precision; rows of NaN are nobody."""
    names, places = np.array(["a", "b", "a", "c"]), np.array([[0.1, 2.0], [0.1, 2.0], [0.1, 3.0], [np.nan, np.nan]])
    cells = identify(names, places)
    assert len(set(cells)) == 4
    assert cells[3] == ""
    np.testing.assert_array_equal(identify(names, places.astype(np.float32)), cells)
    np.testing.assert_array_equal(identify(names[::-1], places[::-1]), cells[::-1])


def test_survives_the_way_to_disk():
    """Held-out and learned cells come back from plain JSON; something else is refused."""
    names = np.array(["a", "b", "c"])
    held_out = HeldOut().extended(names, identify(names, np.eye(3)), np.array([True, False, False]))
    assert HeldOut.from_dict(held_out.to_dict()) == held_out
    for wrong in (None, [], {}, {**held_out.to_dict(), "cells": []}, {**held_out.to_dict(), "names": [3]}):
        with pytest.raises(ValueError, match="another layout"):
            HeldOut.from_dict(wrong)
