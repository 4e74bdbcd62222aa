"""Figures of components, confusion and confidence."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import rmve
from rmve._keys import Written
from rmve.pl._confusion import diagonal_order

NAMES = Written()


# ----------------------------------------------------------------- components


def test_components_has_a_bar_for_each_component_in_use(annotated):
    table = annotated.uns[NAMES.uns]["components"]
    ax = rmve.pl.components(annotated)
    widths = [bar.get_width() for bar in ax.patches]
    assert widths == sorted(table.loc[table["active"], "n_cells"], reverse=True)
    assert ax.get_title() == f"{table['active'].sum()} of {len(table)} components in use"


def test_components_shows_the_separation_beside_the_bars(annotated):
    table = annotated.uns[NAMES.uns]["components"]
    used = table[table["active"]].sort_values("n_cells", ascending=False, kind="stable")
    (beside,) = rmve.pl.components(annotated).child_axes
    drawn = np.asarray(beside.collections[-1].get_offsets())
    np.testing.assert_allclose(drawn[:, 0], used["separation"])
    clusters = dict(zip(table.index, table["cluster"].astype(str), strict=True))
    nearest = [f"to {clusters[str(k)]}" for k in used["nearest"]]
    assert [text.get_text() for text in beside.texts] == nearest


def test_components_of_the_same_cluster_are_told_apart(annotated):
    table = annotated.uns[NAMES.uns]["components"]
    table["cluster"] = "0"
    table["active"] = True
    ax = rmve.pl.components(annotated)
    written = [label.get_text() for label in ax.get_yticklabels()]
    assert sorted(written) == sorted(f"0 ({k})" for k in table.index)


def test_components_draws_a_component_alone(annotated):
    table = annotated.uns[NAMES.uns]["components"].iloc[:1].copy()
    table["active"], table["separation"], table["nearest"] = True, np.inf, -1
    annotated.uns[NAMES.uns]["components"] = table
    ax = rmve.pl.components(annotated)
    assert len(ax.patches) == 1
    assert not ax.child_axes


def test_components_names_the_missing_table(annotated):
    del annotated.uns[NAMES.uns]["components"]
    with pytest.raises(KeyError, match=r"uns\['rmve'\]\['components'\].*annotate"):
        rmve.pl.components(annotated)


# ------------------------------------------------------------------ confusion


def test_confusion_shows_shares_of_the_labels_and_writes_counts(annotated):
    ax = rmve.pl.confusion(annotated, "cell_type")
    table = pd.crosstab(annotated.obs["cell_type"], annotated.obs[NAMES.cluster])
    rows = [label.get_text().rsplit(" (", 1)[0] for label in ax.get_yticklabels()]
    columns = [label.get_text() for label in ax.get_xticklabels()]
    table = table.loc[rows, columns]
    shares = np.asarray(ax.collections[0].get_array()).reshape(table.shape)
    np.testing.assert_allclose(shares, table.div(table.sum(axis=1), axis=0))
    assert [int(text.get_text()) for text in ax.texts] == [n for n in table.to_numpy().ravel() if n]


def test_confusion_leaves_out_unlabelled_cells(annotated):
    annotated.obs["cell_type"] = annotated.obs["cell_type"].where(annotated.obs["cell_type"] != "C")
    ax = rmve.pl.confusion(annotated, "cell_type")
    assert len(ax.get_yticklabels()) == 2


def test_confusion_writes_no_counts_into_a_large_table(annotated):
    annotated.obs["cell"] = annotated.obs_names
    annotated.obs[NAMES.cluster] = pd.Categorical(np.arange(annotated.n_obs) % 10)
    assert not rmve.pl.confusion(annotated, "cell").texts


def test_confusion_names_missing_labels(annotated):
    with pytest.raises(KeyError, match="'absent' is not a column"):
        rmve.pl.confusion(annotated, "absent")
    annotated.obs["empty"] = pd.Categorical([None] * annotated.n_obs)
    with pytest.raises(ValueError, match="empty"):
        rmve.pl.confusion(annotated, "empty")
    assert plt.get_fignums() == []


@pytest.mark.parametrize("seed", range(5))
def test_diagonal_order_finds_a_hidden_diagonal(seed):
    rng = np.random.default_rng(seed)
    hidden = np.diag(rng.integers(20, 60, size=7)) + rng.integers(0, 5, size=(7, 7))
    counts = hidden[rng.permutation(7)][:, rng.permutation(7)]
    rows, columns = diagonal_order(counts)
    assert np.trace(counts[rows][:, columns]) == np.trace(hidden)
    assert columns == list(range(7))


def test_diagonal_order_puts_the_parts_of_a_label_side_by_side():
    counts = np.array([[50, 0, 30], [0, 40, 0]])  # the first label has clusters 0 and 2
    assert diagonal_order(counts) == ([0, 1], [0, 2, 1])


@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (6, 1), (5, 9), (9, 5)])
def test_diagonal_order_is_a_permutation(shape):
    counts = np.random.default_rng(0).integers(0, 3, size=shape)  # with ties and empty rows
    rows, columns = diagonal_order(counts)
    assert (sorted(rows), sorted(columns)) == (list(range(shape[0])), list(range(shape[1])))


# ----------------------------------------------------------------- confidence


def test_confidence_draws_each_cell_in_the_row_of_its_cluster(annotated):
    ax = rmve.pl.confidence(annotated)
    certain = annotated.obs[NAMES.confidence].groupby(annotated.obs[NAMES.cluster], observed=True)
    clouds = [
        collection for collection in ax.collections if len(collection.get_offsets()) > 1 or collection.get_rasterized()
    ]
    assert len(clouds) == certain.ngroups
    for row, (cloud, (_, values)) in enumerate(zip(clouds, certain, strict=True)):
        x, y = np.asarray(cloud.get_offsets()).T
        np.testing.assert_allclose(np.sort(x), np.sort(values))
        assert (np.abs(y - row) <= 0.3).all()
    shares = [f"{(values >= 0.9).mean():.0%}" for _, values in certain]
    assert [text.get_text() for text in ax.texts][: len(shares)] == shares


def test_confidence_leaves_out_clusters_without_cells(annotated):
    annotated.obs[NAMES.cluster] = annotated.obs[NAMES.cluster].cat.add_categories("empty")
    labels = [label.get_text() for label in rmve.pl.confidence(annotated).get_yticklabels()]
    assert "empty" not in labels


def test_confidence_names_the_missing_column(annotated):
    del annotated.obs[NAMES.confidence]
    with pytest.raises(KeyError, match=r"obs\['rmve_confidence'\].*annotate"):
        rmve.pl.confidence(annotated)


def test_entropy_of_the_probabilities(annotated):
    probabilities = annotated.obsm[NAMES.probabilities]
    probabilities.iloc[:] = np.eye(probabilities.shape[1])[annotated.obs[NAMES.cluster].cat.codes]
    probabilities.iloc[0] = 0.0
    probabilities.iloc[0, :2] = 0.5
    ax = rmve.pl.confidence(annotated, measure="entropy")
    drawn = np.concatenate(
        [np.asarray(cells.get_offsets())[:, 0] for cells in ax.collections if len(cells.get_offsets()) > 1]
    )
    assert len(drawn) == annotated.n_obs
    assert drawn.max() == pytest.approx(np.log(2))
    assert np.count_nonzero(drawn) == 1
    shares = [text.get_text() for text in ax.texts]
    assert shares.count("100%") == annotated.obs[NAMES.cluster].nunique() - 1
    assert shares[-1] == "≤ 0.33"


def test_confidence_of_another_measure(annotated):
    with pytest.raises(ValueError, match="`measure` must be one of 'confidence', 'entropy'; got 'doubt'"):
        rmve.pl.confidence(annotated, measure="doubt")


# ----------------------------------------------------------------- separation


def test_separation_is_that_of_the_model(trained, annotated):
    table = annotated.uns[NAMES.uns]["components"]
    ax = rmve.pl.separation(annotated)
    drawn = ax.images[0].get_array()
    assert drawn.shape == (table["active"].sum(),) * 2
    assert np.isnan(drawn.filled(np.nan)).sum() == len(drawn)
    np.testing.assert_allclose(drawn, drawn.T, rtol=1e-5)
    nearest = np.exp(-table.loc[table["active"], "separation"].to_numpy())
    np.testing.assert_allclose(sorted(np.nanmax(drawn.filled(np.nan), axis=1)), sorted(nearest), rtol=1e-4)
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert [name.split(" ")[0] for name in sorted(names)] == sorted(table.loc[table["active"], "cluster"].astype(str))


def test_separation_puts_close_components_side_by_side(annotated):
    results = annotated.uns[NAMES.uns]
    table = results["components"].iloc[[0, 0, 0, 0]].copy()
    table.index, table["active"], table["cluster"] = list("0123"), True, list("0123")
    table["n_cells"] = [40, 30, 20, 10]
    means = np.zeros((4, 2))
    means[:, 0] = [0.0, 50.0, 1.0, 51.0]
    results |= {"components": table, "component_means": means, "component_variances": np.ones((4, 2))}
    ax = rmve.pl.separation(annotated)
    order = [label.get_text() for label in ax.get_xticklabels()]
    assert {frozenset(order[:2]), frozenset(order[2:])} == {frozenset("02"), frozenset("13")}
    assert [text.get_text() for text in ax.texts] == [f"{np.exp(-1 / 8):.2f}"] * 4


def test_separation_of_a_component_alone(annotated):
    table = annotated.uns[NAMES.uns]["components"]
    table["active"] = np.arange(len(table)) == 0
    assert len(rmve.pl.separation(annotated).images[0].get_array()) == 1


@pytest.mark.parametrize("part", ["component_means", "component_variances"])
def test_separation_names_what_is_missing(annotated, part):
    del annotated.uns[NAMES.uns][part]
    with pytest.raises(KeyError, match=rf"uns\['rmve'\]\['{part}'\].*annotate"):
        rmve.pl.separation(annotated)
