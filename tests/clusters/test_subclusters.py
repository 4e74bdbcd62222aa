"""Clusters inside clusters: names, order, cells and genes that are looked at, and the model that is asked."""

from __future__ import annotations

import gc

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from sklearn.metrics import adjusted_rand_score

from rmve import RMVE
from rmve.clusters.subclusters import MIN_CELLS, divide, informative_genes

#: Genes of `make_cells(subtypes=True)` that differ between types; the rest differ between subtypes.
N_TYPE_GENES = 60


def series(values, categories, index=None) -> pd.Series:
    return pd.Series(pd.Categorical(values, categories=categories), index=index)


# ---------------------------------------------------------------------- genes


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix, sp.csr_array, sp.csc_matrix])
def test_genes_that_enough_cells_express(form):
    """At least three cells, however much of a gene there is, and negative values count."""
    x = np.zeros((100, 5))
    x[:2, 0] = 1000.0
    x[:3, 1] = 1.0
    x[:50, 2] = -1.0
    x[:, 3] = 0.1
    mask = informative_genes(form(x))
    assert (mask.dtype, mask.shape) == (bool, (5,))
    assert mask.tolist() == [False, True, True, True, False]


def test_genes_of_large_clusters():
    """Of many cells, more than three have to express a gene: one in five hundred."""
    x = np.zeros((5000, 2))
    x[:9, 0] = x[:10, 1] = 1.0
    assert informative_genes(sp.csr_matrix(x)).tolist() == [False, True]


# --------------------------------------------------------------------- divide


@pytest.fixture
def labels() -> pd.Series:
    """Three large clusters and a small one, in an order that is not alphabetical, mixed."""
    names = np.repeat(["b", "10", "9", "small"], [60, 50, MIN_CELLS, MIN_CELLS - 1])
    rng = np.random.default_rng(0)
    index = [f"cell {i}" for i in range(len(names))]
    return series(rng.permutation(names), ["b", "10", "9", "small", "empty"], index)


@pytest.fixture
def data(labels) -> ad.AnnData:
    """Their cells: the first gene is its row, the second its half, the third is rare."""
    n = len(labels)
    x = np.stack([np.arange(n) + 1.0, np.arange(n) % 2 + 1.0, np.arange(n) == 0, np.ones(n)], axis=1)
    return ad.AnnData(
        sp.csr_matrix(x),
        obs=pd.DataFrame(index=labels.index),
        var=pd.DataFrame(index=list("abcd")),
        layers={"other": x * [1.0, 1.0, 1.0, 0.0] + [0.0, 0.0, 1.0, 0.0]},
    )


def by_second_gene(part: ad.AnnData) -> pd.Series:
    """A clustering in two, whose second name comes first."""
    upper = np.asarray(part[:, "b"].X.todense()).ravel() > 1
    return series(np.where(upper, "1", "0"), ["1", "0"], part.obs_names)


def test_names_are_nested(labels, data):
    """A divided cluster gives its name to its parts, in their order, and stands where it stood; others are whole."""
    fine = divide(labels, ["9", "b"], data, None, by_second_gene)
    assert fine.cat.categories.tolist() == ["b.1", "b.0", "10", "9.1", "9.0", "small", "empty"]
    assert fine.index.equals(labels.index)
    upper = (np.arange(len(labels)) % 2).astype(str)
    expected = [f"{name}.{side}" if name in ("9", "b") else name for name, side in zip(labels, upper, strict=True)]
    assert fine.tolist() == expected


def test_small_and_other_clusters_are_not_looked_into(labels, data):
    """Neither too few cells nor those that were not chosen are clustered."""
    seen = []

    def cluster(part: ad.AnnData) -> pd.Series:
        seen.append(part.obs_names.tolist())
        return by_second_gene(part)

    fine = divide(labels, ["10", "9", "small", "empty"], data, None, cluster)
    assert seen == [labels.index[labels == name].tolist() for name in ("10", "9")]
    assert {"small", "b"} < set(fine)


def test_one_population_keeps_its_name(labels, data):
    """A single part is the cluster itself, also if other names are left over."""

    def cluster(part: ad.AnnData) -> pd.Series:
        return series(["0"] * part.n_obs, ["0", "1"], part.obs_names)

    pd.testing.assert_series_equal(divide(labels, labels.cat.categories.tolist(), data, None, cluster), labels)


def test_nothing_chosen(labels, data):
    """The clusters are as they were."""
    pd.testing.assert_series_equal(divide(labels, [], data, None, by_second_gene), labels)


