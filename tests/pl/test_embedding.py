from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba

import rmve
from rmve._keys import Written

NAMES = Written()


def points(ax):
    (collection,) = ax.collections
    return collection


def test_a_point_for_each_cell_and_a_name_for_each_cluster(annotated):
    ax = rmve.pl.embedding(annotated)
    assert len(points(ax).get_offsets()) == annotated.n_obs
    found = annotated.obs[NAMES.cluster]
    assert [text.get_text() for text in ax.texts] == [name for name in found.cat.categories if (found == name).any()]


def test_basis_defaults_to_umap_then_to_principal_components(annotated):
    ax = rmve.pl.embedding(annotated)
    assert ax.get_xlabel().startswith(f"PC 1 of {NAMES.latent} (")
    annotated.obsm["X_umap"] = np.random.default_rng(0).normal(size=(annotated.n_obs, 2))
    ax = rmve.pl.embedding(annotated)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("UMAP 1", "UMAP 2")
    drawn = np.asarray(points(ax).get_offsets())
    assert sorted(map(tuple, drawn)) == sorted(map(tuple, annotated.obsm["X_umap"]))


def test_principal_components_carry_the_most_variance_and_say_how_much(annotated):
    ax = rmve.pl.embedding(annotated, basis=NAMES.latent)
    latent = annotated.obsm[NAMES.latent].astype(float)
    spectrum = np.linalg.svd(latent - latent.mean(0), compute_uv=False) ** 2
    drawn = np.asarray(points(ax).get_offsets())
    np.testing.assert_allclose((drawn**2).sum(0), spectrum[:2], rtol=1e-6)
    assert f"({100 * spectrum[0] / spectrum.sum():.0f} %)" in ax.get_xlabel()


def test_basis_may_be_named_without_its_prefix(annotated):
    annotated.obsm["X_pca"] = np.random.default_rng(0).normal(size=(annotated.n_obs, 5))
    assert rmve.pl.embedding(annotated, basis="pca").get_xlabel() == "PCA 1"
    assert rmve.pl.embedding(annotated, basis="spatial").get_xlabel() == "spatial 1"


def test_colors_are_those_of_the_clusters(annotated):
    n = annotated.obs[NAMES.cluster].cat.categories.size
    annotated.uns[f"{NAMES.cluster}_colors"] = ["#102030", "#405060", "#708090", "#a0b0c0"][:n]
    ax = rmve.pl.embedding(annotated)
    drawn = pd.Series([tuple(color) for color in points(ax).get_facecolors()]).value_counts()
    sizes = annotated.obs[NAMES.cluster].value_counts(sort=False)
    for color, size in zip(annotated.uns[f"{NAMES.cluster}_colors"], sizes, strict=True):
        assert drawn.get(to_rgba(color), 0) == size


def test_confidence_sets_the_opacity(annotated):
    alpha = np.sort(points(rmve.pl.embedding(annotated, confidence=True)).get_alpha())
    certain = np.sort(annotated.obs[NAMES.confidence].to_numpy())
    assert np.corrcoef(alpha, certain)[0, 1] > 0.999
    assert ((alpha > 0) & (alpha <= 1)).all()


def test_any_column_can_be_the_color_without_annotation(cells):
    ax = rmve.pl.embedding(cells, basis="spatial", color="batch")
    assert ax.get_title() == "batch"
    assert [text.get_text() for text in ax.texts] == ["batch 0"]


def test_numbers_are_colored_on_a_scale(annotated):
    values = np.linspace(0.2, 1.0, annotated.n_obs)
    values[3] = np.nan
    annotated.obs["stability"] = values
    ax = rmve.pl.embedding(annotated, basis="spatial", color="stability")
    (bar,) = [other for other in ax.figure.axes if other is not ax]
    assert bar.get_ylim() == pytest.approx((0.2, 1.0))
    assert not ax.texts
    pairs = zip(points(ax).get_offsets(), points(ax).get_facecolors(), strict=True)
    drawn = {tuple(place): tuple(color) for place, color in pairs}
    where = [tuple(place) for place in annotated.obsm["spatial"]]
    viridis = plt.get_cmap("viridis")
    assert drawn[where[0]] == viridis(0.0)
    assert drawn[where[-1]] == viridis(1.0)
    assert drawn[where[3]] == to_rgba("#b8b8b8")


