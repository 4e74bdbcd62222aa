"""Cells that are not coloured: those without a value, of other groups, or outside a mask; as in scanpy."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

import rmve
from rmve._keys import Written

NAMES = Written()
FIGURES = {"embedding": rmve.pl.embedding, "spatial": rmve.pl.spatial, "body_map": rmve.pl.body_map}
GREY = "#b8b8b8"


@pytest.fixture(params=FIGURES)
def draw(request):
    return FIGURES[request.param]


def drawn(ax) -> list[str]:
    """Colour of each cell, from the lowest to the highest."""
    return [to_hex(color) for color in ax.collections[0].get_facecolors()]


def legend(ax) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_other_groups_are_grey_and_lie_below(draw, annotated, unchanged):
    annotated.uns["cell_type_colors"] = ["red", "lime", "blue"]
    n_red = int((annotated.obs["cell_type"] == "A").sum())
    with unchanged(annotated):
        for groups in ("A", ["A"], pd.Index(["A"])):
            colors = drawn(draw(annotated, color="cell_type", groups=groups))
            assert colors == [GREY] * (annotated.n_obs - n_red) + ["#ff0000"] * n_red
        both = drawn(draw(annotated, color="cell_type", groups=["B", "A"], na_color="black"))
    assert set(both) == {"#000000", "#ff0000", "#00ff00"}


def test_only_the_groups_are_named(annotated):
    on_data = rmve.pl.embedding(annotated, color="cell_type", groups=["A", "C"], legend_loc="on data")
    assert [text.get_text() for text in on_data.texts] == ["A", "C"]
    body = rmve.pl.body_map(annotated, color="cell_type", groups="B")
    assert [text.get_text() for text in body.texts] == ["B"]


@pytest.mark.parametrize("figure", [rmve.pl.embedding, rmve.pl.spatial])
def test_a_legend_names_cells_without_a_value(annotated, figure):
    beside = {"color": "cell_type", "legend_loc": "right margin"}
    assert legend(figure(annotated, **beside)) == ["A", "B", "C"]
    annotated.obs.loc[annotated.obs_names[:3], "cell_type"] = np.nan
    ax = figure(annotated, **beside, na_color="orange")
    assert legend(ax) == ["A", "B", "C", "NA"]
    assert to_hex(ax.get_legend().legend_handles[-1].get_color()) == to_hex("orange")
    assert legend(figure(annotated, **beside, na_in_legend=False)) == ["A", "B", "C"]
    assert legend(figure(annotated, **beside, groups="B")) == ["B", "NA"]
    assert legend(figure(annotated, **beside, groups="B", na_color="none")) == ["B"]


def test_a_mask_leaves_categories_out(draw, annotated):
    annotated.obs["chosen"] = annotated.obs["cell_type"] == "A"
    for mask in ("chosen", annotated.obs["chosen"], annotated.obs["chosen"].to_numpy(), list(annotated.obs["chosen"])):
        colors = drawn(draw(annotated, color="cell_type", mask_obs=mask))
        assert colors.count(GREY) == (~annotated.obs["chosen"]).sum()
    nullable = annotated.obs["chosen"].astype("boolean").where(annotated.obs["chosen"])
    assert drawn(draw(annotated, color="cell_type", mask_obs=nullable)) == colors


def test_a_mask_leaves_numbers_out_of_the_scale(draw, annotated):
    annotated.obs["n"] = np.arange(240.0)
    mask = annotated.obs["n"] < 100
    ax = draw(annotated, color="n", mask_obs=mask, na_color="red")
    colors = drawn(ax)
    assert set(colors[:140]) == {"#ff0000"}
    assert "#ff0000" not in colors[140:]
    (bar,) = [other for other in ax.figure.axes if other.get_label() == "<colorbar>"]
    assert bar.get_ylim() == pytest.approx((0, 99))


def test_transparent_colors_stay_transparent(draw, annotated):
    ax = draw(annotated, color="cell_type", groups="A", na_color="none", alpha=0.5)
    alpha = ax.collections[0].get_facecolors()[:, 3]
    n_shown = int((annotated.obs["cell_type"] == "A").sum())
    np.testing.assert_allclose(alpha, [0.0] * (annotated.n_obs - n_shown) + [0.5] * n_shown)


def test_groups_of_one_panel_among_several(annotated):
    types, clusters = rmve.pl.embedding(annotated, color=["cell_type", NAMES.cluster], groups=["A", "0"])
    assert len(set(drawn(types))) == len(set(drawn(clusters))) == 2


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"groups": "a"}, ValueError, "`groups` holds 'a', which is no category of 'cell_type'. Did you mean 'A'"),
        ({"groups": ["A", "Z"]}, ValueError, "'Z'"),
        ({"mask_obs": "chosn"}, KeyError, "chosn"),
        ({"mask_obs": [True]}, ValueError, "1 entries, and there are 240 cells"),
        ({"mask_obs": "cell_type"}, ValueError, "must be boolean"),
        ({"na_color": "greyish"}, ValueError, "`na_color='greyish'` is no colour"),
    ],
)
def test_what_does_not_fit_is_named(draw, annotated, given, error, message):
    import matplotlib.pyplot as plt

    with pytest.raises(error, match=message):
        draw(annotated, color="cell_type", **given)
    assert plt.get_fignums() == []
