"""What partitions of components say, on arrays small enough to check by hand."""

from __future__ import annotations

import time

import numpy as np
import pytest

from rmve import RMVE
from rmve.clusters import components


def test_order_by_size():
    """Clusters come from the largest to the smallest; equal ones, and empty ones at the end, by number."""
    np.testing.assert_array_equal(components.order_by_size(np.array([2, 2, 0, 3]), 5), [2, 0, 3, 1, 4])


def test_separation_grows_along_the_tree(make_tree):
    """The least distance is over pairs of active components in different clusters, and infinite for one cluster."""
    tree = make_tree([(0, 1, 0.9), (0, 3, 0.0)], 4)
    distance = np.array([[np.inf, 1.0, 0.1, 4.0], [1.0, np.inf, 0.1, 3.0], [0.1, 0.1, np.inf, 0.1], [4.0, 3.0, 0.1, 0]])
    np.testing.assert_array_equal(components.separation_at_levels(tree, distance), [1.0, 3.0, np.inf])


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ([0, 0, 1], [5, 5, 2], True),
        ([0, 0, 1], [0, 1, 1], False),
        ([0, 1, 2], [0, 1, 1], False),
        ([0, 1, 1], [0, 1, 2], False),
        ([3], [0], True),
    ],
)
def test_same_partition(first, second, same):
    """Names of the parts do not matter; a coarser or finer partition is another one."""
    assert components.same_partition(np.array(first), np.array(second)) is same


def test_many_components_for_few_cells(make_cells):
    """The start of 200 components for 240 cells is found in seconds, not in minutes."""
    adata = make_cells()
    RMVE.setup_anndata(adata)
    model = RMVE(adata, n_components=200, n_latent=3, n_hidden=8, n_layers=1)
    began = time.process_time()
    model.train(max_epochs=1, quiet=True)
    assert time.process_time() - began < 20
