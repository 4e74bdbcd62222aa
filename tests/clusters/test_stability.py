"""Agreement between partitions, and RMVE's own comparison of runs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from rmve import RMVE, datasets, stability
from rmve.clusters.levels import MergeTree
from rmve.clusters.stability import Run, agreement_by_number, compare_runs, match_labels, recommend_number

INDEX = pd.Index([f"cell {i}" for i in range(8)])
REFERENCE = np.array([0, 0, 0, 1, 1, 1, 2, 2])


@pytest.fixture
def compare(make_tree):
    """Comparison of partitions, without merges."""

    def run(partitions):
        return compare_runs([Run(p, np.arange(p.max() + 1), make_tree([], p.max() + 1)) for p in partitions], INDEX)

    return run


def test_match_labels_undoes_a_renaming():
    """A partition that differs by names only gets the names of the reference."""
    np.testing.assert_array_equal(match_labels(np.array([2, 2, 2, 0, 0, 0, 1, 1]), REFERENCE), REFERENCE)


def test_match_labels_with_more_clusters():
    """A cluster without a partner gets a number above all others, and clusters stay apart."""
    finer = np.array([5, 5, 0, 1, 1, 1, 2, 2])
    matched = match_labels(finer, REFERENCE)
    np.testing.assert_array_equal(matched[[0, 1, 3, 4, 5, 6, 7]], REFERENCE[[0, 1, 3, 4, 5, 6, 7]])
    assert matched[2] > max(REFERENCE.max(), finer.max())


def test_match_labels_with_fewer_clusters():
    """A coarser partition is renamed one to one."""
    matched = match_labels(np.array([1, 1, 1, 0, 0, 0, 0, 0]), REFERENCE)
    np.testing.assert_array_equal(matched, [0, 0, 0, 1, 1, 1, 1, 1])


def test_agreement_is_the_adjusted_rand_index(compare):
    """The matrix holds the index of each pair of runs and ones on its diagonal; the mean is over pairs."""
    other = np.array([0, 0, 1, 1, 1, 1, 2, 2])
    third = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    found = compare([REFERENCE, other, third])
    matrix = found.agreement.to_numpy()
    np.testing.assert_allclose(matrix, matrix.T)
    np.testing.assert_allclose(np.diag(matrix), 1.0)
    assert matrix[0, 1] == pytest.approx(adjusted_rand_score(REFERENCE, other))
    assert found.mean_agreement == pytest.approx((matrix[0, 1] + matrix[0, 2] + matrix[1, 2]) / 3)


def test_consensus_and_cell_stability(compare):
    """Each cell gets the cluster of most runs, and the share of runs that agree with it."""
    moved = REFERENCE.copy()
    moved[0] = 1
    renamed = np.array([1, 1, 1, 2, 2, 2, 0, 0])
    found = compare([renamed, REFERENCE, moved])
    assert adjusted_rand_score(REFERENCE, found.consensus) == 1.0
    assert found.consensus.dtype == "category"
    assert found.consensus.index.equals(INDEX)
    np.testing.assert_allclose(found.cell_stability, [2 / 3] + [1.0] * 7)
    assert list(found.labels.columns) == [0, 1, 2]


def test_ties_go_to_the_reference(compare):
    """With two runs that disagree on a cell, it keeps the reference's cluster."""
    moved = REFERENCE.copy()
    moved[0] = 1
    found = compare([REFERENCE, moved])
    reference = [REFERENCE, moved][found.reference]
    np.testing.assert_array_equal(found.consensus.astype(int), reference)


def test_needs_two_runs(compare):
    """One run cannot be compared."""
    with pytest.raises(ValueError, match="At least two"):
        compare([REFERENCE])


# ----------------------------------------------------------------- resolutions


@pytest.mark.parametrize("seed", range(5))
def test_rand_index_is_that_of_scikit_learn(seed):
    """The index from a contingency table, also one with empty rows, is the one from the labels."""
    rng = np.random.default_rng(seed)
    first, second = rng.integers(5, size=60), rng.integers(8, size=60)
    second[:30] = first[:30]
    table = stability.count_pairs(first, second, (6, 9))
    np.testing.assert_array_equal(table[:5, : second.max() + 1], pd.crosstab(first, second))
    assert table.sum() == 60
    assert stability.rand_index(table) == pytest.approx(adjusted_rand_score(first, second))


@pytest.mark.parametrize(
    ("table", "expected"),
    [([[7]], 1.0), ([[4, 0], [0, 3]], 1.0), ([[0, 4], [3, 0]], 1.0), ([[1, 0], [0, 1]], 1.0), ([[4, 3]], 0.0)],
    ids=["one cluster", "equal", "renamed", "singletons", "one against two"],
)
def test_rand_index_at_the_ends(table, expected):
    """Equal partitions have 1, trivial ones included; one cluster says nothing of two."""
    assert stability.rand_index(np.array(table)) == expected


