"""From a trained model back into AnnData."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import pandas as pd
from anndata import AnnData

from rmve import _validation as check
from rmve._keys import Written
from rmve.clusters._clusters import Clusters
from rmve.clusters._names import file_names
from rmve.model._encode import Posterior
from rmve.model._snapshot import registered_columns

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


def place_results(placed: pd.DataFrame, names: Written) -> Results:
    """Predicted coordinates of cells, from :func:`rmve.model._places.place`."""
    return Results(obs={names.spatial_sd: placed["sd"]}, obsm={names.spatial: placed.drop(columns="sd").to_numpy()})


def parameters(options: Mapping[str, object], arguments: Mapping[str, object]) -> dict[str, object]:
    """Options of a model and of its set-up that are not ``None``: h5ad files cannot hold it."""
    values = {**options, **{name: arguments.get(name) for name in NOTED}}
    return {name: value for name, value in values.items() if value is not None}


def versions() -> dict[str, str]:
    """Versions of the packages that made the results."""
    return {name: version(name) for name in PACKAGES}
