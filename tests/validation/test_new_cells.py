"""New cells that do not fit a model: a clear error, and data that stays as it was."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from rmve import RMVE


def drop_genes(adata):
    """Leave out three genes."""
    return adata[:, [name for name in adata.var_names if name not in ("gene 4", "gene 7", "gene 9")]].copy()


def swap_genes(adata):
    """Bring the genes into another order."""
    return adata[:, adata.var_names[::-1]].copy()


def add_gene(adata):
    """Append a gene that the model does not know."""
    extra = ad.AnnData(np.ones((adata.n_obs, 1), dtype=np.float32), obs=adata.obs[[]])
    extra.layers["counts"] = extra.X.copy()
    extra.var_names = ["gene new"]
    return ad.concat([adata, extra], axis=1, merge="first")


def no_layer(adata):
    """Leave out the layer with the data."""
    del adata.layers["counts"]
    return adata


def spoil_layer(value):
    """Put one bad value into the layer with the data."""

    def change(adata):
        dense = adata.layers["counts"].toarray()
        dense[3, 5] = value
        adata.layers["counts"] = sp.csr_matrix(dense)
        return adata

    return change


#: name: (change of new data, error, pattern of its message)
QUERY_ERRORS = {
    "genes missing": (drop_genes, ValueError, "lacks 3 of the model's 60 genes: 'gene 4', 'gene 7', 'gene 9'"),
    "genes in another order": (swap_genes, ValueError, r"another order.*get_var_names"),
    "more genes": (add_gene, ValueError, "more genes"),
    "layer missing": (no_layer, KeyError, "`layer='counts'`"),
    "NaN": (spoil_layer(np.nan), ValueError, r"'counts'\]` holds NaN"),
    "fractional": (spoil_layer(0.5), ValueError, "fractional"),
    "negative": (spoil_layer(-1.0), ValueError, "negative"),
    "no cells": (lambda adata: adata[:0].copy(), ValueError, "empty: 0 cells"),
    "wrong type": (lambda adata: adata.to_df(), TypeError, "must be an AnnData, not DataFrame"),
}
GETTERS = ["predict", "get_latent_representation", "annotate", "get_elbo", "get_normalized_expression"]


@pytest.mark.parametrize("getter", GETTERS)
@pytest.mark.parametrize(("change", "error", "message"), QUERY_ERRORS.values(), ids=QUERY_ERRORS)
def test_new_cells_refused(shared, make_cells, unchanged, getter, change, error, message):
    """Each getter checks new data first and leaves it as it was."""
    query = change(make_cells(n_cells=30, seed=1))
    if isinstance(query, pd.DataFrame):
        with pytest.raises(error, match=message):
            getattr(shared, getter)(query)
        return
    with unchanged(query), pytest.raises(error, match=message):
        getattr(shared, getter)(query)


@pytest.mark.parametrize("change", [drop_genes, swap_genes])
@pytest.mark.parametrize("way", ["load", "load_query_data"])
def test_new_genes_refused_on_loading(shared, saved, make_cells, unchanged, change, way):
    """A model is not loaded onto data with other genes."""
    query = change(make_cells(n_cells=30, seed=1))
    with unchanged(query), pytest.raises(ValueError, match="genes"):
        RMVE.load(saved, adata=query) if way == "load" else RMVE.load_query_data(query, shared)


def test_unseen_batch(batched, make_cells, unchanged):
    """A batch that the model was not trained on is named, with the way to map it."""
    query = make_cells(n_cells=30, n_batches=3, seed=1)
    with unchanged(query), pytest.raises(ValueError, match="'batch'.*unseen in training: 'batch 2'.*load_query_data"):
        batched.predict(query)


@pytest.mark.parametrize("values", [[np.nan], None])
def test_batch_column_of_new_cells(batched, make_cells, unchanged, values):
    """New data needs a complete batch column."""
    query = make_cells(n_cells=30, seed=1)
    if values is None:
        del query.obs["batch"]
        error, message = KeyError, "`batch_key='batch'`"
    else:
        query.obs["batch"] = ["batch 0"] * 29 + values
        error, message = ValueError, "'batch'.*1 missing"
    with unchanged(query), pytest.raises(error, match=message):
        batched.predict(query)


@pytest.mark.parametrize("way", ["predict", "load_query_data"])
def test_unseen_label(partly_labelled, make_cells, unchanged, way):
    """A label that the reference does not know is named, with those it knows."""
    query = make_cells(n_cells=30, seed=1)
    query.obs["label"] = ["A"] * 29 + ["Z"]
    with unchanged(query), pytest.raises(ValueError, match="'label'.*unseen in the reference: 'Z'.*'A', 'B'"):
        partly_labelled.predict(query) if way == "predict" else RMVE.load_query_data(query, partly_labelled)


def test_untrained(cells, unchanged):
    """Results of a model without training are not written."""
    RMVE.setup_anndata(cells)
    model = RMVE(cells, n_components=2)
    with unchanged(cells), pytest.raises(RuntimeError, match=r"not trained.*model\.train\(\)"):
        model.annotate()


def test_annotate_refuses_a_view(shared, make_cells):
    """Results are not written into a view."""
    query = make_cells(n_cells=30, seed=1)
    with pytest.raises(ValueError, match="view"):
        shared.annotate(query[:10])
    assert "rmve" not in query.obs
