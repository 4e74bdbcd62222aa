"""What holds for each figure of AnnData."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes

import rmve
from rmve._keys import Written
from rmve.pl._colors import palette
from rmve.pl._figure import spread

FIGURES = {
    "body_map": rmve.pl.body_map,
    "spatial": rmve.pl.spatial,
    "spatial_error": rmve.pl.spatial_error,
    "spatial_fit": rmve.pl.spatial_fit,
    "spatial_genes": rmve.pl.spatial_genes,
    "embedding": rmve.pl.embedding,
    "components": rmve.pl.components,
    "confusion": lambda adata, **kwargs: rmve.pl.confusion(adata, "cell_type", **kwargs),
    "confidence": rmve.pl.confidence,
    "separation": rmve.pl.separation,
    "merge_tree": rmve.pl.merge_tree,
}


@pytest.fixture(params=FIGURES)
def draw(request):
    return FIGURES[request.param]


def test_every_public_figure_is_tested_here_or_draws_a_table():
    assert set(rmve.pl.__all__) == {*FIGURES, "history", "stability", "markers", "gene_programmes"}


def test_returns_axes_of_a_new_figure(draw, annotated):
    ax = draw(annotated)
    assert isinstance(ax, Axes)
    assert plt.get_fignums() == [ax.figure.number]


def test_draws_on_the_axes_given(draw, annotated):
    figure, axes = plt.subplots(1, 2)
    assert draw(annotated, ax=axes[1]) is axes[1]
    assert plt.get_fignums() == [figure.number]
    assert axes[1].has_data()
    assert not axes[0].has_data()


def test_draws_in_a_subfigure_and_saves_the_whole(draw, annotated, tmp_path):
    figure = plt.figure()
    ax = figure.subfigures(1, 2)[0].subplots()
    draw(annotated, ax=ax, save=tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 0


def test_leaves_the_cells_as_they_are(draw, annotated, unchanged):
    with unchanged(annotated):
        draw(annotated)


@pytest.mark.parametrize("ending", ["png", "pdf", "svg"])
def test_saves(draw, annotated, tmp_path, ending):
    path = tmp_path / f"figure.{ending}"
    draw(annotated, save=path)
    start = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}[ending]
    assert path.read_bytes().startswith(start)


def test_saves_nothing_by_itself(draw, annotated, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw(annotated)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("interactive", "with_axes", "show", "shown"),
    [
        (False, False, None, False),
        (True, False, None, True),
        (True, True, None, False),
        (True, False, False, False),
        (False, False, True, True),
        (False, True, True, True),
    ],
)
def test_shows_when_asked_or_interactive(draw, annotated, monkeypatch, interactive, with_axes, show, shown):
    ax = plt.subplots()[1] if with_axes else None
    calls = []
    monkeypatch.setattr(plt, "show", lambda: calls.append(1))
    monkeypatch.setattr(plt, "isinteractive", lambda: interactive)
    draw(annotated, ax=ax, show=show)
    assert bool(calls) is shown


@pytest.mark.parametrize(("key", "call"), [("rmve", "annotate()"), ("other", "annotate(key_added='other')")])
def test_without_results_names_key_and_remedy(draw, cells, key, call):
    with pytest.raises(KeyError) as error:
        draw(cells, key=key)
    message = error.value.args[0]
    assert repr(key) in message
    assert f"Call `model.{call}` first." in message
    assert plt.get_fignums() == []


def test_follows_another_prefix(draw, trained):
    adata = trained.adata.copy()
    names = Written("rmve")
    for name in (names.cluster, names.confidence):
        del adata.obs[name]
    for name in (names.latent, names.probabilities):
        del adata.obsm[name]
    del adata.uns[names.uns]
    trained.annotate(adata, key_added="other")
    assert draw(adata, key="other").has_data()


def test_cells_without_a_cluster_are_drawn_or_left_out(draw, annotated):
    annotated.obs[Written().cluster] = annotated.obs[Written().cluster].where(np.arange(annotated.n_obs) > 30)
    assert draw(annotated).has_data()


def test_palette_takes_enough_colors_from_the_file_else_the_defaults(annotated):
    from scanpy.pl import palettes

    assert palette(annotated, "x", pd.RangeIndex(3)) == palettes.default_20[:3]
    assert len(set(palette(annotated, "x", pd.RangeIndex(25)))) == 25
    assert len(palette(annotated, "x", pd.RangeIndex(150))) == 150
    annotated.uns["x_colors"] = np.array(["#000000", "#ffffff"], dtype=object)
    assert palette(annotated, "x", pd.RangeIndex(2)) == ["#000000", "#ffffff"]
    assert palette(annotated, "x", pd.RangeIndex(3)) == palettes.default_20[:3]


@pytest.mark.parametrize("seed", range(5))
def test_spread_rectangles_do_not_overlap_and_stay_inside(seed):
    rng = np.random.default_rng(seed)
    center, half = rng.uniform(40, 60, size=(12, 2)), rng.uniform(2, 6, size=(12, 2))
    frame = np.array([[0.0, 0.0], [100.0, 100.0]])
    moved = spread(center, half, frame)
    first, second = np.triu_indices(len(center), 1)
    gap = np.abs(moved[first] - moved[second]) - half[first] - half[second]
    assert (gap.max(1) >= -1e-6).all()
    assert (moved - half >= -1e-9).all()
    assert (moved + half <= 100 + 1e-9).all()


def test_spread_leaves_what_does_not_overlap():
    center, half = np.array([[10.0, 10.0], [50.0, 50.0]]), np.full((2, 2), 5.0)
    assert np.array_equal(spread(center, half, np.array([[0.0, 0.0], [100.0, 100.0]])), center)


def test_spread_parts_rectangles_at_the_same_place():
    moved = spread(np.full((2, 2), 50.0), np.full((2, 2), 5.0), np.array([[0.0, 0.0], [100.0, 100.0]]))
    assert np.abs(moved[0] - moved[1]).max() >= 10
