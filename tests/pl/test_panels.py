"""Figures of cells take and return what scanpy's do."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, to_hex
from matplotlib.figure import Figure

import rmve
from rmve._keys import Written
from rmve.pl._panels import figure_of

NAMES = Written()
FIGURES = {"embedding": rmve.pl.embedding, "spatial": rmve.pl.spatial, "body_map": rmve.pl.body_map}


@pytest.fixture(params=FIGURES)
def draw(request):
    return FIGURES[request.param]


def cells_of(ax):
    return ax.collections[0]


def color_bar(ax):
    """Limits of the colour bar beside a panel."""
    bars = [*ax.child_axes, *(other for other in ax.figure.axes if other.get_label() == "<colorbar>")]
    return bars[0].get_ylim() if bars else None


def test_a_list_has_a_panel_for_each_name(draw, annotated):
    axes = draw(annotated, color=["cell_type", "gene 3", None])
    assert isinstance(axes, list)
    assert [ax.get_title() for ax in axes] == ["cell_type", "gene 3", "rmve"]
    assert len({ax.figure for ax in axes}) == 1
    assert all(len(cells_of(ax).get_offsets()) == annotated.n_obs for ax in axes)
    assert [color_bar(ax) is not None for ax in axes] == [False, True, False]
    gene = annotated.obs_vector("gene 3")
    assert color_bar(axes[1]) == pytest.approx((gene.min(), gene.max()))


@pytest.mark.parametrize(("ncols", "rows", "columns"), [(4, 1, 3), (2, 2, 2), (1, 3, 1)])
def test_ncols(annotated, ncols, rows, columns):
    axes = rmve.pl.embedding(annotated, color=["rmve", "gene 1", "gene 2"], ncols=ncols)
    grid = axes[0].get_gridspec()
    assert (grid.nrows, grid.ncols) == (rows, columns)
    assert len(axes[0].figure.axes) == 3  # no empty ones


def test_returns_what_scanpy_returns(draw, annotated, monkeypatch):
    monkeypatch.setattr(plt, "show", lambda: None)
    assert isinstance(draw(annotated), Axes)
    assert isinstance(draw(annotated, color=["rmve"]), Axes)
    assert isinstance(draw(annotated, show=False), Axes)
    assert draw(annotated, show=True) is None
    assert isinstance(draw(annotated, return_fig=True), Figure)
    figure = draw(annotated, color=["rmve", "gene 1"], return_fig=True)
    assert [ax.get_title() for ax in figure.axes[:2]] == ["rmve", "gene 1"]


def test_the_figure_of_what_was_drawn(annotated):
    figure = rmve.pl.embedding(annotated, return_fig=True)
    for drawn in (figure, figure.axes[0], [figure.axes[0]], None):
        assert figure_of(drawn) is figure


def test_names_may_be_an_index(annotated):
    titles = [ax.get_title() for ax in rmve.pl.embedding(annotated, color=annotated.var_names[:2])]
    assert titles == ["gene 0", "gene 1"]


def test_layers_and_raw_have_other_values(draw, annotated):
    annotated.layers["tenfold"] = 10 * annotated.layers["counts"]
    annotated.raw = annotated.copy()
    annotated.X = annotated.X * 3
    counts = annotated.obs_vector("gene 3", layer="counts")
    low, high = counts.min(), counts.max()
    assert color_bar(draw(annotated, color="gene 3", layer="tenfold")) == pytest.approx((10 * low, 10 * high))
    raw = annotated.raw.obs_vector("gene 3")
    assert color_bar(draw(annotated, color="gene 3")) == pytest.approx((raw.min(), raw.max()))
    assert color_bar(draw(annotated, color="gene 3", use_raw=False)) == pytest.approx((3 * raw.min(), 3 * raw.max()))


def test_sizes(draw, annotated):
    assert cells_of(draw(annotated, size=7)).get_sizes() == [7]
    annotated.obs["n"] = np.arange(240.0)[::-1]
    sizes = cells_of(draw(annotated, color="n", size=1 + annotated.obs["n"])).get_sizes()
    np.testing.assert_array_equal(sizes, np.arange(1, 241))  # in the order in which the cells are drawn


def test_numbers_lie_in_order_and_missing_ones_below(draw, annotated):
    annotated.obs["n"] = np.random.default_rng(0).permutation(240).astype(float)
    annotated.obs.iloc[:2, annotated.obs.columns.get_loc("n")] = np.nan
    colors = cells_of(draw(annotated, color="n")).get_facecolors()
    assert {to_hex(color) for color in colors[:2]} == {"#b8b8b8"}
    viridis = plt.get_cmap("viridis")
    np.testing.assert_allclose(colors[[2, -1], :3], [viridis(0.0)[:3], viridis(1.0)[:3]])
    colors = cells_of(draw(annotated, color="n", sort_order=False)).get_facecolors()
    assert not np.allclose(colors[-1, :3], viridis(1.0)[:3])


def test_further_arguments_go_to_scatter(draw, annotated):
    cells = cells_of(draw(annotated, alpha=0.25, marker="s", edgecolors="red", lw=2))
    assert cells.get_alpha() == 0.25
    assert len(cells.get_paths()[0].vertices) == 5
    assert to_hex(cells.get_edgecolors()[0]) == "#ff0000"
    assert cells.get_linewidths() == [2]


def test_alpha_multiplies_confidence(annotated):
    plain = cells_of(rmve.pl.embedding(annotated, confidence=True)).get_alpha()
    paler = cells_of(rmve.pl.embedding(annotated, confidence=True, alpha=0.5)).get_alpha()
    np.testing.assert_allclose(paler, plain / 2)


@pytest.mark.parametrize(
    ("given", "message"),
    [({"s": 3}, "`size`"), ({"c": "red"}, "`color`"), ({"laier": "counts"}, "'layer'"), ({"wspace": 1}, "neither")],
)
def test_arguments_that_scatter_has_not(draw, annotated, given, message):
    with pytest.raises(TypeError, match=message):
        draw(annotated, **given)
    assert plt.get_fignums() == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"color": []}, "`color` is empty"),
        ({"color": ["rmve", "gene 1"], "title": "one"}, "`title` has 1 entries, and there are 2 panels"),
        ({"size": [1, 2, 3]}, "`size` has 3 entries"),
        ({"ncols": 0}, "`ncols`"),
        ({"color": ["gene 1", "gene 2"], "vmax": [1]}, "`vmax` has 1 values"),
    ],
)
def test_what_does_not_fit_the_panels(draw, annotated, given, message):
    with pytest.raises(ValueError, match=message):
        draw(annotated, **given)
    assert plt.get_fignums() == []


@pytest.mark.parametrize("figure", [rmve.pl.embedding, rmve.pl.spatial])
def test_panels_without_a_frame(annotated, figure):
    for ax in figure(annotated, color=["rmve", "gene 1"], frameon=False):
        assert not ax.axison
        assert ax.get_title()
        assert len(cells_of(ax).get_offsets()) == annotated.n_obs
    assert figure(annotated).axison


def test_the_body_has_names_in_place_of_a_legend(annotated):
    for name in ("legend_loc", "frameon"):
        with pytest.raises(TypeError, match=name):
            rmve.pl.body_map(annotated, **{name: "none"})
    assert plt.get_fignums() == []


def test_axes_are_one_panel(draw, annotated):
    ax = plt.subplots()[1]
    with pytest.raises(ValueError, match="`ax` is one panel"):
        draw(annotated, color=["rmve", "gene 1"], ax=ax)
    assert not ax.has_data()


def test_titles(draw, annotated):
    assert draw(annotated, title="mine").get_title() == "mine"
    axes = draw(annotated, color=["rmve", "gene 1"], title=["a", "b"])
    assert [ax.get_title() for ax in axes] == ["a", "b"]


def test_limits(draw, annotated):
    gene = annotated.obs_vector("gene 3")
    assert color_bar(draw(annotated, color="gene 3", vmin=-1, vmax=5)) == pytest.approx((-1, 5))
    drawn = draw(annotated, color="gene 3", vmin="p10", vmax=np.median)
    assert color_bar(drawn) == pytest.approx((np.percentile(gene, 10), np.median(gene)))
    axes = draw(annotated, color=["gene 3", "gene 3"], vmin=0, vmax=[2, 3])
    assert [color_bar(ax) for ax in axes] == [pytest.approx((0, 2)), pytest.approx((0, 3))]
    assert color_bar(draw(annotated, color="gene 3", norm=LogNorm(1, 8))) == pytest.approx((1, 8))
    for wrong in ({"vmin": 3, "vmax": 1}, {"vmax": "q9"}, {"vmax": 1, "norm": LogNorm(1, 8)}):
        with pytest.raises(ValueError, match="vm"):
            draw(annotated, color="gene 3", **wrong)


def test_color_map(draw, annotated):
    annotated.obs["n"] = np.arange(240.0)
    colors = cells_of(draw(annotated, color="n", cmap="cividis")).get_facecolors()
    np.testing.assert_allclose(colors[-1, :3], plt.get_cmap("cividis")(1.0)[:3])


@pytest.mark.parametrize(
    "palette",
    [["red", "lime", "blue"], {"A": "red", "C": "blue", "B": "lime"}, plt.cycler(color=["red", "lime", "blue"])],
    ids=["list", "dictionary", "cycle"],
)
def test_palette_goes_before_the_colors_of_the_data(draw, annotated, palette, unchanged):
    annotated.uns["cell_type_colors"] = ["black", "black", "black"]
    with unchanged(annotated):
        ax = draw(annotated, color="cell_type", palette=palette)
    drawn = {tuple(place): to_hex(color) for place, color in zip(*of_cells(ax), strict=True)}
    assert set(drawn.values()) == {"#ff0000", "#00ff00", "#0000ff"}
    if draw is rmve.pl.spatial:
        of_type = {"A": "#ff0000", "B": "#00ff00", "C": "#0000ff"}
        assert [drawn[tuple(place)] for place in annotated.obsm["spatial"]] == list(
            annotated.obs["cell_type"].map(of_type)
        )


def of_cells(ax):
    return cells_of(ax).get_offsets(), cells_of(ax).get_facecolors()


def test_palettes_by_name(annotated):
    found = {to_hex(color) for color in of_cells(rmve.pl.embedding(annotated, color="cell_type", palette="tab10"))[1]}
    assert found == {to_hex(plt.get_cmap("tab10")(k)) for k in range(3)}
    with pytest.raises(ValueError, match="no colour map. Did you mean 'tab10'"):
        rmve.pl.embedding(annotated, palette="tab1")
    with pytest.raises(ValueError, match="'nope', which is no colour"):
        rmve.pl.embedding(annotated, palette=["red", "nope"])


@pytest.mark.parametrize("figure", [rmve.pl.embedding, rmve.pl.spatial])
def test_legends(annotated, figure):
    names = list(annotated.obs["cell_type"].cat.categories)
    on_data = figure(annotated, color="cell_type", legend_loc="on data")
    assert [text.get_text() for text in on_data.texts] == names
    assert on_data.get_legend() is None
    beside = figure(annotated, color="cell_type", legend_loc="right margin")
    assert [text.get_text() for text in beside.get_legend().get_texts()] == names
    assert not beside.texts
    bare = figure(annotated, color="cell_type", legend_loc="none")
    assert bare.get_legend() is None
    assert not bare.texts
    with pytest.raises(ValueError, match="legend_loc"):
        figure(annotated, legend_loc="best")


@pytest.mark.parametrize("colors", [None, ["#102030", "#405060", "#708090", "#a0b0c0", "#0a0b0c"]])
def test_a_cluster_has_one_color_in_all_figures(annotated, colors, unchanged):
    """Of the cells, of their components' ellipses, and of the bars."""
    column = annotated.obs[NAMES.cluster]
    if colors is not None:
        annotated.uns[f"{NAMES.cluster}_colors"] = colors[: column.cat.categories.size]
    with unchanged(annotated):
        in_space = rmve.pl.spatial(annotated)
        of_cluster = {}
        places = {tuple(place): to_hex(color) for place, color in zip(*of_cells(in_space), strict=True)}
        for cluster, place in zip(column, annotated.obsm["spatial"], strict=True):
            of_cluster.setdefault(cluster, set()).add(places[tuple(place)])
        assert all(len(found) == 1 for found in of_cluster.values())
        expected = {cluster: found.pop() for cluster, found in of_cluster.items()}
        assert len(set(expected.values())) == len(expected)

        legend = in_space.get_legend()
        dots = {
            text.get_text(): to_hex(dot.get_color())
            for text, dot in zip(legend.get_texts(), legend.legend_handles, strict=True)
        }
        assert dots == expected
        counts = column.value_counts()
        for ax in (rmve.pl.embedding(annotated), rmve.pl.body_map(annotated)):
            found = [to_hex(color) for color in of_cells(ax)[1]]
            assert {color: found.count(color) for color in set(found)} == {
                expected[cluster]: n for cluster, n in counts.items() if n
            }
        ellipses = [patch for patch in rmve.pl.embedding(annotated, ellipses=True).patches if patch.get_linewidth() < 2]
        bars = rmve.pl.components(annotated).patches
        table = annotated.uns[NAMES.uns]["components"]
        table = table[table["active"]].sort_values("n_cells", ascending=False, kind="stable")
        of_components = [expected[cluster] for cluster in table["cluster"].astype(str)]
        assert [to_hex(shape.get_edgecolor()) for shape in ellipses] == of_components
        assert {to_hex(bar.get_facecolor()) for bar in bars} == set(of_components)


def test_ellipses_follow_the_palette(annotated):
    ax = rmve.pl.embedding(annotated, ellipses=True, palette=["#112233", "#223344", "#334455", "#445566"])
    shapes = {to_hex(patch.get_edgecolor()) for patch in ax.patches if patch.get_linewidth() < 2}
    assert shapes == {to_hex(color) for color in of_cells(ax)[1]}
