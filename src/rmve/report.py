"""A report of one run as a single HTML file: figures inside it, nothing fetched from elsewhere, no script."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import AnnData
from jinja2 import Environment, PackageLoader
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import rmve
from rmve import pl
from rmve._keys import DEFAULT_KEY, Written
from rmve.pl._colors import require_column
from rmve.pl._figure import require
from rmve.pl._panels import Drawn, figure_of

#: Page with places for figures, tables and names, which are escaped.
TEMPLATE = Environment(loader=PackageLoader("rmve"), autoescape=True, keep_trailing_newline=True).get_template(
    "report.html"
)
#: Markers of a cluster in its table.
N_MARKERS = 8


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
    params = parameters["params"]
    batch_key, spatial_key = params.get("batch_key"), params.get("spatial_key")

    def draw(name: str, **options) -> str:
        return _png(getattr(pl, name)(adata, key=key, **options))

    return TEMPLATE.render(
        title=title,
        version=rmve.__version__,
        draw=draw,
        rows=rows or {"cells": f"{adata.n_obs:,}", "genes": f"{adata.n_vars:,}"},
        clusters=_clusters(adata, names, markers),
        batch_key=batch_key,
        batches=_batches(adata.obs[names.cluster], adata.obs[batch_key]) if batch_key in adata.obs else None,
        with_umap="X_umap" in adata.obsm,
        labels_key=labels_key,
        wide_axes=None if labels_key is None else _wide_axes(adata.obs[labels_key].nunique()),
        with_positions=spatial_key in adata.obsm,
        planes=_planes(adata.obsm[names.spatial].shape[1]) if names.spatial in adata.obsm else [],
        levels=_levels(parameters["resolutions"]),
        history=_png(pl.history(history)) if history else None,
        parameters=params,
        versions=", ".join(f"{name} {version}" for name, version in parameters["versions"].items()),
    )


def _clusters(adata: AnnData, names: Written, markers: pd.DataFrame | None) -> pd.DataFrame:
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
    return pd.DataFrame(rows, columns=head)


def _batches(cluster: pd.Series, batch: pd.Series) -> pd.DataFrame:
    """Share of the cells of each batch in each cluster."""
    shares = pd.crosstab(cluster, batch, normalize="index")
    rows = [
        [name, *(f"{share:.0%}" for share in row)] for name, row in zip(shares.index, shares.to_numpy(), strict=True)
    ]
    return pd.DataFrame(rows, columns=["cluster", *shares])


def _levels(table: pd.DataFrame) -> pd.DataFrame:
    """Numbers of clusters that the run can be merged to, and the confusion of the two clusters that each level joins."""
    shown = [name for name in ("confusion", "support", "separation") if name in table]
    rows = [
        [int(n), *(f"{value:.2f}" if np.isfinite(value) else "" for value in row)]
        for n, row in zip(table["n_clusters"], table[shown].to_numpy(float), strict=True)
    ]
    return pd.DataFrame(rows, columns=["clusters", *shown])


def _planes(n_axes: int) -> list[tuple[int, int]]:
    """Pairs of coordinates to draw."""
    return [(0, 1), (0, 2)] if n_axes == 3 else [(0, 1)]


def _png(drawn: Drawn) -> str:
    """A figure as text, which is then closed."""
    figure, buffer = figure_of(drawn), io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    plt.close(figure)
    return base64.b64encode(buffer.getvalue()).decode()


def _wide_axes(n_rows: int) -> Axes:
    """Axes with room for long names."""
    return Figure(figsize=(9, 3.5 + 0.3 * n_rows), layout="constrained").subplots()
