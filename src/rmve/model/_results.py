"""From a trained model back into AnnData."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import pandas as pd
from anndata import AnnData

from rmve import _validation as check
from rmve._keys import Written
from rmve.clusters._clusters import Clusters
from rmve.clusters._names import file_names
from rmve.clusters.levels import MergeTree
from rmve.model._cut import labels_at, level_names
from rmve.model._encode import Posterior
from rmve.model._snapshot import registered_columns
from rmve.model._tables import component_table, level_table, separations
from rmve.module._mixture import GaussianMixture
from rmve.spatial import SpatialMap

#: Packages whose versions are noted.
PACKAGES = ("rmve", "scvi-tools", "torch", "anndata")
#: Arguments of ``setup_anndata`` that are noted beside the model's own.
NOTED = ("layer", "batch_key", "labels_key", "spatial_key")


@dataclass(frozen=True)
class Results:
    """What is written into AnnData.

    Attributes
    ----------
    obs, obsm
        Columns and arrays, by name.
    uns
        Names and entries of the one dictionary in ``uns``.
    """

    obs: dict[str, pd.Series] = field(default_factory=dict)
    obsm: dict[str, object] = field(default_factory=dict)
    uns: dict[str, Any] = field(default_factory=dict)

    def add_levels(self, names: Written, component: pd.Series, columns: Mapping[str, int]) -> None:
        """Add the finest level, from which all others follow, and columns of others.

        Parameters
        ----------
        names
            Names to write.
        component
            Component of each cell.
        columns
            Number of clusters of each column of ``obs``.
        """
        component, sizes = component.astype(str), self.uns["components"]["n_cells"].to_numpy()
        self.obs[names.finest] = component.astype("category")
        self.obs.update({name: labels_at(self.uns["levels"], sizes, component, n) for name, n in columns.items()})

    def add_places(self, names: Written, placed: pd.DataFrame, spatial_map: SpatialMap) -> None:
        """Add predicted coordinates and the map that they come from.

        Parameters
        ----------
        names
            Names to write.
        placed
            From :func:`rmve.model._places.place`.
        spatial_map
            Map to coordinates.
        """
        self.obs[names.spatial_sd] = placed["sd"]
        self.obsm[names.spatial] = placed.drop(columns="sd").to_numpy()
        self.uns["spatial_map"] = spatial_map.to_dict()

    def write(self, adata: AnnData, names: Written) -> None:
        """Write everything into AnnData, and the checksums by which the next call knows it again."""
        kept = {name: adata.obs[name] for name in self.uns.get("level_columns", ()) if name in adata.obs}
        checksums = check.checksums(adata.obs_names, kept | self.obs, self.obsm)
        for key, column in self.obs.items():
            adata.obs[key] = column
        for key, array in self.obsm.items():
            adata.obsm[key] = array
        adata.uns[names.uns] = {**self.uns, "checksums": checksums}


def read_names(arguments: Mapping[str, Any]) -> dict[str, set]:
    """Names that the model reads, in each part of AnnData, from arguments of ``setup_anndata``."""
    return {
        "obs": {*registered_columns(arguments)},
        "obsm": {arguments.get("spatial_key")},
        "uns": {arguments.get("neighbors_key")},
    }


def cell_results(posterior: Posterior, clusters: Clusters, index: pd.Index, names: Written) -> Results:
    """Cluster, confidence, embedding and probabilities of cells.

    Parameters
    ----------
    posterior
        Posterior of the cells.
    clusters
        Clusters in use.
    index
        Names of the cells.
    names
        Names to write.
    """
    probabilities = clusters.probabilities(posterior.assignment, index)
    # h5ad files allow no "/" in names of columns, which cell types have
    columns = probabilities.set_axis(file_names(probabilities.columns), axis=1)
    return Results(
        obs={
            names.cluster: clusters.labels(posterior.assignment, index),
            names.confidence: probabilities.max(axis=1),
        },
        obsm={names.latent: posterior.latent, names.probabilities: columns},
    )


def model_results(
    options: Mapping[str, object],
    arguments: Mapping[str, object],
    training: Posterior,
    mixture: GaussianMixture,
    clusters: Clusters,
    tree: MergeTree,
    at: Callable[[int], Clusters],
) -> dict[str, Any]:
    """Entries of ``uns`` that every model has.

    Parameters
    ----------
    options, arguments
        Options of the model, and arguments of its set-up.
    training
        Posterior of the training cells.
    mixture
        Components.
    clusters
        Clusters in use.
    tree
        Merges of the components.
    at
        Function that returns the clusters of a level, by their number.
    """
    distance = separations(mixture)
    return {
        "params": parameters(options, arguments),
        "components": component_table(training.assignment, distance, clusters),
        "component_means": mixture.mean.detach().cpu().numpy(),
        "component_variances": mixture.var.detach().cpu().numpy(),
        "resolutions": level_table(tree, distance, clusters),
        "levels": level_names(tree, at),
        "versions": versions(),
    }


def parameters(options: Mapping[str, object], arguments: Mapping[str, object]) -> dict[str, object]:
    """Options of a model and of its set-up that are not ``None``: h5ad files cannot hold it."""
    values = {**options, **{name: arguments.get(name) for name in NOTED}}
    return {name: value for name, value in values.items() if value is not None}


def versions() -> dict[str, str]:
    """Versions of the packages that made the results."""
    return {name: version(name) for name in PACKAGES}
