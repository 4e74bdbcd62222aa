"""Each name of a cluster is given once."""

from __future__ import annotations

import numpy as np
import pytest

from rmve.clusters._clusters import Clusters
from rmve.clusters._names import file_names, name_clusters


@pytest.mark.parametrize(
    ("cluster_of", "labels", "expected"),
    [
        ([0, 1, 2], [], ["0", "1", "2"]),
        ([1, 0, 2, 3], ["B", "T"], ["T", "B", "new_0", "new_1"]),
        ([0, 1, 2, 3], ["new_0", "T"], ["new_0", "T", "new_1", "new_2"]),
        ([0, 0, 1, 2], ["B", "T", "NK"], ["B + T", "NK", "new_0"]),
        ([0, 0, 1], ["B", "T", "B + T"], ["B + T (2)", "B + T"]),
        ([0, 0, 1, 1], ["B", "T", "new_0", "NK"], ["B + T", "new_0 + NK"]),
        ([0, 0, 1, 1, 2], ["A", "B + C", "A + B", "C", "new_1"], ["A + B + C", "A + B + C (2)", "new_1"]),
    ],
)
def test_names(cluster_of, labels, expected):
    """Labels keep their name; numbers and merges make way."""
    assert name_clusters(np.array(cluster_of), labels) == expected


def test_names_in_files():
    """A slash cannot be stored; its stand-in may be taken."""
    assert file_names(["CD4/8", "CD4|8", "B"]) == ["CD4|8 (2)", "CD4|8", "B"]
    assert file_names(["a/b/c", "a|b/c"]) == ["a|b|c", "a|b|c (2)"]


def test_label_of_an_earlier_round(make_cells, fit, tmp_path):
    """A model with a label named as new clusters are predicts, annotates, writes and merges."""
    adata = make_cells()
    names = {"A": "new_0", "B": "CD4/8", "C": "CD4|8"}
    adata.obs["label"] = adata.obs["cell_type"].map(names).astype(str)
    adata.obs.loc[adata.obs_names[::2], "label"] = "Unknown"
    model = fit(adata, {"labels_key": "label"}, epochs=2, n_components=5)
    assert len(set(model.clusters_.names)) == len(model.clusters_.names)
    assert model.predict(soft=True).columns.is_unique
    model.annotate()
    adata.write_h5ad(tmp_path / "out.h5ad")
    model.merge_components(2)
    assert model.predict().cat.categories.is_unique


@pytest.mark.parametrize("numbers", [[0, 1, 3], [-1, 0, 1], [0.0, 1.0, 1.5], [1, 1, 1]])
def test_clusters_that_are_none(numbers):
    """Gaps, negative numbers and fractions are refused."""
    with pytest.raises((TypeError, ValueError)):
        Clusters.of(np.array(numbers))
