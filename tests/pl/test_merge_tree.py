"""The figure of the merge tree."""

from __future__ import annotations

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex

import rmve
from rmve._keys import Written
from rmve.pl._figure import CUT
from rmve.pl._merge_tree import leaf_order

NAMES = Written()


@pytest.fixture(scope="module")
def file(overcomplete, tmp_path_factory):
    """Cells of nine components in the three clusters of their types, as a file."""
    folder = tmp_path_factory.mktemp("tree")
    overcomplete.save(folder / "model")
    model = rmve.RMVE.load(folder / "model", adata=overcomplete.adata.copy())
    model.merge_components(3)
    model.annotate()
    model.adata.write_h5ad(folder / "cells.h5ad")
    return folder / "cells.h5ad"


@pytest.fixture
def merged(file):
    return ad.read_h5ad(file)


def tables(adata):
    results = adata.uns[NAMES.uns]
    return results["components"][results["components"]["active"]], results["resolutions"]


def crossings(ax, x):
    """Branches that a vertical line at x meets, once each."""
    return [
        line for line in ax.lines if np.ptp(line.get_ydata()) == 0 and min(line.get_xdata()) < x < max(line.get_xdata())
    ]


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_each_vertical_line_is_a_cut(merged):
    """Left of the merge to n clusters, n + 1 branches are met, and right of it n."""
    ax = rmve.pl.merge_tree(merged)
    used, _ = tables(merged)
    for number in range(1, len(used) + 1):
        assert len(crossings(ax, number - 0.4)) == number
    assert ax.xaxis_inverted()


def test_a_row_for_each_component_with_its_cells(merged):
    """Rows carry cluster, component and number of cells; dots have areas in that order."""
    used, cuts = tables(merged)
    ax = rmve.pl.merge_tree(merged)
    order = [str(k) for k in leaf_order(used.index.astype(int), cuts)]
    several = used["cluster"].duplicated(keep=False)
    expected = [f"{used.at[k, 'cluster']} ({k})" if several[k] else used.at[k, "cluster"] for k in order]
    assert [label.get_text() for label in ax.get_yticklabels()] == expected
    assert [text.get_text() for text in ax.texts] == [str(used.at[k, "n_cells"]) for k in order]
    sizes = ax.collections[0].get_sizes()
    np.testing.assert_array_equal(np.argsort(sizes), np.argsort(used.loc[order, "n_cells"].to_numpy()))


def test_rows_of_a_cluster_stand_together(merged):
    """Clusters that are a cut of the tree are neighbours in it: no branches cross."""
    used, cuts = tables(merged)
    clusters = used.loc[[str(k) for k in leaf_order(used.index.astype(int), cuts)], "cluster"].to_numpy()
    assert (clusters[1:] != clusters[:-1]).sum() == len(set(clusters)) - 1


def test_branches_have_the_color_of_their_cluster(merged):
    """At the cut in use each branch has the colour of one cluster; the last merge has none of them."""
    merged.uns[f"{NAMES.cluster}_colors"] = ["#102030", "#405060", "#708090"]
    ax = rmve.pl.merge_tree(merged)
    at_cut = crossings(ax, 2.6)
    assert sorted(to_hex(line.get_color()) for line in at_cut) == ["#102030", "#405060", "#708090"]
    (stem,) = crossings(ax, 0.6)
    assert to_hex(stem.get_color()) not in ["#102030", "#405060", "#708090"]


def test_confusions_stand_below(merged):
    """Each merge has its confusion, at the number of clusters that it leads to."""
    _, cuts = tables(merged)
    (below,) = rmve.pl.merge_tree(merged).child_axes
    drawn = np.asarray(below.collections[-1].get_offsets())
    np.testing.assert_array_equal(drawn[:, 0], cuts["n_clusters"].iloc[1:])
    np.testing.assert_allclose(drawn[:, 1], np.maximum(cuts["confusion"].iloc[1:], 0.01))


def marked(ax):
    """Positions of the lines of the legend, by what they are called."""
    return {line.get_label(): line.get_xdata()[0] for line in ax.lines if not line.get_label().startswith("_")}


def test_cuts_are_marked(merged):
    """The cut in use and the recommended one lie right of the merge to their number, also among the confusions."""
    _, cuts = tables(merged)
    recommended = int(cuts.loc[cuts["recommended"], "n_clusters"].iloc[0])
    ax = rmve.pl.merge_tree(merged, recommended=5)
    assert marked(ax) == {"in use: 3": 2.5, "recommended: 5": 4.5}
    below = [line.get_xdata()[0] for line in ax.child_axes[0].lines if len(set(line.get_xdata())) == 1]
    assert below == [2.5, 4.5]
    by_itself = marked(rmve.pl.merge_tree(merged))
    assert recommended - 0.5 in by_itself.values()
    assert legend(rmve.pl.merge_tree(merged, recommended=3)) == ["in use and recommended: 3"]


def test_clusters_that_are_no_cut_have_no_line(merged):
    """Where the clusters in use are not a cut of the tree, the recommended cut alone is marked."""
    merged.uns[NAMES.uns]["resolutions"]["in_use"] = False
    ax = rmve.pl.merge_tree(merged, recommended=3)
    assert legend(ax) == ["recommended: 3"]
    assert ax.lines[-1].get_color() == CUT["color"]


def test_labels_do_not_overlap(merged):
    """Names, numbers of cells and dots keep apart."""
    ax = rmve.pl.merge_tree(merged)
    ax.figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in [*ax.texts, *ax.get_yticklabels()]]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_one_component_has_no_merges(merged):
    """A component alone is a branch, without confusions."""
    results = merged.uns[NAMES.uns]
    results["components"] = results["components"].iloc[:1].assign(active=True)
    results["resolutions"] = results["resolutions"].iloc[-1:].assign(recommended=True)
    ax = rmve.pl.merge_tree(merged)
    assert len(ax.get_yticklabels()) == 1
    assert not ax.child_axes


@pytest.mark.parametrize("table", ["components", "resolutions"])
def test_a_missing_table_is_named(merged, table):
    del merged.uns[NAMES.uns][table]
    with pytest.raises(KeyError, match=rf"uns\['rmve'\]\['{table}'\].*annotate"):
        rmve.pl.merge_tree(merged)
    assert plt.get_fignums() == []


@pytest.mark.parametrize("number", [0, 10, 2.5])
def test_a_number_that_the_tree_lacks_is_refused(merged, number):
    with pytest.raises(ValueError, match=f"`recommended={number}` is not a number of clusters from 1 to"):
        rmve.pl.merge_tree(merged, recommended=number)
    assert plt.get_fignums() == []
