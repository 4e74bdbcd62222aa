"""Tissue domains: cells seen with their surroundings."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from rmve import _validation as check
from rmve.data.on_disk import stored_chunks


def pool(values, graph, mean: bool = False) -> sp.csr_matrix:
    """Values of each cell and its neighbours, added up.

    Parameters
    ----------
    values
        Data in memory or on disk, shape ``(n, G)``.
    graph
        Neighbour graph, shape ``(n, n)``. Its weights are not used: what has one is a neighbour.
    mean
        Whether to return the mean instead of the sum.
    """
    own = sp.csr_matrix(graph, dtype=np.float32, copy=True)
    own.data = np.ones_like(own.data)
    own.setdiag(1.0)
    stored = sp.vstack([sp.csr_matrix(block, dtype=np.float32) for block in stored_chunks(values)], format="csr")
    pooled = own @ stored
    if mean:
        pooled = pooled.multiply(1.0 / np.asarray(own.sum(1)).reshape(-1, 1))
    return sp.csr_matrix(pooled)


def pool_neighbors(adata: AnnData, neighbors_key: str, layer: str | None = None, key_added: str = "pooled") -> None:
    """Add to each cell's counts those of its neighbours, as a new layer.

    Sums of counts are counts: RMVE trained on the new layer, with the same graph as ``neighbors_key``, finds domains of the
    tissue where it finds cell types otherwise.

    Parameters
    ----------
    adata
        Cells with a graph, such as the one of ``squidpy.gr.spatial_neighbors``.
    neighbors_key
        Name of the graph in ``adata.uns`` or ``adata.obsp``, as for :meth:`rmve.RMVE.setup_anndata`. Its weights are not
        used: what has one is a neighbour.
    layer
        Layer with the counts; ``None`` is ``adata.X``.
    key_added
        Name of the new layer; one of an earlier call is replaced.

    Raises
    ------
    KeyError
        If there is no such graph or layer.
    ValueError
        If ``key_added`` is ``layer``, the values are no counts, or the graph does not fit the cells.

    Examples
    --------
    >>> import rmve, scanpy as sc
    >>> adata = rmve.datasets.toy(n_cells=200)
    >>> sc.pp.neighbors(adata, use_rep="spatial", key_added="spatial_neighbors")
    >>> rmve.pool_neighbors(adata, "spatial_neighbors")
    >>> rmve.RMVE.setup_anndata(adata, layer="pooled", neighbors_key="spatial_neighbors")
    """
    check.check_anndata(adata)
    if key_added == layer:
        raise ValueError(f"`key_added={key_added!r}` would replace the counts. Choose another name.")
    check.check_values(adata, layer, "nb", check.check_finite(adata, layer))
    graph = check.find_graph(adata, neighbors_key)
    adata.layers[key_added] = pool(check.get_matrix(adata, layer), graph)
