"""What labels of some cells say of the others, on groups whose truth is known, and to a model."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from rmve import RMVE
from rmve.clusters.initialization import nearest_neighbors
from rmve.clusters.labels import SPREADING, partition_from_labels, spread_labels
from rmve.defaults import FROM_LABELS
from rmve.training import RMVETrainingPlan, TrainingOptions


def label_some(truth: np.ndarray, types, n_labelled: int, seed: int = 0) -> np.ndarray:
    """Labels of some cells of each of some types, -1 for all others."""
    rng, labels = np.random.default_rng(seed), np.full(len(truth), -1)
    for k in types:
        labels[rng.choice(np.flatnonzero(truth == k), n_labelled, replace=False)] = k
    return labels


@pytest.mark.parametrize("n_labelled", [1, 5, 20])
def test_labels_spread(groups, n_labelled):
    """When all types have labels, however few, each cell gets its type and nothing is new."""
    points, truth, graph = groups
    labels = label_some(truth, range(5), n_labelled)
    np.testing.assert_array_equal(partition_from_labels(points, graph, 0, labels), truth)


def test_types_without_labels_are_new(groups):
    """Groups without a label come out as small clusters, numbered after the labels, also those that have no cell."""
    points, truth, graph = groups
    labels = label_some(truth, range(3), 15)
    partition = partition_from_labels(points, graph, 0, labels)
    np.testing.assert_array_equal(partition[truth < 3], truth[truth < 3])
    new = partition[truth >= 3]
    np.testing.assert_array_equal(np.unique(new), np.arange(3, new.max() + 1))
    assert len(set(zip(new, truth[truth >= 3], strict=True))) == len(set(new))  # small, and of one group each
    more = partition_from_labels(points, graph, 0, labels, 6)
    np.testing.assert_array_equal(more, np.where(partition < 3, partition, partition + 3))


def test_few_labels_say_little(groups):
    """A group without labels is not called new where few labels were to be expected in it."""
    points, truth, graph = groups
    partition = partition_from_labels(points, graph, 0, label_some(truth, range(4), 2))
    np.testing.assert_array_equal(partition[truth < 4], truth[truth < 4])
    assert set(partition[truth == 4]) <= set(range(4))


def test_types_may_be_labelled_unevenly(groups):
    """The share of cells with labels may differ from type to type: one with few is not new."""
    points, truth, graph = groups
    labels = truth.copy()
    labels[np.flatnonzero(truth == 4)[2:]] = -1
    labels[np.flatnonzero(truth == 3)[::2]] = -1
    np.testing.assert_array_equal(partition_from_labels(points, graph, 0, labels), truth)


def test_labels_may_split_a_cluster(groups):
    """Types that overlap are told apart by their labels; labelled cells keep theirs, even a wrong one."""
    points, truth, graph = groups
    labels = np.full(250, -1)
    first = np.flatnonzero(truth == 0)
    left = points[first, 1] < 0
    labels[first[:-5]] = np.where(left, 0, 1)[:-5]
    labels[truth > 0] = 2
    labels[np.flatnonzero(truth == 1)[0]] = 0
    partition = partition_from_labels(points, graph, 0, labels)
    np.testing.assert_array_equal(partition[labels >= 0], labels[labels >= 0])
    assert set(partition[first[-5:]]) <= {0, 1}


def test_cells_that_no_label_reaches():
    """Cells that are not connected to any label get that of the nearest mean."""
    points = np.array([[0.0], [0.1], [1.0], [1.1], [9.0], [9.1]])
    graph = sp.csr_matrix(np.kron(np.eye(3), np.array([[0.0, 1.0], [1.0, 0.0]])))
    labels = np.array([7, -1, -1, -1, 2, -1])
    np.testing.assert_array_equal(spread_labels(points, graph, labels, labels >= 0), [7, 7, 7, 7, 2, 2])


def test_spread_labels_against_the_limit():
    """Enough steps of spreading solve the linear system of Zhou et al. (2004)."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(60, 2))
    graph = nearest_neighbors(points, 5, seed=0)
    labels = np.where(rng.random(60) < 0.2, rng.integers(3, size=60), -1)
    both = (graph + graph.T).toarray()
    degree = both.sum(1)
    both /= np.sqrt(degree[:, None] * degree)
    limit = np.linalg.solve(np.eye(60) - SPREADING * both, labels[:, None] == np.arange(3))
    spread = spread_labels(points, graph, labels, labels >= 0)
    free = labels < 0
    assert (spread[free] == limit.argmax(1)[free]).mean() > 0.9
    np.testing.assert_array_equal(spread[~free], labels[~free])


# --------------------------------------------------------------- of a model


def test_supervised(cells, fit, make_cells):
    """With all cells labelled there is one component per label, and new cells are classified."""
    model = fit(cells, {"labels_key": "cell_type"}, n_components=None)
    assert model.module.n_components == 3
    assert sorted(model.clusters_.names) == ["A", "B", "C"]
    assert (model.predict().astype(str) == cells.obs["cell_type"].astype(str)).mean() > 0.95
    query = make_cells(n_cells=100, seed=7)
    assert (model.predict(query).astype(str) == query.obs["cell_type"].astype(str)).mean() > 0.9


