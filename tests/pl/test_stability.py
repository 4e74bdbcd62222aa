"""The figure of the agreement between runs."""

from __future__ import annotations

import functools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import rmve
from rmve.clusters.stability import Run, compare_runs


@pytest.fixture
def make_runs(make_tree):
    """Build runs that differ in a third of their cells, with trees that merge the highest component first."""
    return functools.partial(runs_with, make_tree)


def runs_with(make_tree, n_runs: int, n_components: int) -> list[Run]:
    rng = np.random.default_rng(0)
    truth = rng.integers(n_components, size=300)
    merges = [(0, k, 0.9 if k > 2 else 0.0) for k in range(n_components - 1, 0, -1)]
    tree = make_tree(merges, n_components, n_indistinct=max(n_components - 3, 0))
    runs = []
    for _ in range(n_runs):
        assigned = np.where(rng.random(300) < 1 / 3, rng.integers(n_components, size=300), truth)
        runs.append(Run(assigned, np.arange(n_components), tree))
    return runs


@pytest.fixture
def compared(make_runs):
    return compare_runs(make_runs(3, 6), pd.RangeIndex(300).astype(str))


def test_draws_agreement_against_the_number_of_clusters(compared):
    table = compared.resolutions
    ax = rmve.pl.stability(compared)
    line = next(line for line in ax.lines if line.get_label() == "agreement (ARI)")
    np.testing.assert_array_equal(line.get_xdata(), table["n_clusters"])
    np.testing.assert_allclose(line.get_ydata(), table["agreement"])
    band = ax.collections[0].get_paths()[0].vertices
    assert band[:, 1].max() == pytest.approx((table["agreement"] + table["sd"]).max())


def test_bars_are_the_shares_of_runs(compared, make_runs):
    """Runs that find one cluster only count, too: shares sum to one."""
    bars = {bar.get_x() + bar.get_width() / 2: bar.get_height() for bar in rmve.pl.stability(compared).patches}
    assert {x: share for x, share in bars.items() if share} == {3: 1.0}
    alone = compare_runs(make_runs(2, 1), pd.RangeIndex(300).astype(str))
    assert [bar.get_height() for bar in rmve.pl.stability(alone).patches] == [1.0]


def test_marks_the_recommended_number(compared):
    ax = rmve.pl.stability(compared)
    (line,) = [line for line in ax.lines if line.get_label() == f"recommended: {compared.recommended}"]
    assert line.get_xdata()[0] == compared.recommended


@pytest.mark.parametrize(("n_runs", "written"), [(3, 9), (9, 0)])
def test_matrix_of_runs(make_runs, n_runs, written):
    """Agreement of each pair beside the curve, in numbers for few runs."""
    compared = compare_runs(make_runs(n_runs, 3), pd.RangeIndex(300).astype(str))
    (beside,) = rmve.pl.stability(compared).child_axes
    drawn = np.asarray(beside.collections[0].get_array()).reshape(n_runs, n_runs)
    np.testing.assert_allclose(drawn, compared.agreement)
    assert len(beside.texts) == written
    assert f"{compared.mean_agreement:.2f}" in beside.get_title()


def test_runs_of_one_component_can_be_drawn(make_runs):
    """There is no curve then, but the recommendation and the matrix."""
    ax = rmve.pl.stability(compare_runs(make_runs(2, 1), pd.RangeIndex(300).astype(str)))
    ax.figure.draw_without_rendering()
    assert "recommended: 1" in [text.get_text() for text in ax.get_legend().get_texts()]


def test_axes_show_and_save(compared, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(plt, "show", lambda: calls.append(1))
    given = plt.subplots()[1]
    assert rmve.pl.stability(compared, ax=given, save=tmp_path / "stability.pdf") is given
    assert (tmp_path / "stability.pdf").read_bytes().startswith(b"%PDF")
    assert not calls
    rmve.pl.stability(compared, show=True)
    assert calls


def test_leaves_the_comparison_as_it_is(compared):
    before = compared.resolutions.copy()
    rmve.pl.stability(compared)
    pd.testing.assert_frame_equal(compared.resolutions, before)