@pytest.mark.parametrize(("layer", "genes"), [(None, ["a", "b", "d"]), ("other", ["a", "b", "c"])])
def test_genes_are_those_of_the_cluster(labels, data, layer, genes):
    """Genes that the cluster's cells do not express are left out, by the layer that is used."""
    parts = []

    def cluster(part: ad.AnnData) -> pd.Series:
        parts.append(part)
        return by_second_gene(part)

    divide(labels, ["10"], data, layer, cluster)
    (part,) = parts
    assert part.var_names.tolist() == genes
    assert list(part.layers) == ["other"]


def test_parts_are_copies(labels, data, unchanged):
    """What a clustering writes to its cells does not reach the data."""

    def cluster(part: ad.AnnData) -> pd.Series:
        assert not part.is_view
        part.obs["note"], part.uns["note"] = 1, 1
        part.X.data[:] = part.X.data  # an array of its own, which may be written to
        found = by_second_gene(part)
        part.X.data[:] = 0
        return found

    with unchanged(data):
        divide(labels, ["10", "9"], data, None, cluster)


def test_cells_in_another_order(labels, data):
    """With the row of each cell, the result is the same."""
    order = np.random.default_rng(1).permutation(len(labels))
    shuffled = data[order].copy()
    places = shuffled.obs_names.get_indexer(labels.index)
    fine = divide(labels, ["10", "b"], shuffled, None, by_second_gene, places)
    pd.testing.assert_series_equal(fine, divide(labels, ["10", "b"], data, None, by_second_gene))


# ---------------------------------------------------------------------- model


@pytest.fixture(scope="module")
def subtyped(make_cells) -> ad.AnnData:
    """360 cells of three types with three clear subtypes each; tests must leave them as they are."""
    adata = make_cells(n_cells=360, subtypes=True)
    markers = np.arange(adata.n_vars) // 10 - N_TYPE_GENES // 10 == adata.obs["subtype"].to_numpy()[:, None] % 3
    adata.X = sp.csr_matrix(adata.X.toarray() + np.random.default_rng(0).poisson(6.0 * markers).astype(np.float32))
    adata.layers["counts"] = adata.X.copy()
    return adata


@pytest.fixture(scope="module")
def typed(subtyped, fit) -> RMVE:
    """A model of the genes that tell types apart, one cluster for each; tests must leave it as it is."""
    adata = subtyped[:, :N_TYPE_GENES].copy()
    train = {"plan_kwargs": {"warmup_fraction": 1.0}, "start": pd.factorize(adata.obs["cell_type"], sort=True)[0]}
    return fit(adata, {"layer": "counts"}, train=train)


@pytest.fixture
def seen(monkeypatch) -> list[tuple[RMVE, dict]]:
    """The models that are trained from here on, and their options."""
    models, original = [], RMVE.train

    def train(self, *args, **options):
        models.append((self, options))
        return original(self, *args, **options)

    monkeypatch.setattr(RMVE, "train", train)
    return models


SHORT = {"max_epochs": 2, "batch_size": 64}


@pytest.mark.usefixtures("fixed_seed")
def test_subtypes_are_found_with_the_genes_that_tell_them_apart(typed, subtyped):
    """The training cells in another order, with more genes: subtypes appear, nested below the clusters in use."""
    levels = typed.predict()
    assert levels.nunique() == 3
    order = np.random.default_rng(0).permutation(subtyped.n_obs)
    fine = typed.subcluster("0", subtyped[order].copy(), max_epochs=60, batch_size=30)
    assert fine.index.equals(typed.adata.obs_names)
    assert (pd.crosstab(fine, levels) > 0).sum(axis=1).eq(1).all()
    largest = levels == "0"
    assert fine[~largest].astype(str).equals(levels[~largest].astype(str))
    assert adjusted_rand_score(subtyped.obs["subtype"][largest], fine[largest]) > 0.8
    inner = [name for name in fine.cat.categories if name.startswith("0.")]
    assert fine.cat.categories.tolist() == [*inner, "1", "2"]
    assert inner == [f"0.{i}" for i in range(len(inner))]
    assert len(inner) > 1


@pytest.mark.usefixtures("fixed_seed")
def test_nothing_is_written(typed, unchanged, subtyped, seen):
    """Neither to the model's data nor to that which is given; the model is as it was, and keeps no cells of others."""
    gc.collect()
    with unchanged(typed.adata), unchanged(subtyped):
        before, tree, registered = (
            typed.predict(soft=True),
            typed.get_merge_tree(),
            len(RMVE._setup_adata_manager_store),
        )
        typed.subcluster(["0", "1"], **SHORT)
        typed.subcluster("0", subtyped, **SHORT)
        n_trained = len(seen)
        seen.clear()
        gc.collect()
        assert len(RMVE._setup_adata_manager_store) == registered
        pd.testing.assert_frame_equal(typed.predict(soft=True), before)
        pd.testing.assert_frame_equal(typed.get_merge_tree(), tree)
    assert n_trained == 3


