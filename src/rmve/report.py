"""A report of one run as a single HTML file: figures inside it, nothing fetched from elsewhere, no script."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from html import escape

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import rmve
from rmve import pl
from rmve._keys import DEFAULT_KEY, Written
from rmve.pl._colors import require_column
from rmve.pl._figure import require
from rmve.pl._panels import Drawn, figure_of

#: Browsers that honour it load nothing from elsewhere and run no script, whatever a name in the data holds.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
#: Markers of a cluster in its table.
N_MARKERS = 8
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; } th, td { padding: .2rem .9rem .2rem 0; text-align: left; vertical-align: top; }
table.numbers td + td, table.numbers th + th { text-align: right; }
thead th { border-bottom: 1px solid #999; } tbody th { font-weight: normal; }
figure { margin: 1rem 0 2rem; } img { max-width: 100%; height: auto; } figcaption { color: #555; max-width: 45rem; }
"""


def make_report(
    adata: AnnData,
    key: str = DEFAULT_KEY,
    labels_key: str | None = None,
    history: Mapping[str, pd.DataFrame] | None = None,
    rows: Mapping[str, object] | None = None,
    title: str = "RMVE",
    markers: pd.DataFrame | None = None,
) -> str:
    """Clusters, how they were found and how sure they are, as an HTML page.

    Parameters
    ----------
    adata
        Cells with the results of ``annotate``.
    key
        The ``key_added`` that ``annotate`` was given.
    labels_key
        Column of ``adata.obs`` to compare the clusters with.
    history
        Of the training, to draw its course.
    rows
        Names and values for the table at the top.
    title
        Heading.
    markers
        Table of :meth:`rmve.RMVE.get_markers`.

    Returns
    -------
    The page. Every name from the data is escaped.

    Raises
    ------
    KeyError
        If there are no results, or no such column.
    """
    names = Written(key)
    parameters = require(adata.uns, "uns", names.uns, key)
    if labels_key is not None:
        require_column(adata, labels_key)
    parts = [
        f"<h1>{escape(title)}</h1>",
        _table(rows or {"cells": f"{adata.n_obs:,}", "genes": f"{adata.n_vars:,}"}),
        "<h2>Clusters</h2>",
        _clusters(adata, names, markers),
        *_batches(adata, names),
        "<h2>Embedding</h2>",
        _figure(
            lambda: pl.embedding(adata, key),
            ("UMAP of the embedding. " if "X_umap" in adata.obsm else "")
            + "Each point is a cell, coloured by its cluster. Distances between far-apart groups mean little.",
        ),
    ]
    if labels_key is not None:
        parts += [
            _figure(lambda: pl.embedding(adata, key, color=labels_key), f"The same cells by {labels_key!r}."),
            _figure(
                lambda: pl.confusion(adata, labels_key, key, ax=_wide_axes(adata.obs[labels_key].nunique())),
                f"Share of the cells of each {labels_key!r} in each cluster. Several dark cells in a column are a cluster "
                "that joins labels, several in a row are a label that was divided.",
            ),
        ]
    if names.spatial in adata.obsm:
        parts += ["<h2>Place</h2>", *_place(adata, key)]
    parts += [
        "<h2>How sure the clusters are</h2>",
        _figure(
            lambda: pl.confidence(adata, key),
            "Largest cluster probability of each cell. It says how clear the model finds a cell, not how often it is right.",
        ),
        "<h2>How many clusters</h2>",
        _figure(
            lambda: pl.merge_tree(adata, key),
            "Components of one population merge first, then those nearest to each other. The default level is the finest one "
            "whose clusters are different populations.",
        ),
        _levels(parameters["resolutions"]),
        _figure(lambda: pl.components(adata, key), "Components of the mixture, their cells and their distances."),
        _figure(
            lambda: pl.separation(adata, key),
            "Overlap of each pair of components, from 0 (disjoint) to 1 (the same). Dark squares are groups that the "
            "embedding does not keep apart.",
        ),
    ]
    if history:
        parts += [
            "<h2>Training</h2>",
            _figure(
                lambda: pl.history(history),
                "The objective may rise where a term sets in; the bound should be flat in the end. If it still falls, "
                "train for longer.",
            ),
        ]
    versions = ", ".join(f"{name} {version}" for name, version in parameters["versions"].items())
    parts += ["<h2>Parameters</h2>", _table(parameters["params"]), f"<p>{escape(versions)}</p>"]
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f'<meta name="viewport" content="width=device-width"><meta name="generator" content="rmve {rmve.__version__}">'
        f"<title>{escape(title)}</title><style>{STYLE}</style>"
    )
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>\n' + "\n".join(parts) + "\n</body></html>\n"


