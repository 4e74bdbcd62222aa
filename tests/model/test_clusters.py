"""From components to clusters: names, order, the table of components and merging."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scvi
import torch
from sklearn.metrics import adjusted_rand_score

from rmve import RMVE
from rmve.clusters._clusters import Clusters
from rmve.datasets import simulate


@pytest.fixture
def many(overcomplete, make_cells, tmp_path) -> RMVE:
    """The over-complete model, on data of its own, which a test may change."""
    overcomplete.save(tmp_path / "many")
    return RMVE.load(tmp_path / "many", adata=make_cells(subtypes=True))


# ------------------------------------------------------------------- clusters


def test_clusters_are_the_types(shared):
    """Clear types are found, and the three clusters are named by size as strings."""
    predicted = shared.predict()
    assert adjusted_rand_score(shared.adata.obs["cell_type"], predicted) > 0.9
    assert predicted.cat.categories.tolist() == ["0", "1", "2"]
    sizes = predicted.value_counts(sort=False)
    assert sizes.is_monotonic_decreasing
    assert predicted.index.equals(shared.adata.obs_names)
    majority = pd.crosstab(predicted, shared.adata.obs["cell_type"]).idxmax(axis=1)
    assert majority.to_list() == ["A", "B", "C"]


def test_probabilities(shared):
    """Rows sum to one, and columns are the clusters."""
    soft = shared.predict(soft=True)
    np.testing.assert_allclose(soft.sum(axis=1), 1.0, atol=1e-5)
    assert ((soft >= 0) & (soft <= 1)).all(axis=None)
    assert soft.columns.tolist() == list(shared.clusters_.names)
    assert soft.index.equals(shared.adata.obs_names)


@pytest.mark.parametrize("indices", [[5], [7, 3, 100], np.arange(10, 20)], ids=["one", "unordered", "array"])
def test_some_cells(shared, indices):
    """Rows asked for come in the order asked for."""
    soft = shared.predict(soft=True, indices=indices)
    assert soft.index.tolist() == [f"cell {i}" for i in indices]
    pd.testing.assert_frame_equal(soft, shared.predict(soft=True).iloc[indices], atol=1e-5)
    pd.testing.assert_series_equal(shared.predict(indices=indices), shared.predict().iloc[indices])


def test_batch_size_does_not_matter(shared):
    """The size of the mini-batches changes nothing."""
    pd.testing.assert_frame_equal(shared.predict(soft=True, batch_size=7), shared.predict(soft=True), atol=1e-5)


def test_new_cells(shared, make_cells):
    """New cells of the same types get the clusters of their types, also those in a view."""
    query = make_cells(n_cells=90, seed=8)
    predicted = shared.predict(query)
    assert predicted.index.equals(query.obs_names)
    assert predicted.cat.categories.tolist() == list(shared.clusters_.names)
    expected = query.obs["cell_type"].map({"A": "0", "B": "1", "C": "2"})
    assert (predicted.astype(str) == expected.astype(str)).mean() > 0.9
    pd.testing.assert_series_equal(shared.predict(query[10:30]), predicted.iloc[10:30])


def test_probabilities_do_not_exceed_one(many):
    """A cluster has the sum of its components' probabilities, at most 1 however it is rounded."""
    many.merge_components(1)
    assert (many.predict(soft=True) <= 1).all(axis=None)
    assignment = np.full((1, 9), np.float32(0.1112))
    assert many.clusters_.probabilities(assignment, pd.Index(["x"])).iloc[0, 0] == 1.0
    finest = many.merge_components(None).astype(str)
    assert (many.predict(soft=True).idxmax(axis=1) == finest).all()  # a cluster has one component that holds cells


def test_number_of_clusters(shared, many):
    """The properties count and name clusters, not components."""
    assert shared.n_clusters == 3
    assert shared.cluster_names_ == shared.predict().cat.categories.tolist()
    many.merge_components(2)
    assert many.n_clusters == 2
    assert many.cluster_names_ == ["0", "1"]
    assert many.module.n_components == 9


def test_every_cluster_has_cells(overcomplete):
    """Components without cells belong to a cluster that has some."""
    predicted = overcomplete.predict()
    assert (predicted.value_counts() > 0).all()
    assert len(overcomplete.clusters_.of_component) == 9
    assert set(overcomplete.clusters_.of_component) == set(range(overcomplete.n_clusters))


def test_names_of_labels(partly_labelled):
    """With labels, clusters are called by them and free ones new_0, new_1, ..."""
    names = list(partly_labelled.clusters_.names)
    assert {"A", "B"} < set(names)
    new = [name for name in names if name not in ("A", "B")]
    assert new == [f"new_{i}" for i in range(len(new))]
    assert partly_labelled.predict().cat.categories.tolist() == names


