"""Results in AnnData: their names, all of them or none, and back from h5ad."""

from __future__ import annotations

import re

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from rmve import RMVE, SpatialMap
from rmve.clusters.levels import MergeTree

#: Names that annotate writes without a spatial map, by where they are.
WRITTEN = {
    "obs": ["rmve", "rmve_confidence", "rmve_novelty", "rmve_finest"],
    "obsm": ["X_rmve", "rmve_probabilities"],
    "uns": ["rmve"],
}


def keys(adata) -> dict[str, set]:
    """Names in each part of an AnnData."""
    return {part: set(getattr(adata, part)) for part in ("obs", "var", "obsm", "varm", "obsp", "layers", "uns")}


@pytest.mark.parametrize("key_added", ["rmve", "fine"])
def test_annotate_writes_its_names_and_no_others(model, key_added):
    """Exactly the documented names appear, with the getters' values."""
    before = keys(model.adata)
    model.annotate(key_added=key_added)
    adata = model.adata
    expected = {part: {name.replace("rmve", key_added) for name in names} for part, names in WRITTEN.items()}
    after = keys(adata)
    assert {part: after[part] - before[part] for part in expected} == expected
    assert all(after[part] == before[part] for part in after if part not in expected)
    soft = model.predict(soft=True)
    pd.testing.assert_series_equal(adata.obs[key_added], model.predict(), check_names=False)
    np.testing.assert_allclose(adata.obs[f"{key_added}_confidence"], soft.max(axis=1), atol=1e-6)
    np.testing.assert_allclose(adata.obsm[f"X_{key_added}"], model.get_latent_representation(), atol=1e-5)
    pd.testing.assert_frame_equal(adata.obsm[f"{key_added}_probabilities"], soft, atol=1e-6)
    assert adata.uns[key_added]["params"]["gene_likelihood"] == "nb"
    assert adata.uns[key_added]["params"]["layer"] == "counts"
    pd.testing.assert_frame_equal(adata.uns[key_added]["components"], model.get_components(), atol=1e-6)
    pd.testing.assert_frame_equal(adata.uns[key_added]["resolutions"], model.get_resolutions(), atol=1e-6)
    assert {"rmve", "scvi-tools", "torch", "anndata"} <= set(adata.uns[key_added]["versions"])


def test_annotate_with_a_spatial_map(model):
    """With a map, coordinates and their uncertainty are written, too."""
    smap = model.fit_spatial_map(spatial_key="spatial")
    before = keys(model.adata)
    model.annotate()
    adata = model.adata
    assert set(adata.obsm) - before["obsm"] == {*WRITTEN["obsm"], "X_rmve_spatial"}
    assert set(adata.obs) - before["obs"] == {*WRITTEN["obs"], "rmve_spatial_sd"}
    placed = model.map_to_space()
    np.testing.assert_allclose(adata.obsm["X_rmve_spatial"], placed[["0", "1"]], rtol=1e-5)
    np.testing.assert_allclose(adata.obs["rmve_spatial_sd"], placed["sd"])
    np.testing.assert_array_equal(adata.uns["rmve"]["spatial_map"]["coef_"], smap.coef_)


def test_annotate_is_idempotent(model, contents, assert_same):
    """A second call writes the same; other keys stay as they are."""
    model.adata.obs["mine"] = 1.0
    model.adata.uns["mine"] = {"a": 1}
    model.annotate()
    once = contents(model.adata)
    model.annotate()
    assert_same(once, contents(model.adata))
    model.annotate(key_added="second")
    assert model.adata.obs["rmve"].equals(once["obs"]["rmve"])