def test_semi_supervised(partly_labelled):
    """Unlabelled cells of known types get their label; a type without labels comes out as a cluster of its own."""
    truth, predicted = partly_labelled.adata.obs["cell_type"], partly_labelled.predict().astype(str)
    for known in ("A", "B"):
        unlabelled = ((truth == known) & (partly_labelled.adata.obs["label"] == "Unknown")).to_numpy()
        assert (predicted[unlabelled] == known).mean() > 0.7
    new = predicted[(truth == "C").to_numpy()].value_counts(normalize=True)
    assert new.index[0].startswith("new_")
    assert new.iloc[0] > 0.7


def test_semi_supervised_with_unknown_number(cells, fit):
    """When the number is to be found, labels get their components and a type without labels a new one."""
    labels = cells.obs["cell_type"].astype(str)
    labels[labels == "C"] = "?"
    cells.obs["label"] = labels
    model = fit(cells, {"labels_key": "label", "unlabeled_category": "?"}, n_components=None, epochs=60)
    assert sorted(model.clusters_.names) == ["A", "B", "new_0"]
    assert model.module.n_components > 3  # it started from parts of the new type
    predicted = model.predict().astype(str)
    assert (predicted[labels == "A"] == "A").mean() > 0.9
    assert (predicted[labels == "?"] == "new_0").mean() > 0.9


@pytest.mark.parametrize("n_labelled", [1, 5])
def test_few_labels(cells, fit, n_labelled):
    """With some cells of each type labelled, or just one, no cluster is new and all cells get their type."""
    truth = cells.obs["cell_type"].astype(str).to_numpy()
    given = np.concatenate([np.flatnonzero(truth == name)[:n_labelled] for name in "ABC"])
    cells.obs["label"] = np.where(np.isin(np.arange(cells.n_obs), given), truth, "Unknown")
    model = fit(cells, {"labels_key": "label"}, n_components=None)
    assert sorted(model.clusters_.names) == ["A", "B", "C"]
    predicted = model.predict().astype(str).to_numpy()
    assert (predicted[given] == truth[given]).all()
    assert (predicted == truth).mean() > 0.9


@pytest.mark.parametrize(
    ("n_components", "given", "expected"),
    [(None, {}, FROM_LABELS), (None, {"repulsion_weight": 2.0, "warmup_fraction": 0.1}, {}), (3, {}, {})],
)
def test_options_of_a_run_from_labels(cells, fit, monkeypatch, n_components, given, expected):
    """Where components come from labels, the start is held for longer, without repulsion, if nothing else is asked for."""
    seen = []
    usual = {name: getattr(TrainingOptions(), name) for name in ("repulsion_weight", "warmup_fraction")}
    expected = usual | expected | given

    class Plan(RMVETrainingPlan):
        def on_train_epoch_start(self):
            seen.append((self.options.repulsion_weight, self.options.warmup_fraction))
            super().on_train_epoch_start()

    monkeypatch.setattr(RMVE, "_training_plan_cls", Plan)
    truth = cells.obs["cell_type"].astype(str)
    cells.obs["label"] = truth.where(np.arange(cells.n_obs) % 2 == 0, "Unknown")
    setup, train = {"labels_key": "label"}, {"plan_kwargs": given}
    model = fit(cells, setup, train, n_components=n_components, epochs=1)
    assert seen == [(expected["repulsion_weight"], expected["warmup_fraction"])]
    model.train(max_epochs=1, enable_progress_bar=False)
    assert seen[1] == (0.0 if given else expected["repulsion_weight"], 0.0)


def test_found_number_is_saved(cells, fit, tmp_path):
    """A loaded semi-supervised model has as many components as it started from."""
    truth = cells.obs["cell_type"].astype(str)
    cells.obs["label"] = truth.where((truth != "C") & (np.arange(cells.n_obs) % 2 == 0), "Unknown")
    model = fit(cells, {"labels_key": "label"}, n_components=None, epochs=5)
    model.save(tmp_path / "m")
    loaded = RMVE.load(tmp_path / "m", adata=cells)
    assert loaded.module.n_components == model.module.n_components > 3
    assert loaded.predict().tolist() == model.predict().tolist()


def test_labels_that_are_numbers(cells, fit):
    """Labels may be numbers if the mark of unlabelled cells is one; clusters are called by them as strings."""
    cells.obs["label"] = cells.obs["cell_type"].cat.codes.astype(int) * 10
    model = fit(cells, {"labels_key": "label", "unlabeled_category": -1}, n_components=None)
    assert sorted(model.clusters_.names) == ["0", "10", "20"]
    assert (model.predict().astype(int) == cells.obs["label"]).mean() > 0.95


def test_labels_of_new_cells_are_optional(partly_labelled, make_cells, unchanged):
    """New cells need no column of labels, and do not get one from a getter."""
    query = make_cells(n_cells=60, seed=2)
    with unchanged(query, without_scvi=True):
        predicted = partly_labelled.predict(query)
        partly_labelled.get_latent_representation(query)
        again = partly_labelled.predict(query)
    pd.testing.assert_series_equal(predicted, again)
    known = (query.obs["cell_type"] != "C").to_numpy()
    assert (predicted[known].astype(str) == query.obs["cell_type"][known].astype(str)).mean() > 0.8