def test_components_that_lost_their_cells_join_the_nearest():
    """A component that no cell is given to joins its nearest neighbour's cluster; numbers follow the size."""
    distance = np.array([[0.0, 3.0, 1.0], [3.0, 0.0, 2.0], [1.0, 2.0, 0.0]])
    clusters = Clusters.by_size(np.array([1, 1, 1, 0]), np.arange(3), distance)
    assert clusters.of_component == (1, 0, 1)
    probabilities = clusters.probabilities(np.array([[0.2, 0.5, 0.3]]), pd.Index(["cell"]))
    np.testing.assert_allclose(probabilities, [[0.5, 0.5]])
    assert clusters.labels(np.array([[0.2, 0.5, 0.3]]), pd.Index(["cell"])).tolist() == ["0"]


def test_a_known_type_keeps_its_name_without_cells():
    """A labelled component that no cell is given to stays a cluster of its own."""
    clusters = Clusters.by_size(np.array([0, 2, 2]), np.arange(4), np.ones((4, 4)), ["A", "B"])
    assert clusters.names == ("new_0", "A", "B")


def test_merged_labels_share_a_name(partly_labelled, tmp_path, make_cells):
    """A cluster of two known types carries both names."""
    partly_labelled.save(tmp_path / "m")
    model = RMVE.load(tmp_path / "m", adata=make_cells())
    model.merge_components(1)
    assert model.clusters_.names == ("A + B",)


# ----------------------------------------------------------------- components


def test_table_of_components(overcomplete):
    """Weights and counts add up, and the nearest active component is the nearest by the Bhattacharyya distance."""
    table = overcomplete.get_components()
    assert table.columns.tolist() == ["weight", "n_cells", "separation", "nearest", "active", "cluster"]
    assert table.index.tolist() == [str(k) for k in range(9)]
    assert table["weight"].sum() == pytest.approx(1.0, abs=1e-5)
    assert table["n_cells"].sum() == 240
    assert (table["active"] == (table["n_cells"] > 0)).all()
    means, variances = overcomplete.component_means.to_numpy(), overcomplete.component_variances.to_numpy()
    assert means.shape == variances.shape == (9, 5)
    for k, row in table.reset_index(drop=True).iterrows():
        mid = 0.5 * (variances[k] + variances)
        distance = (0.125 * (means[k] - means) ** 2 / mid + 0.5 * np.log(mid / np.sqrt(variances[k] * variances))).sum(
            1
        )
        distance[[k, *np.flatnonzero(~table["active"])]] = np.inf
        assert row["nearest"] == distance.argmin()
        assert row["separation"] == pytest.approx(distance.min(), rel=1e-3)


def test_table_with_one_component(cells, fit):
    """A single component has no neighbour."""
    table = fit(cells, n_components=1, epochs=2).get_components()
    assert np.isinf(table["separation"].iloc[0])
    assert table["nearest"].iloc[0] == -1
    assert table["cluster"].to_list() == ["0"]
    assert table["weight"].iloc[0] == pytest.approx(1.0)


# -------------------------------------------------------------------- merging


def test_merging_gives_nested_partitions(many):
    """Each number of clusters can be had, and a coarser partition only joins clusters of a finer one."""
    n_active = int(many.get_components()["active"].sum())
    assert n_active > 5, "the test needs more components than types"
    finer, components = many.merge_components(n_active).astype(str), many.clusters_.of_component
    for n_clusters in range(n_active - 1, 0, -1):
        coarser = many.merge_components(n_clusters)
        assert coarser.nunique() == n_clusters
        assert coarser.cat.categories.tolist() == [str(i) for i in range(n_clusters)]
        assert coarser.value_counts(sort=False).is_monotonic_decreasing
        assert many.predict(soft=True).shape == (240, n_clusters)
        assert len(set(zip(finer, coarser.astype(str), strict=True))) == n_clusters + 1
        assert len(set(zip(components, many.clusters_.of_component, strict=True))) == n_clusters + 1
        finer, components = coarser.astype(str), many.clusters_.of_component


def test_merging_finds_the_types(many):
    """Overlapping components of one type are merged first: three clusters are the three types."""
    merged = many.merge_components(3)
    assert adjusted_rand_score(many.adata.obs["cell_type"], merged) > 0.9


def test_merging_can_be_undone(many):
    """``None`` brings the clusters back to what they were after training."""
    names, before = many.cluster_names_, many.predict()
    many.merge_components(2)
    pd.testing.assert_series_equal(many.merge_components(None), before)
    assert many.cluster_names_ == names
    many.merge_components(2)
    many.merge_components(3)  # finer again, without undoing
    assert many.n_clusters == 3