def test_missing_numbers_and_equal_ones_are_drawn(annotated):
    for value in (np.nan, 0.5):
        annotated.obs["stability"] = np.full(annotated.n_obs, value)
        assert rmve.pl.embedding(annotated, color="stability", confidence=True).has_data()


def test_long_names_go_to_a_legend(annotated):
    annotated.obs["named"] = annotated.obs["cell_type"].cat.rename_categories(lambda name: f"cells of type {name}")
    ax = rmve.pl.embedding(annotated, color="named")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == list(annotated.obs["named"].cat.categories)
    assert not ax.texts


def test_names_do_not_overlap(annotated):
    rng = np.random.default_rng(0)
    annotated.obs["many"] = pd.Categorical([f"type {k}" for k in rng.integers(12, size=annotated.n_obs)])
    ax = rmve.pl.embedding(annotated, color="many")  # all medians are near the centre
    boxes = [text.get_window_extent() for text in ax.texts]
    assert len(boxes) == 12
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


@pytest.mark.parametrize(
    ("options", "named"),
    [({"basis": "tsne"}, "'tsne'"), ({"color": "absent"}, "'absent'"), ({"basis": "X_rmve2"}, "'X_rmve2'")],
)
def test_a_missing_key_is_named(annotated, options, named):
    with pytest.raises(KeyError, match=named):
        rmve.pl.embedding(annotated, **options)
    assert plt.get_fignums() == []


def test_missing_results_are_named(annotated):
    del annotated.obsm[NAMES.latent]
    with pytest.raises(KeyError, match=r"obsm\['X_rmve'\].*annotate"):
        rmve.pl.embedding(annotated)
    annotated.obsm["X_umap"] = np.zeros((annotated.n_obs, 2))
    del annotated.obs[NAMES.confidence]
    with pytest.raises(KeyError, match="rmve_confidence.*annotate"):
        rmve.pl.embedding(annotated, confidence=True)


def test_one_dimension_is_too_few(annotated):
    annotated.obsm["X_line"] = np.zeros((annotated.n_obs, 1))
    with pytest.raises(ValueError, match="fewer than two columns"):
        rmve.pl.embedding(annotated, basis="line")


def test_ellipses_hold_their_component(annotated):
    """Of points drawn from a component, 86 % of the plane's are within two standard deviations."""
    results = annotated.uns[NAMES.uns]
    ax = rmve.pl.embedding(annotated, ellipses=True)
    assert ax.get_xlabel().startswith("PC 1 of X_rmve")
    table = results["components"]
    rows = np.flatnonzero(table["active"])
    shapes = [patch for patch in ax.patches if patch.get_linewidth() < 2]
    assert len(shapes) == len(rows)
    latent = np.asarray(annotated.obsm["X_rmve"], dtype=float)
    drawn = np.asarray(ax.collections[0].get_offsets())[np.argsort(np.random.default_rng(0).permutation(len(latent)))]
    plane = np.linalg.lstsq(latent - latent.mean(0), drawn, rcond=None)[0]
    largest = rows[table["n_cells"].to_numpy()[rows].argmax()]
    mean, variance = results["component_means"][largest], results["component_variances"][largest]
    points = mean + np.sqrt(variance) * np.random.default_rng(1).normal(size=(5000, len(mean)))
    on_plane = (points - latent.mean(0)) @ plane
    inside = shapes[0].contains_points(ax.transData.transform(on_plane)).mean()
    assert inside == pytest.approx(1 - np.exp(-2), abs=0.02)


def test_ellipses_need_the_space_of_the_mixture(annotated):
    annotated.obsm["X_umap"] = annotated.obsm["X_rmve"][:, :2]
    with pytest.raises(ValueError, match="`basis='umap'` is not the space of the mixture"):
        rmve.pl.embedding(annotated, basis="umap", ellipses=True)
    assert rmve.pl.embedding(annotated, ellipses=True).get_xlabel().startswith("PC 1 of X_rmve")
