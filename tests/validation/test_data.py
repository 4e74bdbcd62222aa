"""Data that is taken, and how faults in it are named; ``test_bad_inputs.py`` has all that is refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from rmve import RMVE
from rmve import _validation as check
from rmve._validation.arguments import shorten


def test_fractional_layer_is_named(cells):
    """A layer that holds no counts is named as such."""
    cells.layers["log"] = cells.X.log1p()
    RMVE.setup_anndata(cells, layer="log")
    with pytest.raises(ValueError, match=r"`adata\.layers\['log'\]` has fractional"):
        RMVE(cells)


@pytest.mark.parametrize("dtype", [np.int32, np.uint16, np.int64, np.float64, bool])
def test_whole_numbers_of_any_type_are_counts(cells, dtype):
    """Integers, floats that are whole, and booleans pass as counts."""
    cells.X = cells.X.astype(dtype)
    RMVE.setup_anndata(cells)
    assert RMVE(cells, n_components=2).module.n_components == 2


def test_negative_integers(cells):
    """The check holds for integer matrices, too."""
    dense = cells.X.toarray().astype(np.int32)
    dense[0, 0] = -4
    cells.X = dense
    RMVE.setup_anndata(cells)
    with pytest.raises(ValueError, match="negative"):
        RMVE(cells)


def test_copy(cells):
    """A copy of data that was set up can be set up itself."""
    RMVE.setup_anndata(cells)
    copied = cells.copy()
    RMVE.setup_anndata(copied)
    assert RMVE(copied, n_components=2).adata is copied


def test_coordinates_with_unknown_positions(cells):
    """Rows of NaN mean that a position is unknown; data frames and integers are taken."""
    cells.obsm["spatial"] = pd.DataFrame(cells.obsm["spatial"], index=cells.obs_names, columns=["x", "y"])
    cells.obsm["spatial"].iloc[:5] = np.nan
    assert np.isnan(check.get_coordinates(cells, "spatial")).all(1).sum() == 5
    cells.obsm["grid"] = np.arange(240)[:, None]
    assert check.get_coordinates(cells, "grid").dtype == np.float64


def test_shorten():
    """Long lists of names are cut, with their length."""
    names = [f"g{i}" for i in range(7)]
    assert shorten(names) == "'g0', 'g1', 'g2', 'g3', 'g4', ... (7 in all)"
    assert shorten(names[:2]) == "'g0', 'g1'"
