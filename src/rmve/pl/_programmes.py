"""The genes of each latent dimension."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from rmve.pl._figure import DPI, despine
from rmve.pl._names import plain

#: Colours of genes that rise and that fall.
UP, DOWN = "#b2182b", "#2166ac"
N_COLUMNS = 5


def gene_programmes(
    table: pd.DataFrame, n: int = 5, show: bool | None = None, save: str | Path | None = None
) -> Figure:
    """Bars of the genes that rise and fall most along each latent dimension.

    Parameters
    ----------
    table
        Table of :meth:`rmve.RMVE.get_gene_programmes`.
    n
        Number of genes for each direction.
    show
        Whether to show the figure; ``None``: in an interactive session.
    save
        File to write.

    Returns
    -------
    The figure, with axes for each dimension, those of the largest changes first.
    """
    strength = table.groupby("dimension")["change"].agg(lambda change: change.abs().max()).sort_values(ascending=False)
    rows = -(-len(strength) // N_COLUMNS)
    columns = min(N_COLUMNS, len(strength))
    figure, grid = plt.subplots(
        rows, columns, figsize=(2.3 * columns, 0.6 + rows * (0.5 + 0.34 * n)), layout="constrained", squeeze=False
    )
    limit = 1.05 * strength.max()
    for axes, dimension in zip(grid.flat, strength.index, strict=False):
        of_it = table[table["dimension"] == dimension]
        up = of_it[of_it["direction"] == "up"].head(n)
        down = of_it[of_it["direction"] == "down"].head(n).iloc[::-1]
        shown = pd.concat([up, down])
        places = np.arange(len(shown))
        axes.barh(places, shown["change"], color=np.where(shown["change"] > 0, UP, DOWN), height=0.75)
        axes.set(yticks=places, yticklabels=[plain(gene, 14) for gene in shown["gene"]], xlim=(-limit, limit))
        axes.invert_yaxis()
        axes.axvline(0, color="0.7", linewidth=0.8)
        axes.set_title(f"dimension {dimension}", fontsize=9)
        axes.tick_params(labelsize=7)
        axes.tick_params(axis="y", length=0)
        despine(axes, "top", "right", "left")
    for axes in grid.flat[len(strength) :]:
        axes.set_visible(False)
    figure.supxlabel("change over one standard deviation (log2 for counts)", fontsize=9)
    if save is not None:
        figure.savefig(save, dpi=DPI, bbox_inches="tight")
    if show or (show is None and plt.isinteractive()):
        plt.show()
    return figure