def test_merge_tree(many):
    """The tree goes from the active components down to one cluster, one merge at a time."""
    tree = many.get_merge_tree()
    n_active = int(many.get_components()["active"].sum())
    assert tree.columns.tolist() == ["kept", "merged", "confusion", "distance", "effect", "support", "n_clusters"]
    assert tree["n_clusters"].to_list() == list(range(n_active - 1, 0, -1))
    for name, values in tree.drop(columns="n_clusters").items():
        np.testing.assert_array_equal(values, getattr(many.tree, name))
    subtype = many.adata.obs.groupby(many.merge_components(n_active), observed=True)["cell_type"].nunique()
    assert (subtype == 1).all()  # no leaf is of two types
    assert tree["confusion"].iloc[:-2].min() > tree["confusion"].iloc[-2:].max()  # types are apart, subtypes less so
    assert tree["effect"].iloc[:-2].max() < tree["effect"].iloc[-2:].min()
    assert tree["support"].iloc[-2:].min() > 5


def test_a_model_has_one_tree(many, tmp_path):
    """Asked for again, after a merge, from a file or from the weights alone, it is the same; no random number is used."""
    tree = many.tree
    many.merge_components(2)
    assert many.tree is tree
    many.save(tmp_path / "again")
    loaded = RMVE.load(tmp_path / "again", adata=many.adata.copy())
    pd.testing.assert_frame_equal(loaded.get_resolutions(), many.get_resolutions())
    loaded.tree_, state = None, torch.get_rng_state()  # as of a checkpoint
    pd.testing.assert_frame_equal(loaded.get_merge_tree(), many.get_merge_tree())
    assert torch.equal(state, torch.get_rng_state())


def test_new_training_gives_a_new_tree(many, cells, fit):
    """The tree is that of the weights now."""
    before = many.get_merge_tree()
    many.train(max_epochs=2, batch_size=64, enable_progress_bar=False)
    assert not many.get_merge_tree().equals(before)
    expected = many.get_merge_tree()
    many.tree_ = None
    pd.testing.assert_frame_equal(many.get_merge_tree(), expected)


@pytest.mark.parametrize("likelihood", ["normal", "bernoulli"])
def test_two_opinions_of_data_without_molecules(cells, fit, tmp_path, likelihood):
    """Without molecules, ``q(y|x)`` and ``p(y|z)`` are compared: parts of a type are one, and types are not."""
    cells.X = np.log1p(cells.X.toarray()) if likelihood == "normal" else (cells.X > 2).astype(np.float32)
    model = fit(cells, gene_likelihood=likelihood, n_components=None, epochs=60)
    assert adjusted_rand_score(cells.obs["cell_type"], model.predict()) > 0.9
    model.save(tmp_path / "m")
    assert model.get_merge_tree()[["effect", "support"]].isna().all(axis=None)
    pd.testing.assert_frame_equal(RMVE.load(tmp_path / "m", adata=cells).get_resolutions(), model.get_resolutions())
    with torch.no_grad():  # nobody knows any more which component a place is of
        model.module.mixture.mean.zero_()
        model.module.mixture.log_var.zero_()
    model.tree_ = None
    assert model.tree.n_default == 1


def test_resolutions(many):
    """One row for each number of clusters: the merge that led there, what is apart there, and what is in use."""
    tree, table = many.get_merge_tree(), many.get_resolutions()
    n_active = len(tree) + 1
    assert table["n_clusters"].to_list() == list(range(n_active, 0, -1))
    assert table.iloc[0][["kept", "merged"]].to_list() == [-1, -1]
    assert table.iloc[0][["confusion", "distance", "effect", "support"]].isna().all()
    merges = table.iloc[1:].reset_index(drop=True)
    pd.testing.assert_frame_equal(merges[tree.columns], tree)
    assert table["separation"].is_monotonic_increasing
    components_ = many.get_components()
    assert table["separation"].iloc[0] == pytest.approx(components_.loc[components_["active"], "separation"].min())
    assert np.isinf(table["separation"].iloc[-1])


@pytest.mark.parametrize("n_clusters", [1, 3, "auto", None])
def test_resolution_in_use(many, n_clusters):
    """The row of the clusters in use follows each merge; the recommended one is that of "auto"."""
    many.merge_components("auto")
    recommended = many.n_clusters
    many.merge_components(n_clusters)
    table = many.get_resolutions()
    assert table.loc[table["in_use"], "n_clusters"].to_list() == [many.n_clusters]
    assert table.loc[table["recommended"], "n_clusters"].to_list() == [recommended]