@pytest.fixture
def runs(make_tree):
    """Two runs of five and four components on 50 cells; both find three clusters, which are the same."""
    truth = np.repeat([0, 1, 2], [20, 15, 15])
    first = truth.copy()
    first[:10], first[20:25] = 3, 4  # parts of cluster 0 and of cluster 1
    second = np.array([4, 2, 0])[truth]  # other numbers; component 3 holds no cells
    second[::2][:10] = 1  # another part of cluster 0
    return [
        Run(first, np.arange(5), make_tree([(0, 3, 0.9), (1, 4, 0.5), (1, 2, 0.1), (0, 1, 0.0)], 5, n_indistinct=2)),
        Run(second, np.arange(5), make_tree([(1, 4, 0.8), (0, 1, 0.1), (0, 2, 0.0)], 5, n_indistinct=1)),
    ]


def test_agreement_by_number_by_hand(runs):
    """At each number the index is that of the cut partitions; a number that one run alone reaches has no pair."""
    table = agreement_by_number(runs).set_index("n_clusters")
    assert table.index.tolist() == [2, 3, 4, 5]
    assert table["n_pairs"].tolist() == [1, 1, 1, 0]
    assert table["n_found"].tolist() == [0, 2, 0, 0]
    for number in (2, 3, 4):
        partitions = [run.tree.cut(number)[run.assigned] for run in runs]
        assert table.loc[number, "agreement"] == pytest.approx(adjusted_rand_score(*partitions))
    assert table.loc[3, "agreement"] == 1.0
    assert table.loc[[2, 4], "agreement"].max() < 0.9
    assert np.isnan(table.loc[5, "agreement"])


