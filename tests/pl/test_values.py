"""A name is a column or a gene, in memory and on disk; another is an error that says what may be meant."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import rmve
from rmve.pl._values import find_column, suggestion


@pytest.fixture
def small():
    counts = np.arange(12.0).reshape(4, 3)
    adata = ad.AnnData(counts, obs=pd.DataFrame({"type": list("abab")}, index=list("wxyz")))
    adata.var_names = ["CD3E", "CD8A", "type"]
    adata.layers["log"] = np.log1p(counts)
    return adata


def test_a_column_goes_before_a_gene_of_its_name(small):
    assert list(find_column(small, "type")) == list("abab")
    assert list(find_column(small, "CD8A")) == [1.0, 4.0, 7.0, 10.0]


def test_genes_come_from_the_layer_or_from_raw(small):
    np.testing.assert_array_equal(find_column(small, "CD3E", layer="log"), np.log1p(small.X[:, 0]))
    small.raw = small[:, ["CD3E"]].copy()
    small.X = small.X + 100
    assert list(find_column(small, "CD3E")) == [0.0, 3.0, 6.0, 9.0]  # scanpy's default
    assert list(find_column(small, "CD3E", use_raw=False)) == [100.0, 103.0, 106.0, 109.0]
    assert list(find_column(small, "CD8A")) == [101.0, 104.0, 107.0, 110.0]  # raw lacks it
    np.testing.assert_array_equal(find_column(small, "CD3E", layer="log"), np.log1p([0.0, 3.0, 6.0, 9.0]))
    with pytest.raises(KeyError, match="'CD8A' is neither"):
        find_column(small, "CD8A", use_raw=True)


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix, sp.csc_matrix], ids=["dense", "csr", "csc"])
def test_genes_of_cells_on_disk(small, form, tmp_path):
    small.X = form(small.X)
    small.raw = small.copy()
    small.write_h5ad(tmp_path / "small.h5ad")
    stored = ad.read_h5ad(tmp_path / "small.h5ad", backed="r")
    assert stored.isbacked
    for use_raw in (False, True):
        assert list(find_column(stored, "CD8A", use_raw=use_raw)) == [1.0, 4.0, 7.0, 10.0]
    np.testing.assert_array_equal(find_column(stored, "CD8A", layer="log"), np.log1p([1.0, 4.0, 7.0, 10.0]))
    stored.file.close()


@pytest.mark.parametrize("figure", [rmve.pl.embedding, rmve.pl.spatial])
def test_figures_of_cells_on_disk_are_those_of_cells_in_memory(annotated, stored, figure):
    on_disk = ad.read_h5ad(stored, backed="r")
    drawn = [figure(cells, color=["rmve", "gene 3"]) for cells in (annotated, on_disk)]
    for in_memory, from_disk in zip(*drawn, strict=True):
        first, second = in_memory.collections[0], from_disk.collections[0]
        np.testing.assert_array_equal(first.get_offsets(), second.get_offsets())
        np.testing.assert_array_equal(first.get_facecolors(), second.get_facecolors())
    on_disk.file.close()


@pytest.mark.parametrize(
    ("name", "meant"),
    [("cd3e", "Did you mean 'CD3E'"), ("tpye", "Did you mean 'type'"), ("CD8", "Did you mean 'CD8A'")],
)
def test_an_error_suggests_close_names(small, name, meant):
    with pytest.raises(KeyError, match=f"'{name}' is neither a column of `adata.obs` nor a gene. {meant}"):
        find_column(small, name)


def test_an_error_without_close_names_lists_the_columns(small):
    with pytest.raises(KeyError) as error:
        find_column(small, "Xist")
    assert "Did you mean" not in error.value.args[0]
    assert "The columns: 'type'" in error.value.args[0]


def test_what_does_not_fit_is_named(small):
    with pytest.raises(KeyError, match="`layer='logs'` is not in .* Did you mean 'log'"):
        find_column(small, "CD3E", layer="logs")
    with pytest.raises(ValueError, match="exclude each other"):
        find_column(small, "CD3E", layer="log", use_raw=True)
    with pytest.raises(ValueError, match=r"needs `adata\.raw`"):
        find_column(small, "CD3E", use_raw=True)
    small.var_names = ["CD3E", "CD3E", "CD8A"]
    with pytest.raises(ValueError, match="2 genes are called 'CD3E'"):
        find_column(small, "CD3E")


def test_suggestions_are_few_and_spelled_as_they_are():
    assert suggestion("gene", ["Gene", "gene1", "gene2", "gene3", "gene4"]).count("'") == 6
    assert suggestion("GENE", ["Gene"]) == " Did you mean 'Gene'?"
    assert suggestion("x", []) == ""
