"""Agreement between partitions, and RMVE's own comparison of runs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from rmve import RMVE
from rmve.stability import compare_partitions, match_labels

INDEX = pd.Index([f"cell {i}" for i in range(8)])
REFERENCE = np.array([0, 0, 0, 1, 1, 1, 2, 2])


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


def test_agreement_is_the_adjusted_rand_index():
    """The matrix holds the index of each pair of runs and ones on its diagonal; the mean is over pairs."""
    other = np.array([0, 0, 1, 1, 1, 1, 2, 2])
    third = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    stability = compare_partitions([REFERENCE, other, third], INDEX)
    matrix = stability.agreement.to_numpy()
    np.testing.assert_allclose(matrix, matrix.T)
    np.testing.assert_allclose(np.diag(matrix), 1.0)
    assert matrix[0, 1] == pytest.approx(adjusted_rand_score(REFERENCE, other))
    assert stability.mean_agreement == pytest.approx((matrix[0, 1] + matrix[0, 2] + matrix[1, 2]) / 3)


def test_consensus_and_cell_stability():
    """Each cell gets the cluster of most runs, and the share of runs that agree with it."""
    moved = REFERENCE.copy()
    moved[0] = 1
    renamed = np.array([1, 1, 1, 2, 2, 2, 0, 0])
    stability = compare_partitions([renamed, REFERENCE, moved], INDEX)
    assert adjusted_rand_score(REFERENCE, stability.consensus) == 1.0
    assert stability.consensus.dtype == "category"
    assert stability.consensus.index.equals(INDEX)
    np.testing.assert_allclose(stability.cell_stability, [2 / 3] + [1.0] * 7)
    assert list(stability.labels.columns) == [0, 1, 2]


def test_ties_go_to_the_reference():
    """With two runs that disagree on a cell, it keeps the reference's cluster."""
    moved = REFERENCE.copy()
    moved[0] = 1
    stability = compare_partitions([REFERENCE, moved], INDEX)
    reference = [REFERENCE, moved][stability.reference]
    np.testing.assert_array_equal(stability.consensus.astype(int), reference)


def test_needs_two_partitions():
    """One partition cannot be compared."""
    with pytest.raises(ValueError, match="At least two"):
        compare_partitions([REFERENCE], INDEX)


OPTIONS = {"n_components": 3, "n_latent": 5, "n_hidden": 32, "n_layers": 1}
TRAIN = {"max_epochs": 20, "batch_size": 64, "enable_progress_bar": False}


def test_stability_of_runs(cells, unchanged):
    """Runs from different seeds find the same clear clusters; data and torch's generator are left alone."""
    RMVE.setup_anndata(cells, layer="counts")
    state = torch.get_rng_state()
    with unchanged(cells, without_scvi=True):
        stability = RMVE.stability(cells, n_runs=2, seeds=[3, 4], train_kwargs=TRAIN, **OPTIONS)
    assert torch.equal(state, torch.get_rng_state())
    assert stability.agreement.shape == (2, 2)
    assert stability.mean_agreement > 0.8
    assert stability.consensus.index.equals(cells.obs_names)
    assert adjusted_rand_score(cells.obs["cell_type"], stability.consensus) > 0.8


@pytest.mark.parametrize(
    ("options", "message"),
    [({"n_runs": 1}, "`n_runs` must be an integer of at least 2"), ({"n_runs": 3, "seeds": [0, 1]}, "`seeds` has 2")],
)
def test_bad_arguments(cells, options, message):
    """The number of runs is checked before anything is trained."""
    RMVE.setup_anndata(cells, layer="counts")
    with pytest.raises(ValueError, match=message):
        RMVE.stability(cells, **options, **OPTIONS)