@pytest.mark.usefixtures("fixed_seed")
def test_what_the_models_inside_are_made_of(typed, subtyped, seen):
    """Options of model, set-up and training go along; each has the cells of its cluster and their genes alone."""
    other = subtyped[::-1].copy()
    silent = [3, 70]
    other.layers["counts"] = sp.csr_matrix(other.layers["counts"].toarray() * ~np.isin(np.arange(90), silent))
    typed.subcluster(["2", "0"], other, **SHORT)
    levels = typed.predict()
    for (inner, options), name in zip(seen, ["0", "2"], strict=True):
        assert options == SHORT | {"quiet": True}
        assert inner.adata.obs_names.tolist() == levels.index[levels == name].tolist()
        genes = inner.adata.var_names
        assert set(genes) <= set(other.var_names) - {f"gene {j}" for j in silent}
        assert len(genes) > N_TYPE_GENES
        np.testing.assert_array_equal(
            inner.adata.layers["counts"].toarray(), subtyped[inner.adata.obs_names, genes].layers["counts"].toarray()
        )
        assert inner.registry_["setup_args"]["layer"] == "counts"
        assert inner.module.n_latent == typed.module.n_latent


@pytest.mark.usefixtures("fixed_seed")
def test_all_clusters_by_default(typed, seen):
    """All are looked into, and a model that trains aloud can be had."""
    typed.subcluster(**SHORT, quiet=False, enable_progress_bar=False)
    assert [inner.adata.n_obs for inner, _ in seen] == typed.predict().value_counts(sort=False).tolist()
    assert not any(options["quiet"] for _, options in seen)


@pytest.mark.parametrize("clusters", ["7", ["0", "7"], ["0.0", "7"]])
def test_unknown_clusters(typed, seen, clusters):
    """The error names the first of them and the clusters that there are, before anything is trained."""
    unknown = "0.0" if "0.0" in clusters else "7"
    with pytest.raises(KeyError, match=rf"no cluster '{unknown}'\. The clusters are '0', '1', '2'\."):
        typed.subcluster(clusters)
    assert not seen


def test_missing_cells(typed, subtyped, seen):
    """All training cells are needed, whatever their cluster; cells beside them are no harm."""
    with pytest.raises(ValueError, match=r"`adata` lacks 2 training cells, for example 'cell 358'\."):
        typed.subcluster("0", subtyped[:-2].copy())
    assert not seen


@pytest.mark.usefixtures("fixed_seed")
def test_more_cells(typed, subtyped, make_cells, seen):
    """Cells that the model was not trained on take no part."""
    more = make_cells(n_cells=50, seed=5, subtypes=True)
    more.obs_names = [f"other {i}" for i in range(50)]
    fine = typed.subcluster("1", ad.concat([more, subtyped]), **SHORT)
    assert fine.index.equals(typed.adata.obs_names)
    ((inner, _),) = seen
    assert inner.adata.n_obs == (typed.predict() == "1").sum()


def fit_one_cluster(adata: ad.AnnData) -> RMVE:
    """A model that is trained a little and has all cells in one cluster."""
    model = RMVE(adata, n_components=1, n_latent=2, n_hidden=8, n_layers=1)
    model.train(max_epochs=1, quiet=True)
    model.merge_components(1)
    return model


@pytest.mark.usefixtures("fixed_seed")
def test_cells_on_disk(subtyped, tmp_path, seen):
    """The cells of a cluster are read when their turn comes."""
    order = np.random.default_rng(0).permutation(subtyped.n_obs)
    subtyped[order].copy().write_h5ad(tmp_path / "cells.h5ad")
    training = subtyped[:, :N_TYPE_GENES].copy()
    training.write_h5ad(tmp_path / "training.h5ad")
    on_disk, others = (ad.read_h5ad(tmp_path / f"{name}.h5ad", backed="r") for name in ("training", "cells"))
    RMVE.setup_anndata(on_disk)
    model = fit_one_cluster(on_disk)
    seen.clear()
    for given, source in ((None, training), (others, subtyped), (others[:, 5:], subtyped)):
        model.subcluster("0", given, **SHORT)
        inner = seen.pop()[0].adata
        assert inner.obs_names.equals(subtyped.obs_names)
        np.testing.assert_array_equal(inner.X.toarray(), source[:, inner.var_names].X.toarray())
    assert "gene 4" not in inner.var_names
    assert on_disk.isbacked
    assert others.isbacked