def test_spread_of_agreement(runs):
    """With several pairs there are mean, standard deviation and minimum over them."""
    moved = Run(np.roll(runs[0].assigned, 3), *(runs[0].cluster_of, runs[0].tree))
    three = [*runs, moved]
    row = agreement_by_number(three).set_index("n_clusters").loc[3]
    partitions = [run.tree.cut(3)[run.assigned] for run in three]
    scores = [adjusted_rand_score(partitions[i], partitions[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert row["n_pairs"] == 3
    assert row["agreement"] == pytest.approx(np.mean(scores))
    assert row["sd"] == pytest.approx(np.std(scores, ddof=1))
    assert row["lowest"] == pytest.approx(min(scores))


def test_runs_of_one_component_have_no_resolutions(compare):
    """Where all runs end with one component, the table is empty and one cluster is recommended."""
    found = compare([np.zeros(8, dtype=int)] * 2)
    assert found.resolutions.empty
    assert found.resolutions.columns.tolist() == ["n_clusters", "agreement", "sd", "lowest", "n_pairs", "n_found"]
    assert found.recommended == 1
    assert found.mean_agreement == 1.0


def test_recommended_number_of_runs(runs):
    """The clusters that both runs find and agree on are recommended, not the finer ones that they start from."""
    found = compare_runs(runs, pd.RangeIndex(50).astype(str))
    assert found.recommended == 3
    pd.testing.assert_frame_equal(found.resolutions, agreement_by_number(runs))
    assert found.agreement.loc[0, 1] < 0.9  # as they ended, with all components


@pytest.mark.parametrize(
    ("agreement", "found", "expected"),
    [
        ({2: 1.0, 3: 0.95, 4: 0.92, 5: 0.6}, [4, 4, 4], 4),  # two are level with four: the finest
        ({2: 1.0, 3: 0.95, 4: 0.80, 5: 0.6}, [4, 4, 4], 3),  # runs split differently at four
        ({2: 0.5, 3: 0.6, 4: 0.9, 5: 0.95}, [4, 4, 4], 4),  # more than they find are parts
        ({2: 0.5, 3: 0.6, 4: 0.9, 5: 0.95}, [3, 4, 5], 4),  # half of the runs find four or more
        ({2: 0.7, 3: 0.9, 4: 0.9, 5: 0.95}, [3, 3, 5], 3),
        ({2: 0.7, 3: 0.9, 4: 0.9, 5: 0.95}, [3, 3, 4, 5], 4),
        ({2: 0.7, 3: 0.9, 4: np.nan, 5: np.nan}, [3, 5], 3),  # a number that one run reaches cannot be compared
        ({2: 0.9, 3: 0.9}, [1, 1, 3], 1),  # most find one
        ({2: 0.3, 3: 0.4, 4: 0.45}, [4, 4, 4], 1),  # all find four others
        ({}, [1, 1], 1),
    ],
)
def test_rule_of_recommendation(agreement, found, expected):
    """The finest number that half of the runs find or exceed, and agree on about as well as on any."""
    table = pd.DataFrame({"n_clusters": agreement.keys(), "agreement": agreement.values()})
    table["n_pairs"] = table["agreement"].notna().astype(int)
    assert recommend_number(table, found) == expected


# ---------------------------------------------------------------- runs of RMVE


OPTIONS = {"n_components": 3, "n_latent": 5, "n_hidden": 32, "n_layers": 1}
TRAIN = {"max_epochs": 60, "batch_size": 64, "enable_progress_bar": False}


def test_stability_of_runs(cells, unchanged):
    """Runs from different seeds find the same clear clusters; data and torch's generator are left alone."""
    RMVE.setup_anndata(cells, layer="counts")
    state = torch.get_rng_state()
    with unchanged(cells, without_scvi=True):
        found = RMVE.stability(cells, n_runs=2, seeds=[3, 4], train_kwargs=TRAIN, **OPTIONS)
    assert torch.equal(state, torch.get_rng_state())
    assert found.agreement.shape == (2, 2)
    assert found.mean_agreement > 0.8
    assert found.consensus.index.equals(cells.obs_names)
    assert adjusted_rand_score(cells.obs["cell_type"], found.consensus) > 0.8
    assert found.recommended == 3
    # known numbers of clusters: the row of that number holds what the runs ended with
    ended = found.resolutions.set_index("n_clusters").loc[3, "agreement"]
    assert ended == pytest.approx(found.agreement.loc[0, 1])


@pytest.mark.slow
@pytest.mark.parametrize(("separation", "expected"), [(8.0, 5), (1.0, 1)])
def test_recommended_number_of_simulated_clusters(separation, expected):
    """As many are recommended as there are clusters that can be told apart."""
    cells = datasets.simulate(600, 300, n_clusters=5, separation=separation, seed=6)
    RMVE.setup_anndata(cells, layer="counts")
    train = {**TRAIN, "max_epochs": 40}
    found = RMVE.stability(cells, n_runs=3, train_kwargs=train, **{**OPTIONS, "n_components": None})
    assert found.recommended == expected


def test_stability_of_an_unknown_number(make_cells):
    """Without a number, what is compared and found is what a run of the same seed ends with."""
    cells = make_cells(subtypes=True)
    RMVE.setup_anndata(cells, layer="counts")
    options = {**OPTIONS, "n_components": None}
    found = RMVE.stability(cells, n_runs=2, seeds=[0, 1], train_kwargs=TRAIN, **options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = RMVE(cells, **options)
        model.train(**TRAIN)
    assert adjusted_rand_score(model.predict(), found.labels[1]) == 1.0
    table = found.resolutions.set_index("n_clusters")
    assert model.n_clusters == 1 or table.loc[model.n_clusters, "n_found"] >= 1
    assert table.index.max() >= model.tree.n_finest


def test_stability_with_labels(cells):
    """Known types are clusters: they are recommended, and the consensus is that of the types."""
    cells.obs["label"] = cells.obs["cell_type"].astype(str).where(np.arange(cells.n_obs) % 4 > 0, "Unknown")
    RMVE.setup_anndata(cells, layer="counts", labels_key="label")
    found = RMVE.stability(cells, n_runs=2, train_kwargs=TRAIN, **OPTIONS)
    assert found.recommended == 3
    assert adjusted_rand_score(cells.obs["cell_type"], found.consensus) > 0.9


def test_stability_leaves_the_data_registered(make_cells, unchanged):
    """The data is as before, set-up included: it can be compared again, a model made of it, and earlier ones go on."""
    cells = make_cells()
    RMVE.setup_anndata(cells, layer="counts", batch_key="donor", spatial_key="spatial")
    train = {**TRAIN, "max_epochs": 1}
    earlier = RMVE(cells, **OPTIONS)
    earlier.train(**train)
    manager = earlier.adata_manager
    with unchanged(cells):
        for _ in range(2):
            RMVE.stability(cells, n_runs=2, train_kwargs=train, **OPTIONS)
    assert RMVE(cells, **OPTIONS).adata_manager is manager
    assert len(earlier.predict()) == cells.n_obs
    earlier.train(**train)


def test_stability_fails_without_a_trace(cells, unchanged, monkeypatch):
    """When a run fails, data and torch's generator are as before."""
    RMVE.setup_anndata(cells, layer="counts")
    state = torch.get_rng_state()

    def fail(*args):
        raise MemoryError

    monkeypatch.setattr(MergeTree, "cut", fail)
    with unchanged(cells, without_scvi=True), pytest.raises(MemoryError):
        RMVE.stability(cells, n_runs=2, train_kwargs={**TRAIN, "max_epochs": 1}, **OPTIONS)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("options", "message"),
    [({"n_runs": 1}, "`n_runs` must be an integer of at least 2"), ({"n_runs": 3, "seeds": [0, 1]}, "`seeds` has 2")],
)
def test_bad_arguments(cells, options, message):
    """The number of runs is checked before anything is trained."""
    RMVE.setup_anndata(cells, layer="counts")
    with pytest.raises(ValueError, match=message):
        RMVE.stability(cells, **options, **OPTIONS)
