"""Clusters against known labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes

from rmve._keys import DEFAULT_KEY, Written
from rmve.pl._colors import require_column
from rmve.pl._docs import documented
from rmve.pl._figure import finish, new_axes, require
from rmve.pl._names import plain

#: Largest table, in entries, whose counts are written into it.
MAX_WRITTEN = 600


@documented
def confusion(
    adata: AnnData,
    labels_key: str,
    key: str = DEFAULT_KEY,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes:
    """How the cells of each label spread over the clusters.

    Parameters
    ----------
    adata
        Cells that :meth:`rmve.RMVE.annotate` wrote to.
    labels_key
        Column of ``adata.obs`` with the labels; cells without a label are left out.
    key
        The ``key_added`` of ``annotate``.
    %(ax)s
    %(show)s

    Returns
    -------
    The axes: a row for each label, a column for each cluster that holds cells. Colours are shares of the row, numbers
    are cells. Labels and clusters that belong together stand near the diagonal.

    Raises
    ------
    %(missing)s
    ValueError
        If no cell has both a label and a cluster.
    """
    names = Written(key)
    require(adata.obs, "obs", names.cluster, key)
    labels, clusters = require_column(adata, labels_key), require_column(adata, names.cluster)
    counts = pd.crosstab(labels, clusters)
    if counts.size == 0:
        raise ValueError(f"No cell has a value in both `adata.obs[{labels_key!r}]` and `adata.obs[{names.cluster!r}]`.")
    rows, columns = diagonal_order(counts.to_numpy())
    counts = counts.iloc[rows, columns]
    shares = counts.div(counts.sum(axis=1), axis=0).to_numpy()

    n_rows, n_columns = counts.shape
    axes = new_axes(ax, (2.8 + 0.42 * n_columns, max(2.2, 1.4 + 0.32 * n_rows)))
    mesh = axes.pcolormesh(shares, cmap="Blues", vmin=0, vmax=1, edgecolors="white", linewidth=0.8)
    row_names = [f"{plain(label)} ({n:,})" for label, n in zip(counts.index, counts.sum(axis=1), strict=True)]
    axes.set(yticks=np.arange(n_rows) + 0.5, yticklabels=row_names, ylabel=plain(labels_key))
    axes.set(xticks=np.arange(n_columns) + 0.5, xlabel=plain(names.cluster))
    column_names = [plain(name) for name in counts.columns]
    long = max(map(len, column_names)) > 3
    axes.set_xticklabels(column_names, rotation=45 if long else 0, ha="right" if long else "center")
    axes.invert_yaxis()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if counts.size <= MAX_WRITTEN:
        for i, j in zip(*np.nonzero(counts.to_numpy()), strict=True):
            shade = "white" if shares[i, j] > 0.55 else "0.25"
            axes.text(j + 0.5, i + 0.5, f"{counts.iat[i, j]}", ha="center", va="center", fontsize=7.5, color=shade)
    bar = axes.figure.colorbar(mesh, ax=axes, shrink=0.7, aspect=18, pad=0.02, ticks=[0, 0.5, 1])
    bar.set_label("share of the label's cells")
    bar.outline.set_visible(False)
    return finish(axes, ax, show, save)


def diagonal_order(counts: np.ndarray) -> tuple[list[int], list[int]]:
    """Order of rows and columns that brings large counts near the diagonal.

    A row stands where its largest count is. A column follows the one in which its main row, the row that it shares most
    with, has its largest count; apart from that columns keep their order.

    Parameters
    ----------
    counts
        Shape ``(n_rows, n_columns)``.

    Returns
    -------
    The order of the rows and of the columns.
    """
    main_column = counts.argmax(1)
    leader = main_column[counts.argmax(0)]
    for _ in range(len(leader)):  # a leader may follow another
        leader = leader[leader]
    columns = sorted(range(counts.shape[1]), key=lambda column: (leader[column], column != leader[column], column))
    place = np.argsort(columns)
    rows = sorted(range(counts.shape[0]), key=lambda row: (place[main_column[row]], -counts[row].max(), row))
    return rows, columns
