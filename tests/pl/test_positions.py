"""Figures in space share limits, names and direction of their axes."""

from __future__ import annotations

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.quiver import Quiver

import rmve
from rmve._keys import Written
from rmve.pl._positions import mean_steps
from rmve.pl._spatial_fit import MAX_ARROWS, N_SQUARES

NAMES = Written()
VISIUM = {"section 1": {"images": {}, "scalefactors": {"tissue_hires_scalef": 0.1}}}


def limits(ax):
    return (*ax.get_xlim(), *ax.get_ylim())


def hold(ax, points) -> bool:
    low, high = np.array([ax.get_xlim(), ax.get_ylim()]).T
    return bool(((points > low) & (points < high)).all())


@pytest.fixture
def far(annotated):
    """Cells that the map puts far from where they are."""
    annotated.obsm[NAMES.spatial] = 3 * annotated.obsm["spatial"] + 50
    return annotated


def test_true_and_predicted_positions_have_the_same_limits(far):
    figures = [
        rmve.pl.spatial(far),
        rmve.pl.spatial(far, predicted=True),
        rmve.pl.spatial(far, color="gene 3"),
        rmve.pl.spatial_error(far),
        rmve.pl.spatial_error(far, arrows=True),
    ]
    assert len({limits(ax) for ax in figures}) == 1
    assert hold(figures[0], far.obsm["spatial"])
    assert hold(figures[0], far.obsm[NAMES.spatial])


def test_panels_and_one_coordinate_have_the_same_limits(far):
    first, second = rmve.pl.spatial(far, color=["rmve", "gene 1"])
    assert limits(first) == limits(second)
    far.obsm["spatial"], far.obsm[NAMES.spatial] = far.obsm["spatial"][:, :1], far.obsm[NAMES.spatial][:, :1]
    assert limits(rmve.pl.spatial(far)) == limits(rmve.pl.spatial(far, predicted=True))


def test_limits_are_those_of_the_positions_that_there_are(far):
    del far.obsm[NAMES.spatial]
    ax = rmve.pl.spatial(far)
    extent = np.ptp(far.obsm["spatial"], axis=0)
    np.testing.assert_allclose([np.ptp(ax.get_xlim()), np.ptp(ax.get_ylim())], 1.1 * extent)
    far.obsm["spatial"][:] = np.nan
    assert np.isfinite(limits(rmve.pl.spatial(far))).all()


def test_cells_without_results_are_drawn_by_a_column(cells):
    ax = rmve.pl.spatial(cells, color="batch")
    assert len(ax.collections[0].get_offsets()) == cells.n_obs


def test_fit_has_the_same_limits_on_both_axes(far):
    ax = rmve.pl.spatial_fit(far, axis=1)
    assert ax.get_xlim() == ax.get_ylim()
    assert ax.get_ylim()[1] > far.obsm[NAMES.spatial][np.isin(far.obs_names, far.uns["rmve"]["held_out"]), 1].max()


@pytest.mark.parametrize("figure", [rmve.pl.spatial, rmve.pl.spatial_error])
def test_the_vertical_axis_points_down_in_images(annotated, figure):
    def points_down(**options) -> bool:
        low, high = figure(annotated, **options).get_ylim()
        return low > high

    assert not points_down()
    assert points_down(invert_y=True)
    annotated.uns["spatial"] = VISIUM
    assert points_down()
    assert not points_down(invert_y=False)
    assert not points_down(axes=(1, 0))  # the vertical axis is not the image's


def test_axes_have_names_and_units_where_they_are_known(annotated):
    def labels(**options) -> tuple[str, str]:
        ax = rmve.pl.spatial(annotated, **options)
        return ax.get_xlabel(), ax.get_ylabel()

    assert labels() == ("axis 0", "axis 1")
    assert labels(unit="µm") == ("axis 0 (µm)", "axis 1 (µm)")
    annotated.uns["spatial"] = VISIUM
    assert labels() == ("axis 0 (pixels)", "axis 1 (pixels)")
    positions = pd.DataFrame(annotated.obsm["spatial"], annotated.obs_names, ["length", "depth"])
    annotated.obsm["spatial"] = positions
    assert labels(unit="mm") == ("length (mm)", "depth (mm)")
    assert labels(unit="mm", predicted=True, axes=(1, 0)) == ("depth (mm)", "length (mm)")
    ax = rmve.pl.spatial_fit(annotated, axis=1, unit="mm")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("true depth (mm)", "predicted depth (mm)")
    (bar,) = rmve.pl.spatial_error(annotated, unit="mm").figure.axes[1:]
    assert bar.get_ylabel() == "error (mm)"


def test_errors_take_colors_limits_size_and_title(annotated):
    ax = rmve.pl.spatial_error(annotated, cmap="cividis", vmin=0, vmax=9, size=5, title="mine")
    cells = ax.collections[1]
    assert (cells.get_cmap().name, cells.get_clim()) == ("cividis", (0, 9))
    assert cells.get_sizes() == [5]
    assert ax.get_title() == "mine"
    assert rmve.pl.spatial_fit(annotated, size=5, title="mine").collections[0].get_sizes() == [5]


