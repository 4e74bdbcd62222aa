"""Genes of clusters and of latent dimensions, from a trained model and its training cells."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd
from scvi.data import AnnDataManager

from rmve.clusters._clusters import Clusters
from rmve.clusters.initialization import sample_rows
from rmve.data.on_disk import read_rows
from rmve.markers import marker_table
from rmve.model._decode import change_along
from rmve.model._encode import encode
from rmve.model._novelty import read_expression
from rmve.model._setup import matrix_of, median_total
from rmve.module import RMVEModule
from rmve.programmes import MAX_CELLS, programme_table


def markers(module: RMVEModule, manager: AnnDataManager, clusters: Clusters, n: int) -> pd.DataFrame:
    """Genes that mark each cluster; see :meth:`rmve.RMVE.get_markers`.

    Parameters
    ----------
    module
        Trained networks.
    manager
        Manager of the training data.
    clusters
        Clusters in use.
    n
        Number of genes for each cluster.
    """
    rows, genes = sample_rows(manager.adata.n_obs), manager.adata.var_names.astype(str)
    cluster = np.array(clusters.of_component)[encode(module, manager, rows).assigned]
    counts = module.likelihood.takes_counts
    values, _ = read_expression(matrix_of(manager), rows, median_total(manager) if counts else None)
    return marker_table(values, cluster, clusters.names, genes.to_list(), n, np.expm1 if counts else None)


def programmes(
    module: RMVEModule, manager: AnnDataManager, load: Callable[[np.ndarray], Iterable[dict]], n: int
) -> pd.DataFrame:
    """Genes that each latent dimension stands for; see :meth:`rmve.RMVE.get_gene_programmes`.

    Parameters
    ----------
    module
        Trained networks.
    manager
        Manager of the training data.
    load
        Function that returns mini-batches of rows.
    n
        Number of genes for each direction of a dimension.
    """
    rows, genes = sample_rows(manager.adata.n_obs, MAX_CELLS), manager.adata.var_names.astype(str)
    steps = np.diag(encode(module, manager, rows).latent.std(0))
    weight = None
    if module.likelihood.takes_counts:
        weight = np.sqrt(np.asarray(read_rows(matrix_of(manager), rows).mean(axis=0)).ravel())
    return programme_table(change_along(module, load(rows), steps), genes.to_numpy(dtype=object), n, weight)
