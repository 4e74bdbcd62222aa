"""Tables of a mixture's components, and of the levels of their clusters."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from rmve.clusters import components
from rmve.clusters._clusters import Clusters
from rmve.clusters.levels import MergeTree
from rmve.maths.gaussians import between_components, bhattacharyya
from rmve.module._mixture import GaussianMixture

#: What the tables of merges and levels show of each merge.
MERGE_COLUMNS = ("kept", "merged", "confusion", "distance", "effect", "support")


@torch.inference_mode()
def separations(mixture: GaussianMixture) -> np.ndarray:
    """Bhattacharyya distance of each pair of components, shape ``(K, K)``, infinite on the diagonal."""
    distance = between_components(bhattacharyya, mixture.mean, mixture.var).cpu().numpy().astype(float)
    np.fill_diagonal(distance, np.inf)
    return distance


def component_table(assignment: np.ndarray, distance: np.ndarray, clusters: Clusters) -> pd.DataFrame:
    """Weight, size, separation and cluster of each component; see :meth:`rmve.RMVE.get_components`.

    Parameters
    ----------
    assignment
        ``q(y|x)`` of the training cells, shape ``(n, K)``.
    distance
        Distance of each pair of components, shape ``(K, K)``.
    clusters
        Clusters in use.
    """
    n_cells = np.bincount(assignment.argmax(1), minlength=assignment.shape[1])
    active = n_cells > 0
    distance = np.where(active[None], distance, np.inf)
    nearest = distance.argmin(1)
    separation = distance[np.arange(len(distance)), nearest]
    return pd.DataFrame(
        {
            "weight": assignment.mean(0),
            "n_cells": n_cells,
            "separation": separation,
            "nearest": np.where(np.isfinite(separation), nearest, -1),
            "active": active,
            "cluster": [clusters.names[cluster] for cluster in clusters.of_component],
        },
        index=pd.RangeIndex(len(n_cells)).astype(str),
    )


def merge_table(tree: MergeTree) -> pd.DataFrame:
    """Merges of a tree, a row for each; see :meth:`rmve.RMVE.get_merge_tree`."""
    columns = {name: getattr(tree, name) for name in MERGE_COLUMNS}
    return pd.DataFrame(columns | {"n_clusters": np.arange(tree.n_finest - 1, tree.n_coarsest - 1, -1)})


def level_table(tree: MergeTree, distance: np.ndarray, clusters: Clusters) -> pd.DataFrame:
    """Levels of a tree, a row for each; see :meth:`rmve.RMVE.get_resolutions`.

    Parameters
    ----------
    tree
        Merges of the components.
    distance
        Distance of each pair of components, shape ``(K, K)``.
    clusters
        Clusters in use.
    """
    in_use = np.array(clusters.of_component)[tree.active]
    numbers = range(tree.n_finest, tree.n_coarsest - 1, -1)
    table = pd.DataFrame({"n_clusters": numbers})
    for name in MERGE_COLUMNS:
        table[name] = np.concatenate([[-1 if name in ("kept", "merged") else np.nan], getattr(tree, name)])
    table = table.astype({"kept": int, "merged": int})
    table["separation"] = components.separation_at_levels(tree, distance)
    table["in_use"] = [components.same_partition(tree.cut(number)[tree.active], in_use) for number in numbers]
    table["recommended"] = table["n_clusters"] == tree.n_default
    table.index = table.index.astype(str)
    return table
