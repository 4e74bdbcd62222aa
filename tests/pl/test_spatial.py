"""Cells in space and on the body: what is drawn is what the AnnData holds."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_rgba

import rmve
from rmve._keys import Written
from rmve.body import FRAME, ORGANS
from rmve.pl._body import LINE_HEIGHT, MIDDLE, _apart, silhouette

NAMES = Written()


def drawn(ax) -> np.ndarray:
    return np.vstack([np.asarray(part.get_offsets()) for part in ax.collections])


def as_set(points) -> set:
    return {tuple(point) for point in np.round(np.asarray(points, dtype=float), 6)}


def test_cells_are_where_they_are_or_where_the_map_puts_them(annotated):
    assert as_set(drawn(rmve.pl.spatial(annotated))) == as_set(annotated.obsm["spatial"])
    assert as_set(drawn(rmve.pl.spatial(annotated, predicted=True))) == as_set(annotated.obsm[NAMES.spatial])


def test_axes_are_chosen(annotated):
    ax = rmve.pl.spatial(annotated, axes=(1, 0))
    assert as_set(drawn(ax)) == as_set(annotated.obsm["spatial"][:, ::-1])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("axis 1", "axis 0")
    with pytest.raises(ValueError, match="axes=\\(0, 2\\)"):
        rmve.pl.spatial(annotated, axes=(0, 2))


def test_cells_of_unknown_position_are_left_out(annotated):
    annotated.obsm["spatial"][:7] = np.nan
    assert len(drawn(rmve.pl.spatial(annotated))) == annotated.n_obs - 7


def test_one_coordinate_is_drawn_on_a_line(annotated):
    annotated.obsm["spatial"] = annotated.obsm["spatial"][:, :1]
    points = drawn(rmve.pl.spatial(annotated))
    assert (points[:, 1] == 0).all()
    assert np.ptp(points[:, 0]) > 0


def test_numbers_have_a_scale(annotated):
    ax = rmve.pl.spatial(annotated, color=NAMES.spatial_sd)
    assert any(other.get_label() == "<colorbar>" for other in ax.figure.axes)


def test_errors_are_those_of_held_out_cells(annotated):
    held_out = np.isin(annotated.obs_names, annotated.uns[NAMES.uns]["held_out"])
    assert held_out.sum() == 24  # a tenth
    ax = rmve.pl.spatial_error(annotated)
    others, judged = ax.collections
    assert as_set(judged.get_offsets()) == as_set(annotated.obsm["spatial"][held_out])
    assert len(others.get_offsets()) == annotated.n_obs - 24
    error = np.linalg.norm(annotated.obsm["spatial"] - annotated.obsm[NAMES.spatial], axis=1)
    np.testing.assert_allclose(np.sort(judged.get_array()), np.sort(error[held_out]), rtol=1e-6)
    assert "held-out" in ax.get_title()


def test_arrows_lead_from_the_true_to_the_predicted_position(annotated):
    held_out = np.isin(annotated.obs_names, annotated.uns[NAMES.uns]["held_out"])
    _, field = rmve.pl.spatial_error(annotated, arrows=True).collections
    ends = np.column_stack([field.X + field.U, field.Y + field.V])
    assert as_set(ends) == as_set(annotated.obsm[NAMES.spatial][held_out])


def test_fit_shows_the_judged_cells_and_their_r2(annotated):
    del annotated.uns[NAMES.uns]["held_out"]  # a model that learned no positions
    ax = rmve.pl.spatial_fit(annotated, axis=1)
    expected = np.column_stack([annotated.obsm["spatial"][:, 1], annotated.obsm[NAMES.spatial][:, 1]])
    assert as_set(drawn(ax)) == as_set(expected)
    r2 = 1 - ((expected[:, 0] - expected[:, 1]) ** 2).sum() / ((expected[:, 0] - expected[:, 0].mean()) ** 2).sum()
    assert ax.get_title() == f"R² {r2:.2f}, all cells"


def test_genes_are_the_extremes_of_the_table(annotated):
    table = annotated.uns[NAMES.uns]["spatial_genes"]["0"].sort_values()
    ax = rmve.pl.spatial_genes(annotated, n_genes=3)
    shown = [label.get_text() for label in ax.get_yticklabels()]
    assert shown == [*table.index[:3], *table.index[-3:]]
    np.testing.assert_allclose([bar.get_width() for bar in ax.patches], table.loc[shown])
    with pytest.raises(KeyError, match="axis 2"):
        rmve.pl.spatial_genes(annotated, axis=2)


def test_a_model_without_a_map_says_so(annotated):
    del annotated.obsm[NAMES.spatial]
    for figure in (rmve.pl.spatial_error, rmve.pl.spatial_fit, rmve.pl.body_map):
        with pytest.raises(KeyError, match=NAMES.spatial):
            figure(annotated)
    with pytest.raises(KeyError, match="spatial_key='xy'"):
        rmve.pl.spatial(annotated, spatial_key="xy")


# ------------------------------------------------------------------------ body


def test_the_body_is_symmetric_and_holds_its_organs():
    outline = silhouette()
    vertices = outline.vertices
    assert as_set(vertices) == as_set(np.column_stack([2 * MIDDLE - vertices[:, 0], vertices[:, 1]]))
    inside = ORGANS.drop(index=["nerve", "skin"])
    assert outline.contains_points(inside[["x", "y"]].to_numpy()).all()


def test_body_map_draws_cells_in_their_colors_and_names_them(annotated):
    left, right, top, bottom = FRAME
    rng = np.random.default_rng(0)
    annotated.obsm[NAMES.spatial] = np.column_stack([rng.uniform(40, 60, 240), rng.uniform(10, 150, 240)])
    annotated.obsm[NAMES.spatial][0] = [1e4, -1e4]  # far outside
    annotated.obsm[NAMES.spatial][1] = np.nan
    annotated.uns["cell_type_colors"] = ["#102030", "#405060", "#708090"]
    ax = rmve.pl.body_map(annotated, color="cell_type")
    points = drawn(ax)
    assert len(points) == annotated.n_obs - 1
    assert (right, top) in as_set(points)
    assert {text.get_text() for text in ax.texts} == {"A", "B", "C"}
    colors = {tuple(color[:3]) for color in np.round(ax.collections[0].get_facecolors(), 6)}
    assert colors == {tuple(np.round(to_rgba(color)[:3], 6)) for color in annotated.uns["cell_type_colors"]}
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the head is on top
    assert not rmve.pl.body_map(annotated, names=False).texts


def test_body_map_needs_two_coordinates(annotated):
    annotated.obsm["line"] = annotated.obsm["spatial"][:, :1]
    with pytest.raises(ValueError, match="two coordinates"):
        rmve.pl.body_map(annotated, basis="line")


@pytest.mark.parametrize("heights", [[], [5.0], [5.0, 5.0, 6.0], [180.0, 190.0, 196.0, 197.0]])
def test_names_keep_apart(heights):
    moved = _apart(np.array(heights), LINE_HEIGHT, FRAME[3])
    assert (np.diff(moved) >= LINE_HEIGHT - 1e-9).all()
    assert (moved <= FRAME[3]).all()