def test_clusters_that_are_no_cut_are_in_no_row(many):
    """Clusters declared by hand, as many as a cut has but others, are not taken for it."""
    tree = many.get_merge_tree()
    by_hand = np.arange(9)
    by_hand[by_hand == tree["merged"].iloc[-1]] = tree["kept"].iloc[-1]  # what the tree merges last
    many.clusters_ = Clusters.of(np.unique(by_hand, return_inverse=True)[1])
    assert not many.get_resolutions()["in_use"].any()


def test_resolutions_of_one_component(cells, fit):
    """A single component has one resolution."""
    table = fit(cells, n_components=1, epochs=2).get_resolutions()
    assert table["n_clusters"].to_list() == [1]
    assert np.isinf(table["separation"].iloc[0])
    assert table["in_use"].all()
    assert table["recommended"].all()


@pytest.mark.parametrize(("n", "message"), [(0, "at least 1"), (2.0, "2.0"), (50, "more than the")])
def test_merging_errors(many, n, message):
    """A number of clusters that cannot be had is refused, and the clusters stay."""
    before = many.predict()
    with pytest.raises(ValueError, match=message):
        many.merge_components(n)
    pd.testing.assert_series_equal(many.predict(), before)


def test_annotate_uses_merged_clusters(many):
    """Merged clusters are what is written."""
    merged = many.merge_components(2)
    many.annotate()
    assert many.adata.obs["rmve"].tolist() == merged.tolist()
    assert many.adata.obsm["rmve_probabilities"].shape == (240, 2)
    assert set(many.adata.uns["rmve"]["components"]["cluster"]) == {"0", "1"}


@pytest.fixture(scope="module")
def found(make_cells, fit):
    """A model that found the number of its clusters."""
    return fit(make_cells(), {"layer": "counts"}, n_components=None, epochs=60)


def test_number_that_is_found(found):
    """Of many components, those of one type are one cluster, and types are not."""
    assert found.module.n_components > 3
    assert found.n_clusters == found.tree.n_default == 3
    assert adjusted_rand_score(found.adata.obs["cell_type"], found.predict()) > 0.95
    assert found.merge_components("auto").nunique() == 3


def test_start_does_not_matter(make_cells, fit, found):
    """Runs from few or many small clusters, or from a partition of which no cluster is of one type, end alike."""
    adata = make_cells()
    mixed = np.arange(240) % 2 + 2 * adata.obs["cell_type"].cat.codes.to_numpy()  # two random halves of each type
    for start in (mixed, np.random.default_rng(0).permutation(24).repeat(10)[np.argsort(mixed).argsort()]):
        model = fit(adata, {"layer": "counts"}, {"start": start}, n_components=None, epochs=60)
        assert model.module.n_components == start.max() + 1
        assert adjusted_rand_score(found.predict(), model.predict()) > 0.95


@pytest.mark.parametrize("n_components", [2, 7])
def test_number_that_is_given(make_cells, fit, tmp_path, n_components):
    """As many clusters as asked for, coarser or finer than what would be found; also after loading and more training."""
    train = {"plan_kwargs": {"warmup_fraction": 1.0, "start_weight": 10.0}}  # all that it starts from stays
    model = fit(make_cells(subtypes=True), {"layer": "counts"}, train, n_components=n_components, epochs=60)
    assert model.module.n_components > n_components
    assert model.n_clusters == model.predict().nunique() == n_components
    together = pd.crosstab(model.adata.obs["cell_type"], model.predict()) > 0
    assert (together.sum(axis=int(n_components < 3)) == 1).all()  # whole types, or parts of one
    model.save(tmp_path / "m")
    loaded = RMVE.load(tmp_path / "m", adata=make_cells(subtypes=True))
    pd.testing.assert_series_equal(loaded.predict(), model.predict())
    loaded.train(max_epochs=1, batch_size=64, enable_progress_bar=False)
    assert loaded.n_clusters == n_components


def test_number_that_the_cells_do_not_support(cells, fit):
    """Where repulsion leaves fewer clusters than were asked for, the model has those, and says so."""
    train = {"plan_kwargs": {"repulsion_weight": 100.0}}
    with pytest.warns(UserWarning, match=r"`n_components=20` clusters were asked for, and the cells support (\d+)\."):
        model = fit(cells, {"layer": "counts"}, train, n_components=20, epochs=30)
    assert model.n_clusters == model.tree.n_finest < 20


@pytest.mark.slow
def test_very_deep_cells():
    """500 of 200,000 molecules are fewer than the encoder can read: they made types one that are far apart."""
    cells = simulate(n_cells=300, n_genes=2000, n_clusters=4, separation=12.0, depth=200_000.0, seed=0)
    scvi.settings.seed = 0
    RMVE.setup_anndata(cells, layer="counts")
    model = RMVE(cells)
    model.train(max_epochs=60, quiet=True)
    assert adjusted_rand_score(cells.obs["cell_type"], model.predict()) > 0.95
