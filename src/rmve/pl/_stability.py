"""How well runs agree."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from rmve.pl._docs import documented
from rmve.pl._figure import CUT, despine, finish, new_axes

if TYPE_CHECKING:
    from rmve.clusters.stability import Stability

#: Most runs whose agreement is written into the matrix.
MAX_WRITTEN = 8
#: Colours of agreement and of the runs' own numbers.
LINE, BAR = "#0072b2", "0.85"


@documented
def stability(
    stability: Stability,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Agreement between runs against the number of clusters, and between each pair of runs.

    Parameters
    ----------
    stability
        From :meth:`rmve.RMVE.stability`.
    ax
        Axes to draw on; ``None`` makes a figure. The matrix of the runs is drawn on axes inset to its right.
    %(show)s

    Returns
    -------
    The axes with the mean adjusted Rand index over pairs of runs (the band is one standard deviation) at each number of
    clusters that their merge trees can be cut to, the share of the runs that find this number, and a dashed line at
    the recommended one. The matrix beside it compares the clusters that the runs ended with.

    Notes
    -----
    To see how stable each cell is, write :attr:`rmve.Stability.cell_stability` into a column of ``adata.obs`` and give it
    to :func:`rmve.pl.embedding` as ``color``.
    """
    table, n_runs = stability.resolutions, len(stability.agreement)
    table = table[(table["n_pairs"] > 0) | (table["n_found"] > 0)]
    numbers, mean = table["n_clusters"].to_numpy(), table["agreement"].to_numpy()
    sd = table["sd"].fillna(0.0).to_numpy()
    alone = n_runs - table["n_found"].sum()  # runs that find one cluster
    axes = new_axes(ax, (7.4, 3.2))
    axes.bar(
        [1, *numbers],
        np.array([alone, *table["n_found"]]) / n_runs,
        width=0.8,
        color=BAR,
        label="share of runs that find it",
        zorder=1,
    )
    low, high = np.maximum(mean - sd, -1), np.minimum(mean + sd, 1)
    axes.fill_between(numbers, low, high, color=LINE, alpha=0.2, linewidth=0, zorder=2)
    marker = "o" if len(numbers) <= 30 else None
    axes.plot(numbers, mean, color=LINE, marker=marker, markersize=4, label="agreement (ARI)", zorder=3, clip_on=False)
    axes.axvline(stability.recommended, label=f"recommended: {stability.recommended}", zorder=1.5, **CUT)
    last = max([2, stability.recommended, *numbers])
    axes.set(xlim=(0.4, last + 0.6), ylim=(min(0.0, np.nanmin([0.0, *low]) - 0.02), 1.02), xlabel="number of clusters")
    axes.set(ylabel="agreement between runs")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10, min_n_ticks=1))
    axes.legend(frameon=False, fontsize=8, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0), columnspacing=1.2)
    despine(axes, "top", "right")
    _draw_runs(axes, stability)
    return finish(axes, ax, show, save)


def _draw_runs(axes: Axes, stability: Stability) -> None:
    """Agreement of each pair of runs, on axes of their own to the right."""
    matrix = stability.agreement.to_numpy()
    n_runs = len(matrix)
    beside = axes.inset_axes((1.12, 0.0, 0.5, 1.0))
    beside.pcolormesh(matrix, cmap="Blues", vmin=0, vmax=1, edgecolors="white", linewidth=0.8)
    if n_runs <= MAX_WRITTEN:
        for (i, j), value in np.ndenumerate(matrix):
            shade = "white" if value > 0.55 else "0.25"
            beside.text(j + 0.5, i + 0.5, f"{value:.2f}", ha="center", va="center", fontsize=7, color=shade)
    names = stability.agreement.index.astype(str)
    ticks = np.arange(n_runs) + 0.5
    shown = slice(None, None, 1 + n_runs // 12)
    beside.set_xticks(ticks[shown], names[shown])
    beside.set_yticks(ticks[shown], names[shown])
    beside.set(xlabel="run", ylabel="run", aspect="equal", anchor="W")
    beside.set_title(f"runs as they ended: mean {stability.mean_agreement:.2f}", fontsize=9)
    beside.invert_yaxis()
    beside.tick_params(length=0, labelsize=8)
    beside.spines[:].set_visible(False)
