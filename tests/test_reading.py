"""Markers, names and levels of clusters, as a user asks for them."""

from __future__ import annotations

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

import rmve
from rmve import RMVE
from rmve.markers import marker_table, probability_of_more
from rmve.programmes import programme_table


def test_probability_of_more():
    """It is the area under the ROC curve, ties included."""
    rng = np.random.default_rng(0)
    values, cluster = rng.poisson(1.0, size=(60, 5)).astype(float), rng.integers(3, size=60)
    found = probability_of_more(values, cluster, 4)
    for k in range(3):
        np.testing.assert_allclose(found[k], [roc_auc_score(cluster == k, column) for column in values.T])
    assert np.isnan(found[3]).all()


def test_marker_table_of_few_numbers():
    """Shares and fold change are those of the cells inside and outside."""
    values = np.log1p(np.array([[8.0, 1.0], [8.0, 1.0], [0.0, 1.0], [2.0, 1.0]]))
    table = marker_table(values, np.array([0, 0, 1, 1]), ["a", "b"], ["g", "h"], 1)
    first = table.iloc[0]
    assert (first["cluster"], first["gene"], first["share_inside"], first["share_outside"]) == ("a", "g", 1.0, 0.5)
    assert first["log_fold_change"] == pytest.approx(3.0, abs=0.05)
    assert first["probability"] == 1.0
    with pytest.raises(ValueError, match="one cluster"):
        marker_table(values, np.zeros(4, dtype=int), ["a"], ["g", "h"], 1)


