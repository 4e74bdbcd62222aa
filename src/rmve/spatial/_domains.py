"""Tissue domains: cells seen with their surroundings."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from rmve import _validation as check


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
    graph = sp.csr_matrix(check.find_graph(adata, neighbors_key), copy=True)
    graph.data = np.ones_like(graph.data)
    graph.setdiag(1.0)
    counts = sp.csr_matrix(check.get_matrix(adata, layer))
    adata.layers[key_added] = sp.csr_matrix(graph.astype(np.float32) @ counts.astype(np.float32))
