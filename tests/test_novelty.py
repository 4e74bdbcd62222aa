"""Cells unlike all training cells: the statistics, what a model says of new cells, and the name that they get."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from rmve import RMVE
from rmve.model._novelty import read_expression
from rmve.novelty import UNKNOWN, KnownCells, Standard


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def population(rng, n_cells: int = 800, shift: float = 0.0):
    """Expression, latent, total and cluster of two types of cells."""
    cluster = rng.integers(2, size=n_cells)
    latent = 6.0 * cluster[:, None] + rng.normal(size=(n_cells, 3))
    loadings = np.random.default_rng(1).normal(size=(3, 40))
    expression = latent @ loadings + rng.normal(size=(n_cells, 40))
    expression[:, :10] += shift
    return expression, latent, np.exp(rng.normal(7, 0.3, n_cells)), cluster


def test_novelty_of_known_cells_is_uniform(rng):
    """Training cells and new cells of the same types exceed each level as often as it says."""
    training = population(rng, 2000)
    known = KnownCells.fit(*training, n_clusters=2)
    for cells in (training, population(rng)):
        novelty = known.novelty(*cells)
        assert ((novelty >= 0) & (novelty < 1)).all()
        np.testing.assert_allclose(
            [(novelty > level).mean() for level in (0.5, 0.8, 0.95)], [0.5, 0.2, 0.05], atol=0.12
        )


def test_novelty_sees_place_and_expression(rng):
    """Cells away from all others are new, and so are cells at a known place whose genes differ."""
    known = KnownCells.fit(*population(rng), n_clusters=2)
    expression, latent, total, cluster = population(rng, 200)
    assert (known.novelty(expression, latent + 20.0, total, cluster) > UNKNOWN).mean() > 0.99
    assert (known.novelty(expression + np.sign(expression) * 8.0, latent, total, cluster) > UNKNOWN).mean() > 0.8


def test_standard_removes_depth_and_cluster(rng):
    """What is left depends on neither, in location and scale."""
    depth, cluster = rng.normal(7, 1, 5000), rng.integers(3, size=5000)
    values = 2 * depth + 5.0 * cluster + np.exp(0.5 * depth - 3) * rng.normal(size=5000)
    standard = Standard.fit(values, depth, cluster, 4)
    z = standard.apply(values, depth, cluster)
    for part in (depth > 7, depth < 7, cluster == 0, cluster == 2):
        assert abs(np.median(z[part])) < 0.4
        assert 0.7 < z[part].std() / z.std() < 1.4
    assert standard.offset[3] == 0


def test_counts_are_scaled_to_a_common_total(rng):
    """Rows get a common total before the logarithm; an empty cell stays zero."""
    counts = np.array([[1.0, 3.0], [0.0, 0.0]])
    np.testing.assert_allclose(np.expm1(read_expression(counts, np.arange(2), 8.0)[0]), [[2.0, 6.0], [0.0, 0.0]])


@pytest.fixture(scope="module")
def without_c(make_cells, fit):
    """A model that was trained without type "C"."""
    adata = make_cells(n_cells=400)
    return fit(adata[adata.obs["cell_type"] != "C"].copy(), {"layer": "counts"}, n_components=2)


def test_an_unseen_type_is_named_unknown(without_c, make_cells):
    """Most of its cells are, few others, and the other cells keep their clusters."""
    query = make_cells(n_cells=300, seed=5)
    new = (query.obs["cell_type"] == "C").to_numpy()
    novelty = without_c.get_novelty(query)
    assert novelty.index.equals(query.obs_names)
    labels = without_c.predict(query, unknown="Unknown")
    unknown = (labels == "Unknown").to_numpy()
    np.testing.assert_array_equal(unknown, novelty > UNKNOWN)
    assert unknown[new].mean() > 0.8
    assert unknown[~new].mean() < 0.2
    assert labels[~unknown].astype(str).equals(without_c.predict(query)[~unknown].astype(str))
    rows = [7, 3, 250]
    pd.testing.assert_series_equal(without_c.predict(query, indices=rows, unknown="Unknown"), labels.iloc[rows])


def test_a_copy_of_the_training_data_is_judged_as_the_data(shared):
    """A cell is recognised as itself."""
    assert np.abs(shared.get_novelty() - shared.get_novelty(shared.adata.copy())).max() < 0.02


def test_unknown_must_not_be_a_cluster(shared):
    """The name must tell new cells from others."""
    with pytest.raises(ValueError, match="is the name of a cluster"):
        shared.predict(unknown="0")


def test_novelty_needs_the_training_cells(saved, cells, make_cells):
    """A model without them says what to do, and annotates without novelty."""
    model = RMVE.load(saved, adata=False)
    with pytest.raises(RuntimeError, match=r"RMVE\.load\(path, adata=adata\)"):
        model.get_novelty(cells)
    assert "rmve_novelty" not in cells.obs


def test_a_query_is_compared_with_the_reference(batched, make_cells):
    """Not with itself."""
    query = make_cells(n_cells=60, n_batches=2, seed=4)
    model = RMVE.load_query_data(query, batched)
    pd.testing.assert_series_equal(model.get_novelty(), batched.get_novelty(query), atol=0.02)
    model.annotate()
    assert "rmve_novelty" in query.obs


def test_novelty_of_values_without_molecules(cells, fit):
    """Normal values have no depth."""
    cells.X = np.log1p(cells.X.toarray())
    model = fit(cells, gene_likelihood="normal", epochs=3)
    assert model.get_novelty().between(0, 1).all()