def test_markers_are_the_genes_that_differ(shared):
    """Each type's markers are the twenty genes that make it."""
    table = shared.get_markers(n=5)
    assert table.groupby("cluster", observed=True).size().tolist() == [5, 5, 5]
    types = shared.adata.obs["cell_type"].groupby(shared.predict(), observed=True).agg(lambda x: x.mode()[0])
    for cluster, genes in table.groupby("cluster", observed=True)["gene"]:
        k = "ABC".index(types[cluster])
        assert {int(gene.split()[1]) // 20 for gene in genes} == {k}


def test_figure_of_markers(model):
    """A dot plot of the table's genes; the data stays as it is."""
    model.annotate()
    before = set(model.adata.obs), model.adata.X.copy()
    axes = rmve.pl.markers(model.adata, model.get_markers(n=3), n=2, show=False)
    assert [text.get_text() for text in axes["mainplot_ax"].get_xticklabels()][0].startswith("gene")
    assert set(model.adata.obs) == before[0]
    assert (model.adata.X != before[1]).nnz == 0
    plt.close("all")
    with pytest.raises(KeyError, match="lacks"):
        rmve.pl.markers(model.adata[:, :2], model.get_markers(n=3), show=False)


def test_the_figure_of_markers_is_shown_once(model, monkeypatch):
    """A notebook draws all figures that are open."""
    model.annotate()
    monkeypatch.setattr(plt, "show", lambda: None)
    plt.close("all")
    assert rmve.pl.markers(model.adata, model.get_markers(n=3), show=True) is None
    assert len(plt.get_fignums()) == 1
    plt.close("all")


def test_names_are_kept(overcomplete, tmp_path):
    """Through other levels, saving and loading, and into AnnData."""
    overcomplete.save(tmp_path / "model", save_anndata=True)
    model = RMVE.load(tmp_path / "model")
    model.merge_components(3)
    model.rename_clusters({"0": "T cells", "2": "B/plasma cells"})
    assert list(model.clusters_.names) == ["T cells", "1", "B/plasma cells"]
    model.merge_components(5)
    model.merge_components(1)
    model.merge_components(3)
    assert set(model.clusters_.names) >= {"T cells", "B/plasma cells"}
    model.save(tmp_path / "named")
    back = RMVE.load(tmp_path / "named", adata=model.adata.copy())
    assert back.predict().cat.categories.tolist() == list(model.clusters_.names)
    back.merge_components(2)
    back.merge_components(3)
    assert set(back.clusters_.names) >= {"T cells", "B/plasma cells"}
    back.annotate()
    back.rename_clusters({"T cells": "T"})
    back.annotate()
    assert "T" in back.adata.obs["rmve"].cat.categories
    assert "T cells" not in back.adata.obs["rmve"].cat.categories


@pytest.mark.parametrize(
    ("names", "error", "says"),
    [
        ({"9": "x"}, KeyError, "no cluster '9'"),
        ({"0": "1"}, ValueError, "two clusters"),
        ({"0": ""}, ValueError, "empty"),
        ({"0": 3}, TypeError, "must be a string"),
        (["x"], TypeError, "dictionary"),
    ],
)
def test_names_are_checked(model, names, error, says):
    """And nothing is renamed."""
    with pytest.raises(error, match=says):
        model.rename_clusters(names)
    assert list(model.clusters_.names) == ["0", "1", "2"]


def test_levels_from_annotated_cells_alone(overcomplete, tmp_path):
    """They are those of the model, also after a file, and for some of the cells."""
    adata = overcomplete.adata.copy()
    overcomplete.annotate(adata, levels=[2, 4])
    adata.write_h5ad(tmp_path / "cells.h5ad")
    back = ad.read_h5ad(tmp_path / "cells.h5ad")
    in_use = overcomplete.n_clusters
    try:
        for number in overcomplete.get_resolutions()["n_clusters"]:
            expected = overcomplete.merge_components(int(number))
            pd.testing.assert_series_equal(rmve.cut_levels(back, int(number)), expected, check_names=False)
    finally:
        overcomplete.merge_components(in_use)
    assert back.obs["rmve_4"].equals(rmve.cut_levels(back, 4))
    assert back.obs["rmve_2"].nunique() == 2
    assert rmve.cut_levels(back[:50], 3).index.equals(back.obs_names[:50])


def test_levels_are_checked(model, unchanged):
    """Errors name the key and what to do, and nothing is written."""
    with pytest.raises(KeyError, match=r"model\.annotate\(\)"):
        rmve.cut_levels(model.adata, 2)
    with unchanged(model.adata), pytest.raises(ValueError, match="no level of 99"):
        model.annotate(levels=[99])
    model.adata.obs["rmve_2"] = 1.0
    with unchanged(model.adata), pytest.raises(ValueError, match="would overwrite"):
        model.annotate(levels=[2])
    del model.adata.obs["rmve_2"]
    model.annotate(levels=[2])
    model.annotate(levels=[2])
    with pytest.raises(ValueError, match="levels are those of 1 to"):
        rmve.cut_levels(model.adata, 99)


def test_programme_table():
    """Genes are in the direction of their change, the largest first."""
    change = np.array([[1.0, -2.0, 3.0, 0.0]])
    table = programme_table(change, np.array(list("abcd"), dtype=object), 3)
    assert table["gene"].tolist() == ["c", "a", "b"]
    assert table["direction"].tolist() == ["up", "up", "down"]


def test_gene_programmes_are_the_decoder_s(shared):
    """The dimension that differs most between types changes the types' genes."""
    table = shared.get_gene_programmes(n=5)
    assert set(table["dimension"]) == {str(d) for d in range(5)}
    pd.testing.assert_frame_equal(table, shared.get_gene_programmes(n=5))
    latent = shared.get_latent_representation()
    counts = np.log1p(shared.adata.X.toarray())
    strongest = table.loc[table["change"].idxmax()]  # of genes ranked by change and abundance
    column = counts[:, shared.adata.var_names.get_loc(strongest["gene"])]
    assert np.corrcoef(latent[:, int(strongest["dimension"])], column)[0, 1] > 0.2
    figure = rmve.pl.gene_programmes(table, n=2, show=False)
    assert sum(axes.get_visible() for axes in figure.axes) == 5
    plt.close(figure)


def test_print(model, cells):
    """A few lines that say what there is."""
    text = repr(model)
    assert "240 cells, 60 genes" in text
    assert "3 clusters" in text
    smap = model.fit_spatial_map(spatial_key="spatial")
    assert repr(smap).startswith("SpatialMap: linear map, R²")
    assert repr(smap) in repr(model)
    RMVE.setup_anndata(cells)
    assert "not trained" in repr(RMVE(cells))
