"""Domains of a tissue as a function: neighbourhoods, sections, values, and what is refused."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from sklearn.metrics import adjusted_rand_score

import rmve
from rmve.spatial._surroundings import N_NEIGHBORS, ring_size, surroundings

SIDE = 12
COLUMN, ROW = (axis.ravel().astype(float) for axis in np.meshgrid(np.arange(SIDE), np.arange(SIDE)))
GRIDS = {
    "hexagonal": (np.column_stack([COLUMN + 0.5 * (ROW % 2), ROW * np.sqrt(3) / 2]), 6),
    "square": (np.column_stack([COLUMN, ROW]), 8),
}


@pytest.fixture
def tissue() -> ad.AnnData:
    """Two regions with the same two types in other shares; ``layers["log"]`` is normalised."""
    rng = np.random.default_rng(0)
    n = 800
    region = np.arange(n) >= n // 2
    kind = (rng.random(n) < np.where(region, 0.75, 0.25)).astype(int)
    rate = np.ones((2, 40))
    rate[0, :10] = rate[1, 10:20] = 4.0
    position = np.column_stack([rng.uniform(size=n) + region, rng.uniform(size=n)])
    counts = sp.csr_matrix(rng.poisson(rate[kind]).astype(np.float32))
    adata = ad.AnnData(counts, obs={"region": region.astype(str)}, obsm={"spatial": position})
    adata.layers["log"] = np.log1p(counts.toarray())
    return adata


@pytest.mark.parametrize("scale", [1.0, 137.0])
@pytest.mark.parametrize(("positions", "ring"), GRIDS.values(), ids=GRIDS)
def test_ring_of_a_grid(positions, ring, scale):
    """The first ring is found in any unit and with a little noise; spots inside have all of it, no spot has more."""
    noisy = positions + np.random.default_rng(0).normal(scale=0.02, size=positions.shape)
    for where in (scale * positions, scale * noisy):
        assert ring_size(where) == ring
        degree = np.asarray(surroundings(where).sum(1)).ravel()
        inside = (COLUMN > 0) & (COLUMN < SIDE - 1) & (ROW > 0) & (ROW < SIDE - 1)
        assert (degree[inside] == ring).all()
        assert (degree <= ring).all()


def test_cells_on_no_grid(tissue):
    """Scattered cells have the default number of neighbours at least, since the graph is symmetric."""
    positions = tissue.obsm["spatial"]
    assert ring_size(positions) is None
    graph = surroundings(positions)
    assert graph.sum(1).min() == N_NEIGHBORS
    assert (graph != graph.T).nnz == 0
    assert not graph.diagonal().any()


def test_sections_are_apart():
    """Two sections at the same place share no edge; a section of one cell has none."""
    positions = np.random.default_rng(0).uniform(size=(41, 2))
    sections = np.array(["a"] * 20 + ["b"] * 20 + ["c"])
    graph = surroundings(positions, sections, 3).tocoo()
    assert (sections[graph.row] == sections[graph.col]).all()
    assert 40 not in graph.row


@pytest.mark.parametrize(("layer", "likelihood"), [(None, "nb"), ("log", "normal")])
def test_domains_are_the_regions(tissue, layer, likelihood):
    """Types of single cells hardly tell the regions, surroundings do; for counts and for normalised values."""
    before = tissue.copy()
    torch.manual_seed(0)
    model = rmve.spatial_domains(
        tissue, layer=layer, n_domains=2, n_neighbors=20, gene_likelihood=likelihood, max_epochs=60, quiet=True
    )
    assert adjusted_rand_score(tissue.obs["region"], tissue.obs["rmve_domain"]) > 0.7
    assert model.n_clusters == tissue.obs["rmve_domain"].nunique() == 2
    assert set(tissue.obs) - set(before.obs) == {"rmve_domain"}
    assert set(tissue.uns) == {"rmve_domain"}
    assert not tissue.obsp
    np.testing.assert_array_equal(tissue.X.toarray(), before.X.toarray())


def test_called_again(tissue, tmp_path):
    """Domains of an earlier call are replaced; the result can be written to a file."""
    tissue.obs["section"] = np.where(np.arange(800) % 2, "a", "b")
    for _ in range(2):
        model = rmve.spatial_domains(tissue, section_key="section", max_epochs=1, quiet=True)
    assert model.summary_stats.n_batch == 2
    tissue.write_h5ad(tmp_path / "domains.h5ad")
    assert ad.read_h5ad(tmp_path / "domains.h5ad").obs["rmve_domain"].equals(tissue.obs["rmve_domain"])


def _without_position(adata):
    adata.obsm["spatial"][3] = np.nan


def _without_section(adata):
    adata.obs["section"] = ["a", None] * 400


REFUSED = {
    "no positions": (lambda adata: adata.obsm.pop("spatial"), {}, KeyError, "spatial"),
    "a cell without position": (_without_position, {}, ValueError, r"obsm\['spatial'\]` lacks the position of 1 cell"),
    "no such column": (lambda adata: None, {"section_key": "slide"}, KeyError, "section_key='slide'"),
    "a cell without section": (_without_section, {"section_key": "section"}, ValueError, r"obs\['section'\]"),
    "no neighbours": (lambda adata: None, {"n_neighbors": 0}, ValueError, "n_neighbors"),
    "no counts": (lambda adata: None, {"layer": "log"}, ValueError, "needs raw counts"),
    "a name that is taken": (lambda adata: None, {"key_added": "region"}, ValueError, r"obs\['region'\]"),
    "a slash": (lambda adata: None, {"key_added": "a/b"}, ValueError, "hold '/'"),
    "notes of the user": (
        lambda adata: adata.uns.update(rmve_domain={"mine": 1}),
        {},
        ValueError,
        r"uns\['rmve_domain'\]",
    ),
    "no likelihood": (lambda adata: None, {"gene_likelihood": "gauss"}, ValueError, "gene_likelihood"),
    "too many domains": (lambda adata: None, {"n_domains": 900}, ValueError, "n_components=900"),
    "no option of training": (lambda adata: None, {"epochs": 3}, TypeError, "epochs"),
}


@pytest.mark.parametrize(("change", "options", "error", "match"), REFUSED.values(), ids=REFUSED)
def test_refused(tissue, unchanged, change, options, error, match):
    """An error names what is wrong, and nothing is written."""
    change(tissue)
    with unchanged(tissue), pytest.raises(error, match=match):
        rmve.spatial_domains(tissue, **options)


def test_cells_on_disk(tissue, tmp_path):
    """Cells whose counts stay in the file get the same domains."""
    tissue.write_h5ad(tmp_path / "tissue.h5ad")
    on_disk = ad.read_h5ad(tmp_path / "tissue.h5ad", backed="r")
    for adata in (tissue, on_disk):
        torch.manual_seed(0)
        rmve.spatial_domains(adata, max_epochs=2, quiet=True)
    assert on_disk.obs["rmve_domain"].equals(tissue.obs["rmve_domain"])