@pytest.mark.parametrize("figure", [rmve.pl.spatial_error, rmve.pl.spatial_fit])
def test_errors_and_fit_return_the_figure_if_asked(annotated, figure):
    drawn = figure(annotated, return_fig=True)
    assert isinstance(drawn, Figure)
    assert drawn.axes[0].has_data()


# ---------------------------------------------------------------------- arrows


@pytest.fixture
def many():
    """3,000 cells on a square, which the map shrinks towards the middle, with noise."""
    rng = np.random.default_rng(0)
    adata = ad.AnnData(np.zeros((3000, 1)))
    adata.obsm["spatial"] = np.vstack([[[0, 0], [100, 100]], rng.uniform(0, 100, size=(2998, 2))])
    adata.obsm[NAMES.spatial] = 50 + 0.5 * (adata.obsm["spatial"] - 50) + rng.normal(0, 10, size=(3000, 2))
    adata.uns[NAMES.uns] = {"params": {"spatial_key": "spatial"}}
    return adata


def arrows(ax) -> Quiver:
    (field,) = [part for part in ax.collections if isinstance(part, Quiver)]
    return field


def test_arrows_of_many_cells_are_means_in_squares(many):
    ax = rmve.pl.spatial_error(many, arrows=True)
    field = arrows(ax)
    assert len(field.X) == N_SQUARES**2 <= MAX_ARROWS
    assert ax.get_title() == "true to predicted, 3,000 cells averaged in squares"
    square = np.minimum(np.floor(many.obsm["spatial"] / 10), 9)
    inside = (square == [2, 7]).all(1)
    steps = many.obsm[NAMES.spatial] - many.obsm["spatial"]
    start, step = many.obsm["spatial"][inside].mean(0), steps[inside].mean(0)
    k = np.abs(np.column_stack([field.X, field.Y]) - start).sum(1).argmin()
    np.testing.assert_allclose([field.X[k], field.Y[k]], start)
    np.testing.assert_allclose([field.U[k], field.V[k]], step)
    assert field.get_array()[k] == pytest.approx(np.linalg.norm(steps[inside], axis=1).mean())
    bar = next(other for other in ax.figure.axes if other is not ax)
    assert bar.get_ylabel() == "mean error"


def test_arrows_of_few_cells_are_single(many):
    many.uns[NAMES.uns]["held_out"] = many.obs_names[:MAX_ARROWS].to_numpy()
    ax = rmve.pl.spatial_error(many, arrows=True)
    assert len(arrows(ax).X) == MAX_ARROWS
    assert ax.get_title() == "true to predicted, held-out cells"
    many.uns[NAMES.uns]["held_out"] = many.obs_names[:500].to_numpy()
    ax = rmve.pl.spatial_error(many, arrows=True)
    assert ax.get_title() == "true to predicted, 500 held-out cells averaged in squares"


def test_arrows_do_not_cover_the_figure(many):
    """Less than a fifth of it, as drawn."""
    field = arrows(rmve.pl.spatial_error(many, arrows=True))
    ax = field.axes
    for part in ax.collections:
        part.set_visible(part is field)
    ax.set_axis_off()
    ax.set_title("")
    ax.figure.canvas.draw()
    pixels = np.asarray(ax.figure.canvas.buffer_rgba())[..., :3]
    box = ax.get_window_extent()
    height = pixels.shape[0]
    inside = pixels[height - int(box.y1) : height - int(box.y0), int(box.x0) : int(box.x1)]
    assert 0.01 < (inside < 250).any(-1).mean() < 0.2


def test_means_in_squares():
    start = np.array([[0.0, 0.0], [0.0, 0.4], [2.0, 1.0]])
    end = np.array([[1.0, 0.0], [3.0, 0.0], [2.0, 2.0]])
    means = mean_steps(start, end, np.array([1.0, 3.0, 5.0]), 2)
    np.testing.assert_allclose(means[0], [[0.0, 0.2], [2.0, 1.0]])
    np.testing.assert_allclose(means[1], [[2.0, 0.0], [2.0, 2.0]])
    np.testing.assert_allclose(means[2], [2.0, 5.0])
    alone = mean_steps(np.ones((2, 2)), np.zeros((2, 2)), np.array([1.0, 2.0]), 2)
    assert [len(part) for part in alone] == [1, 1, 1]


def test_figures_in_space_leave_the_cells_as_they_are(far, unchanged):
    far.uns["spatial"] = VISIUM
    with unchanged(far):
        rmve.pl.spatial(far, color=["cell_type", "gene 1"], invert_y=True, palette="tab10", unit="mm")
        rmve.pl.spatial_error(far, arrows=True)
    plt.close("all")
