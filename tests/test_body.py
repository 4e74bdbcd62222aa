"""Organs and their place in the body."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from rmve.body import FRAME, ORGANS, SYNONYMS, add_organ_positions, organ_positions


def test_organs_lie_in_the_frame():
    left, right, top, bottom = FRAME
    assert ORGANS["x"].between(left, right).all()
    assert ORGANS["y"].between(top, bottom).all()
    assert ORGANS.index.is_unique
    assert set(SYNONYMS.values()) <= set(ORGANS.index)
    assert not set(SYNONYMS) & set(ORGANS.index)


def test_names_are_found_in_any_spelling():
    found = organ_positions(pd.Series(["Brain", "adrenal_gland", " THYROID ", "Skin of body", "blood", "no organ"]))
    expected = ORGANS.loc[["brain", "adrenal gland", "thyroid gland", "skin"], ["x", "y"]]
    np.testing.assert_array_equal(found[:4], expected)
    assert np.isnan(found[4:]).all()


def test_anatomy():
    """The order from head to feet."""
    order = ["brain", "thyroid gland", "heart", "liver", "colon", "bladder", "muscle", "nerve"]
    assert ORGANS.loc[order, "y"].is_monotonic_increasing


def test_written_into_adata(cells, unchanged):
    cells.obs["organ"] = np.where(np.arange(cells.n_obs) % 2, "lung", "blood")
    with unchanged(cells), pytest.raises(KeyError, match="organ_key='tissue'"):
        add_organ_positions(cells, "tissue")
    with unchanged(cells), pytest.raises(ValueError, match="is there already"):
        add_organ_positions(cells, "organ")
    add_organ_positions(cells, "organ", key_added="body")
    np.testing.assert_array_equal(np.isnan(cells.obsm["body"]).any(1), cells.obs["organ"] == "blood")
    with pytest.raises(ValueError, match="No organ in `adata.obs\\['cell_type'\\]` has a position"):
        add_organ_positions(cells, "cell_type", key_added="other")
    assert "other" not in cells.obsm