@pytest.mark.parametrize(
    ("owner", "step"), [(MergeTree, "cut"), (RMVE, "get_spatial_genes"), (SpatialMap, "to_dict")], ids=str
)
def test_annotate_is_all_or_nothing(model, monkeypatch, unchanged, owner, step):
    """Whichever step fails, nothing has been written."""
    model.fit_spatial_map(spatial_key="spatial")
    assert len(model.tree.active)

    def fail(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(owner, step, fail)
    with unchanged(model.adata), pytest.raises(MemoryError):
        model.annotate()


def test_annotate_new_cells(shared, make_cells):
    """New cells are annotated with their own assignments and the model's clusters."""
    query = make_cells(n_cells=50, seed=3)
    shared.annotate(query)
    pd.testing.assert_series_equal(query.obs["rmve"], shared.predict(query), check_names=False)
    pd.testing.assert_frame_equal(query.uns["rmve"]["components"], shared.get_components())
    pd.testing.assert_frame_equal(query.uns["rmve"]["resolutions"], shared.get_resolutions())
    assert query.obs["rmve"].cat.categories.tolist() == list(shared.clusters_.names)
    assert "rmve" not in shared.adata.obs


def test_annotate_new_cells_without_labels(partly_labelled, make_cells):
    """Cells without the column of labels are annotated in place, and do not get the column."""
    query = make_cells(n_cells=50, seed=3)
    partly_labelled.annotate(query)
    assert "rmve" in query.obs
    assert "X_rmve" in query.obsm
    assert "label" not in query.obs


@pytest.mark.parametrize("key", ["cell_type", "batch"])
def test_annotate_does_not_overwrite_other_columns(model, unchanged, key):
    """A column that is not a result of this model is not overwritten."""
    with unchanged(model.adata), pytest.raises(ValueError, match=f"`key_added='{key}'` would overwrite"):
        model.annotate(key_added=key)


@pytest.mark.parametrize(("key", "error"), [(3, TypeError), ("", ValueError), ("a/b", ValueError)])
def test_annotate_checks_its_key(model, unchanged, key, error):
    """A name that a file could not hold is refused."""
    with unchanged(model.adata), pytest.raises(error, match="`key_added`"):
        model.annotate(key_added=key)


def check_round_trip(adata, path, contents, assert_same):
    """What is written to h5ad reads back equal, apart from the order of dictionaries and container types."""
    adata.write_h5ad(path)
    back = ad.read_h5ad(path)
    pd.testing.assert_frame_equal(back.obs, adata.obs)
    for key in adata.obsm:
        if isinstance(adata.obsm[key], pd.DataFrame):
            pd.testing.assert_frame_equal(back.obsm[key], adata.obsm[key])
        else:
            np.testing.assert_array_equal(back.obsm[key], adata.obsm[key])
    before, after = adata.uns["rmve"], back.uns["rmve"]
    assert set(after) == set(before)
    assert after["params"] == before["params"]
    assert after["versions"] == before["versions"]
    pd.testing.assert_frame_equal(after["components"], before["components"], check_dtype=False)
    pd.testing.assert_frame_equal(after["resolutions"], before["resolutions"])
    if "spatial_map" in before:
        for name, value in before["spatial_map"].items():
            np.testing.assert_array_equal(after["spatial_map"][name], value)


def test_h5ad_round_trip(model, tmp_path, contents, assert_same):
    """Annotated data reads back unchanged, with a spatial map and a second set of results."""
    model.fit_spatial_map(spatial_key="spatial")
    model.annotate()
    model.annotate(key_added="second")
    check_round_trip(model.adata, tmp_path / "out.h5ad", contents, assert_same)


@pytest.mark.filterwarnings("ignore:.*slash:FutureWarning")
def test_h5ad_round_trip_with_odd_labels(cells, fit, tmp_path, contents, assert_same):
    """Names of cell types with a slash or a space, as real ones have, survive the file."""
    cells.obs["label"] = cells.obs["cell_type"].cat.rename_categories(["CD4+/CD25 T Reg", "B cell", "?"])
    model = fit(cells, {"labels_key": "label"}, epochs=5, n_components=None)
    model.annotate()
    assert "CD4+|CD25 T Reg" in cells.obsm["rmve_probabilities"]
    assert "CD4+/CD25 T Reg" in model.predict(soft=True)
    check_round_trip(cells, tmp_path / "out.h5ad", contents, assert_same)


def test_results_can_be_read_back_and_predicted(model, tmp_path):
    """Annotated data from a file is valid input again."""
    model.annotate()
    model.adata.write_h5ad(tmp_path / "out.h5ad")
    back = ad.read_h5ad(tmp_path / "out.h5ad")
    pd.testing.assert_series_equal(model.predict(back), model.predict())


def scanpy_clusters(adata):
    adata.obs["x"] = pd.Categorical(["a"] * adata.n_obs)
    adata.uns["x"] = {"params": {"resolution": 1}}


def renamed(adata):
    """Results whose clusters were given names by hand."""
    adata.obs["x"] = pd.Categorical(["T cells"] * adata.n_obs)
    adata.uns["x"] = {"versions": {"rmve": "1"}, "components": pd.DataFrame({"cluster": ["0", "1"]})}


def put(part, name):
    def change(adata):
        getattr(adata, part)[name] = np.ones((adata.n_obs, 2)) if part == "obsm" else np.ones(adata.n_obs)

    return change


FOREIGN = {
    "clusters of scanpy": (scanpy_clusters, "obs['x']"),
    "clusters named by hand": (renamed, "obs['x']"),
    "confidence": (put("obs", "x_confidence"), "obs['x_confidence']"),
    "embedding": (put("obsm", "X_x"), "obsm['X_x']"),
    "probabilities": (put("obsm", "x_probabilities"), "obsm['x_probabilities']"),
    "uns": (lambda adata: adata.uns.update(x={"params": {}}), "uns['x']"),
    "mapped positions": (put("obsm", "X_x_spatial"), "obsm['X_x_spatial']"),
    "standard deviations": (put("obs", "x_spatial_sd"), "obs['x_spatial_sd']"),
}


@pytest.mark.parametrize(("change", "named"), FOREIGN.values(), ids=FOREIGN)
def test_annotate_overwrites_nothing_of_others(model, unchanged, change, named):
    """None of its names may hold what RMVE did not write."""
    model.fit_spatial_map(spatial_key="spatial")
    change(model.adata)
    with unchanged(model.adata), pytest.raises(ValueError, match=re.escape(f"would overwrite `adata.{named}`")):
        model.annotate(key_added="x")


@pytest.mark.parametrize(
    ("setup", "rename", "key"),
    [
        ({"batch_key": "x_confidence"}, ("obs", "donor", "x_confidence"), "x"),
        ({"categorical_covariate_keys": ["x"]}, ("obs", "donor", "x"), "x"),
        ({"spatial_key": "X_x"}, ("obsm", "spatial", "X_x"), "x"),
    ],
)
def test_annotate_overwrites_nothing_that_the_model_reads(cells, fit, unchanged, setup, rename, key):
    """Names that were registered are taken."""
    part, before, after = rename
    getattr(cells, part)[after] = getattr(cells, part)[before]
    model = fit(cells, setup, epochs=1)
    with unchanged(cells), pytest.raises(ValueError, match="would overwrite"):
        model.annotate(key_added=key)


CURATED = {
    "clusters joined": lambda adata: adata.obs.__setitem__("rmve", adata.obs["rmve"].astype(str).replace({"2": "1"})),
    "clusters of some cells": lambda adata: adata.obs.__setitem__(
        "rmve", np.where(np.arange(240) < 9, "1", adata.obs["rmve"])
    ),
    "one cell unknown": lambda adata: adata.obs.__setitem__("rmve", adata.obs["rmve"].mask(np.arange(240) == 3)),
    "clusters renamed": lambda adata: adata.obs.__setitem__(
        "rmve", adata.obs["rmve"].cat.rename_categories({"0": "T"})
    ),
    "confidence": lambda adata: adata.obs.__setitem__("rmve_confidence", np.round(adata.obs["rmve_confidence"], 2)),
    "notes": lambda adata: adata.uns["rmve"].update(notes="mine"),
    "embedding without the batch": lambda adata: adata.obsm.__setitem__("X_rmve", adata.obsm["X_rmve"] + 1),
    "novelty": lambda adata: adata.obs.__setitem__("rmve_novelty", 0.5),
    "probabilities": lambda adata: adata.obsm.__setitem__(
        "rmve_probabilities", adata.obsm["rmve_probabilities"] ** 0.9
    ),
    "finest level": lambda adata: adata.obs.__setitem__("rmve_finest", "0"),
    "predicted positions": lambda adata: adata.obsm.__setitem__("X_rmve_spatial", adata.obsm["X_rmve_spatial"] * 2),
    "standard deviations": lambda adata: adata.obs.__setitem__("rmve_spatial_sd", adata.obs["rmve_spatial_sd"] * 2),
}


@pytest.mark.parametrize("change", CURATED.values(), ids=CURATED)
def test_annotate_overwrites_nothing_that_was_made_of_its_results(model, unchanged, change):
    """What a user has worked on since is the user's."""
    model.fit_spatial_map(spatial_key="spatial")
    model.annotate()
    change(model.adata)
    with unchanged(model.adata), pytest.raises(ValueError, match="`key_added='rmve'` would overwrite.*another name"):
        model.annotate()
    model.annotate(key_added="again")


def test_annotate_overwrites_its_own_of_another_round(model, tmp_path):
    """Also read from a file, with fewer cells, merged clusters and a map that was not there before."""
    model.annotate()
    model.adata.write_h5ad(tmp_path / "out.h5ad")
    back = ad.read_h5ad(tmp_path / "out.h5ad")[:100].copy()
    model.annotate(back)
    model.merge_components(2)
    model.fit_spatial_map(spatial_key="spatial")
    model.annotate(back)
    model.annotate(back)
    assert back.obs["rmve"].cat.categories.tolist() == ["0", "1"]


def test_levels_of_another_round_are_ours(model, tmp_path):
    """Columns of levels are written again, also after a call without them and from a file."""
    for levels in ([2], [], [2, 3]):
        model.annotate(levels=levels)
    model.adata.write_h5ad(tmp_path / "out.h5ad")
    back = ad.read_h5ad(tmp_path / "out.h5ad")
    model.annotate(back)
    model.annotate(back, levels=[3])
    assert {"rmve_2", "rmve_3"} <= set(back.obs)


@pytest.mark.parametrize("stored", [False, True])
def test_a_level_that_somebody_worked_on(model, tmp_path, unchanged, stored):
    """Also where a call without levels came between, and a file."""
    model.annotate(levels=[2])
    model.annotate()
    adata = model.adata
    if stored:
        adata.write_h5ad(tmp_path / "out.h5ad")
        adata = ad.read_h5ad(tmp_path / "out.h5ad")
    adata.obs["rmve_2"] = adata.obs["rmve_2"].cat.rename_categories({"0": "T"})
    with unchanged(adata), pytest.raises(ValueError, match=r"would overwrite `adata.obs\['rmve_2'\]`"):
        model.annotate(adata, levels=[2])
    model.annotate(adata)
    assert "T" in set(adata.obs["rmve_2"])


@pytest.mark.parametrize("levels", [None, 2, "2", {2}])
def test_levels_are_a_list(model, unchanged, levels):
    with unchanged(model.adata), pytest.raises(TypeError, match="`levels` must be a list of numbers of clusters"):
        model.annotate(levels=levels)
