"""What all figures share: required keys, axes, colours, labels that keep apart, showing and saving."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.patheffects as effects
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes

from rmve._keys import DEFAULT_KEY, Written
from rmve.pl._names import plain

#: Resolution of saved bitmaps.
DPI = 200
#: Line at the recommended number of clusters.
CUT: dict[str, Any] = {"color": "#d55e00", "linestyle": (0, (4, 2)), "linewidth": 1.6}


def require(container: Mapping, where: str, name: str, key_added: str) -> Any:
    """An entry that ``annotate`` writes.

    Parameters
    ----------
    container, where
        Part of the AnnData and what it is called: ``adata.obs`` and ``"obs"``.
    name
        The entry.
    key_added
        ``key_added`` of ``annotate``.

    Raises
    ------
    KeyError
        If it is missing.
    """
    if name not in container:
        argument = "" if key_added == DEFAULT_KEY else f"key_added={key_added!r}"
        raise KeyError(f"`adata.{where}[{name!r}]` is missing. Call `model.annotate({argument})` first.")
    return container[name]


def new_axes(ax: Axes | None, figsize: tuple[float, float]) -> Axes:
    """``ax``, or the axes of a new figure.

    Parameters
    ----------
    ax
        Where to draw, if given.
    figsize
        Width and height of a new figure, in inches.
    """
    return plt.subplots(figsize=figsize, layout="constrained")[1] if ax is None else ax


def finish(ax: Axes, given: Axes | None, show: bool | None, save: str | Path | None) -> Axes:
    """Save and show a figure as asked.

    Parameters
    ----------
    ax
        The axes drawn on.
    given
        The axes that the caller passed, if any.
    show
        Whether to show the figure; ``None``: in an interactive session, unless the caller passed axes.
    save
        File to write; its ending says the format.

    Returns
    -------
    ``ax``
    """
    if save is not None:
        ax.figure.canvas.figure.savefig(save, dpi=DPI, bbox_inches="tight")
    if show or (show is None and given is None and plt.isinteractive()):
        plt.show()
    return ax


def mixture_components(adata: AnnData, key: str) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Table, means and variances of the components that hold training cells, the largest first.

    Parameters
    ----------
    adata
        Cells that ``annotate`` wrote to.
    key
        Its ``key_added``.

    Raises
    ------
    KeyError
        If they are missing.
    """
    names = Written(key)
    entries = require(adata.uns, "uns", names.uns, key)
    parts = ("components", "component_means", "component_variances")
    table, means, variances = (require(entries, f"uns[{names.uns!r}]", part, key) for part in parts)
    rows = np.flatnonzero(table["active"])
    rows = rows[np.argsort(-table["n_cells"].to_numpy()[rows], kind="stable")]
    return table.iloc[rows], means[rows], variances[rows]


def row_names(clusters: pd.Series) -> list[str]:
    """Name of the cluster, with the component where a cluster has several."""
    several = clusters.duplicated(keep=False)
    return [
        f"{plain(cluster)} ({k})" if many else plain(cluster)
        for k, cluster, many in zip(clusters.index, clusters, several, strict=True)
    ]


def despine(ax: Axes, *sides: str) -> None:
    """Hide sides of the frame: ``"top"``, ``"right"``, ``"bottom"``, ``"left"``."""
    ax.spines[list(sides)].set_visible(False)


def write_names(ax: Axes, positions: np.ndarray, names: Sequence[str], fontsize: float = 9) -> None:
    """Write names at positions, moved apart where they would overlap.

    Parameters
    ----------
    ax
        Where to draw; its limits and the layout of its figure should be final.
    positions
        Shape ``(n, 2)``, in data coordinates.
    names
        Of length ``n``.
    fontsize
        In points.
    """
    outline = [effects.withStroke(linewidth=2.5, foreground="white")]
    texts = [
        ax.text(
            x,
            y,
            plain(name),
            ha="center",
            va="center",
            fontsize=fontsize,
            weight="bold",
            path_effects=outline,
            zorder=5,
        )
        for (x, y), name in zip(positions, names, strict=True)
    ]
    if len(texts) < 2:
        return
    ax.figure.canvas.figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in texts]
    center = np.array([(box.x0 + box.x1, box.y0 + box.y1) for box in boxes]) / 2
    half = np.array([(box.width, box.height) for box in boxes]) / 2 + 2
    frame = ax.get_window_extent()
    center = spread(center, half, np.array([frame.min, frame.max]))
    for text, position in zip(texts, ax.transData.inverted().transform(center), strict=True):
        text.set_position(position)


def spread(center: np.ndarray, half: np.ndarray, frame: np.ndarray, steps: int = 300) -> np.ndarray:
    """Move rectangles apart, each along the direction of least overlap, and keep them inside a frame.

    Parameters
    ----------
    center, half
        Centres and half widths and heights, shape ``(n, 2)``.
    frame
        Lower left and upper right corner, shape ``(2, 2)``.
    steps
        Most rounds of moves.

    Returns
    -------
    New centres.
    """
    center = center.astype(float).copy()
    low, high = frame[0] + half, frame[1] - half
    low, high = np.minimum(low, (low + high) / 2), np.maximum(high, (low + high) / 2)
    first, second = np.triu_indices(len(center), 1)
    for _ in range(steps):
        offset = center[second] - center[first]
        overlap = half[first] + half[second] - np.abs(offset)
        clash = np.flatnonzero((overlap > 1e-6).all(1))
        if len(clash) == 0:
            break
        axis = overlap[clash].argmin(1)
        push = np.zeros((len(clash), 2))
        rows = np.arange(len(clash))
        sign = np.where(offset[clash][rows, axis] < 0, -1.0, 1.0)
        push[rows, axis] = sign * (overlap[clash][rows, axis] / 2 + 0.1)
        np.add.at(center, first[clash], -push)
        np.add.at(center, second[clash], push)
        center = np.clip(center, low, high)
    return center
