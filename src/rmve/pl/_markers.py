"""The genes that mark each cluster."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import scanpy as sc
from anndata import AnnData

from rmve._keys import DEFAULT_KEY, Written
from rmve.pl._figure import DPI, require


def markers(
    adata: AnnData,
    table: pd.DataFrame,
    n: int = 5,
    key: str = DEFAULT_KEY,
    layer: str | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
    return_fig: bool = False,
    **kwargs,
):
    """Dot plot of the first markers of each cluster: colour is mean expression, size the share of cells that express it.

    Parameters
    ----------
    adata
        Cells that :meth:`rmve.RMVE.annotate` wrote to.
    table
        Table of markers, from :meth:`rmve.RMVE.get_markers`.
    n
        Number of genes for each cluster.
    key
        ``key_added`` of ``annotate``.
    layer
        Layer with counts to draw; ``None`` is ``adata.X``. Counts are normalised and their logarithm is drawn.
    show
        Whether to show the figure; ``None``: as in scanpy, unless ``save`` or ``return_fig`` is given.
    save
        File to write.
    return_fig
        Whether to return scanpy's ``DotPlot``, to change it.
    **kwargs
        Arguments of :func:`scanpy.pl.dotplot`.

    Returns
    -------
    The dictionary of axes, as scanpy has it, or with ``return_fig`` its ``DotPlot``; ``None`` if the figure was shown.

    Raises
    ------
    KeyError
        If ``adata`` lacks the clusters or a gene.
    """
    names = Written(key)
    column = require(adata.obs, "obs", names.cluster, key)
    genes = {
        str(cluster): group["gene"].head(n).tolist()
        for cluster, group in table.groupby("cluster", observed=True)
        if len(group)
    }
    chosen = list(dict.fromkeys(gene for group in genes.values() for gene in group))
    missing = [gene for gene in chosen if gene not in adata.var_names]
    if missing:
        raise KeyError(
            f"`adata.var_names` lacks {missing[0]!r}, a gene of `table`. Give the data that the table is of."
        )
    x = adata.X if layer is None else adata.layers[layer]
    x = x[:] if adata.isbacked else x
    small = AnnData(x[:, adata.var_names.get_indexer(chosen)].copy(), var=pd.DataFrame(index=chosen))
    small.obs_names = adata.obs_names
    small.obs[names.cluster] = column.astype("category").cat.remove_unused_categories()
    if float(small.X.max()) > 30 or layer is not None or _are_counts(small.X):
        total = x.sum(1)
        small.obs["total"] = total.A1 if hasattr(total, "A1") else total
        scale = 1e4 / small.obs["total"].clip(lower=1).to_numpy()[:, None]
        dense = small.X.toarray() if hasattr(small.X, "toarray") else small.X
        small.X = dense * scale
        sc.pp.log1p(small)
    kwargs = {"standard_scale": "var", "cmap": "Blues", "colorbar_title": "Mean expression,\nscaled by gene"} | kwargs
    plot = sc.pl.dotplot(small, genes, names.cluster, return_fig=True, show=False, **kwargs)
    if return_fig:
        return plot
    axes = plot.get_axes()
    if save is not None:
        plot.fig.savefig(save, dpi=DPI, bbox_inches="tight")
    if show or (show is None and save is None and plt.isinteractive()):
        plt.show()
        return None
    return axes


def _are_counts(x) -> bool:
    values = x.data if hasattr(x, "data") and not isinstance(x.data, memoryview) else x
    return bool((values[:1000] % 1 == 0).all())
