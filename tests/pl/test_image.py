"""The picture of a tissue below its cells, as scanpy and squidpy store it."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest

import rmve
from rmve._keys import Written


def section(**scales) -> dict:
    """Images of one section: a white one of 40 by 60 pixels for each scale."""
    return {
        "images": {name: np.ones((40, 60, 3)) for name in scales},
        "scalefactors": {f"tissue_{name}_scalef": scale for name, scale in scales.items()},
    }


@pytest.fixture
def visium(annotated):
    """Cells on an image of which a pixel is two units wide."""
    annotated.uns["spatial"] = {"brain": section(lowres=0.1, hires=0.5)}
    return annotated


def extent(ax) -> list[float]:
    (image,) = ax.images
    return list(image.get_extent())


def test_the_image_lies_below_the_cells_at_their_coordinates(visium, unchanged):
    visium.uns["spatial"]["brain"]["images"]["hires"][10, 20] = [1, 0, 0]
    with unchanged(visium):
        ax = rmve.pl.spatial(visium)
    left, right, bottom, top = extent(ax)
    assert (left, right, bottom, top) == (-1, 119, 79, -1)
    (image,) = ax.images
    assert image.get_zorder() < ax.collections[0].get_zorder()
    row, column = np.argwhere(np.asarray(image.get_array())[..., 1] == 0)[0]
    place = left + (right - left) * (column + 0.5) / 60, top + (bottom - top) * (row + 0.5) / 40
    assert place == pytest.approx((40, 20))  # pixel (20, 10), two units each


def test_the_cells_set_the_limits(visium):
    with_image, without = rmve.pl.spatial(visium), rmve.pl.spatial(visium, img_key=None)
    assert with_image.get_xlim() == without.get_xlim()
    assert with_image.get_ylim() == without.get_ylim()
    assert not without.images


def test_the_image_is_chosen(visium):
    assert extent(rmve.pl.spatial(visium, img_key="lowres"))[1] == 595
    assert extent(rmve.pl.spatial(visium, scale_factor=1))[1] == 59.5
    assert extent(rmve.pl.spatial(visium, img=np.zeros((7, 9)), scale_factor=0.5)) == [-1, 17, 13, -1]
    assert extent(rmve.pl.spatial(visium, img=np.zeros((7, 9), dtype=np.uint8)))[1] == 8.5
    ax = rmve.pl.spatial(visium, alpha_img=0.3, predicted=True)
    assert ax.images[0].get_alpha() == 0.3
    assert all(len(panel.images) == 1 for panel in rmve.pl.spatial(visium, color=["rmve", "gene 1"]))
    visium.uns["spatial"]["brain"]["images"].pop("hires")
    assert extent(rmve.pl.spatial(visium))[1] == 595


def test_cells_without_a_value_show_the_tissue(visium):
    cells = rmve.pl.spatial(visium, color="cell_type", groups="A").collections[0]
    n_shown = int((visium.obs["cell_type"] == "A").sum())
    assert (cells.get_facecolors()[:, 3] > 0).sum() == n_shown
    cells = rmve.pl.spatial(visium, color="cell_type", groups="A", na_color="grey").collections[0]
    assert (cells.get_facecolors()[:, 3] > 0).all()


def test_there_is_no_image_where_none_fits(visium):
    assert not rmve.pl.spatial(visium, axes=(1, 0)).images
    visium.uns["spatial"]["liver"] = section(hires=0.5)
    assert not rmve.pl.spatial(visium).images
    assert rmve.pl.spatial(visium, library_id="liver").images
    for nothing in (
        {},
        {"brain": {"images": {}, "scalefactors": {}}},
        {"brain": {"images": {"hires": 1}}},
        {"brain": 1},
    ):
        visium.uns["spatial"] = nothing
        assert not rmve.pl.spatial(visium).images


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"img_key": "hirez"}, KeyError, "no image. Did you mean 'hires'"),
        ({"library_id": "brian"}, KeyError, "Did you mean 'brain'"),
        ({"img_key": "hires", "axes": (1, 0)}, ValueError, "Leave the image out"),
        ({"img": np.zeros((2, 2)), "axes": (1, 0)}, ValueError, "Leave the image out"),
    ],
)
def test_an_image_that_is_missing_is_named(visium, given, error, message):
    with pytest.raises(error, match=message):
        rmve.pl.spatial(visium, **given)
    assert plt.get_fignums() == []


def test_a_section_and_a_scale_must_be_known(visium):
    visium.uns["spatial"]["liver"] = section(hires=0.5)
    with pytest.raises(ValueError, match="Choose one as `library_id`"):
        rmve.pl.spatial(visium, img_key="hires")
    visium.uns["spatial"]["liver"]["scalefactors"].clear()
    with pytest.raises(KeyError, match="scale_factor"):
        rmve.pl.spatial(visium, img_key="hires", library_id="liver")
    del visium.uns["spatial"]
    with pytest.raises(KeyError, match="An image is not in"):
        rmve.pl.spatial(visium, img_key="hires")


def test_images_of_a_file_are_drawn(visium, tmp_path):
    import anndata as ad

    visium.write_h5ad(tmp_path / "visium.h5ad")
    again = ad.read_h5ad(tmp_path / "visium.h5ad")
    assert extent(rmve.pl.spatial(again)) == [-1, 119, 79, -1]
    assert Written().cluster in again.obs