def _table(rows: Mapping[str, object]) -> str:
    body = "".join(
        f"<tr><th>{escape(str(name))}</th><td>{escape(str(value))}</td></tr>" for name, value in rows.items()
    )
    return f"<table><tbody>{body}</tbody></table>"


def _numbers(head: Iterable[object], rows: Iterable[Sequence[object]]) -> str:
    """Table whose first column holds names, the others numbers."""
    top = "".join(f"<th>{escape(str(name))}</th>" for name in head)
    body = "".join(
        f"<tr><th>{escape(str(name))}</th>{''.join(f'<td>{escape(str(value))}</td>' for value in values)}</tr>"
        for name, *values in rows
    )
    return f'<table class="numbers"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'


def _clusters(adata: AnnData, names: Written, markers: pd.DataFrame | None) -> str:
    """Size, confidence and leading markers of each cluster."""
    cluster, confidence = adata.obs[names.cluster], adata.obs[names.confidence]
    components = adata.uns[names.uns]["components"]
    rows = []
    for name in cluster.cat.categories:
        its = (cluster == name).to_numpy()
        sure = f"{np.mean(confidence[its]):.2f}" if its.any() else ""
        n_components = int(((components["cluster"].astype(str) == str(name)) & components["active"]).sum())
        rows.append([name, f"{its.sum():,}", f"{its.mean():.1%}", sure, n_components])
        if markers is not None:
            genes = markers.loc[markers["cluster"].astype(str) == str(name), "gene"].head(N_MARKERS)
            rows[-1].append(", ".join(map(str, genes)))
    head = ["cluster", "cells", "share", "mean confidence", "components", *([] if markers is None else ["markers"])]
    return _numbers(head, rows)


def _batches(adata: AnnData, names: Written) -> list[str]:
    """Share of the cells of each batch in each cluster."""
    batch_key = adata.uns[names.uns]["params"].get("batch_key")
    if batch_key not in adata.obs:
        return []
    shares = pd.crosstab(adata.obs[names.cluster], adata.obs[batch_key], normalize="index")
    rows = (
        (name, *(f"{share:.0%}" for share in row)) for name, row in zip(shares.index, shares.to_numpy(), strict=True)
    )
    return [
        f"<h3>Batches</h3><p>Share of each {escape(repr(batch_key))} in a cluster.</p>",
        _numbers(["cluster", *shares], rows),
    ]


def _levels(table: pd.DataFrame) -> str:
    """Numbers of clusters that the run can be merged to, and the confusion of the two clusters that each level joins."""
    shown = [name for name in ("confusion", "support", "separation") if name in table]
    rows = (
        (int(n), *(f"{v:.2f}" if np.isfinite(v) else "" for v in row))
        for n, row in zip(table["n_clusters"], table[shown].to_numpy(float), strict=True)
    )
    return _numbers(["clusters", *shown], rows)


def _figure(draw: Callable[[], Drawn], caption: str) -> str:
    figure = figure_of(draw())
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    plt.close(figure)
    image = base64.b64encode(buffer.getvalue()).decode()
    text = escape(caption)
    return f'<figure><img alt="{text}" src="data:image/png;base64,{image}"><figcaption>{text}</figcaption></figure>'


def _wide_axes(n_rows: int) -> Axes:
    """Axes with room for long names."""
    return Figure(figsize=(9, 3.5 + 0.3 * n_rows), layout="constrained").subplots()


def _place(adata: AnnData, key: str) -> list[str]:
    """Figures of the map to space: true and predicted positions, and the error where it is known."""
    names = Written(key)
    spatial_key = adata.uns[names.uns]["params"].get("spatial_key")
    known = spatial_key in adata.obsm
    n_axes = adata.obsm[names.spatial].shape[1]
    parts = []
    for axes in [(0, 1), (0, 2)] if n_axes == 3 else [(0, 1)]:
        if known:
            parts.append(_figure(partial(pl.spatial, adata, key, axes=axes), "Where the cells are, by their cluster."))
        parts.append(
            _figure(
                partial(pl.spatial, adata, key, predicted=True, axes=axes),
                "Where the linear map puts them. Cells that cannot be placed gather in the middle.",
            )
        )
    if known:
        parts.append(
            _figure(
                lambda: pl.spatial_error(adata, key, arrows=True),
                "From the true to the predicted position, of cells whose position the model did not learn.",
            )
        )
    return parts
