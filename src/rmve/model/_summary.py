"""A model in a few lines of text."""

from __future__ import annotations

from collections.abc import Mapping

from anndata import AnnData

from rmve.clusters._clusters import Clusters
from rmve.model._results import NOTED
from rmve.spatial import SpatialMap


def summary(
    name: str,
    adata: AnnData | None,
    options: Mapping[str, object],
    arguments: Mapping[str, object],
    clusters: Clusters | None,
    spatial_map: SpatialMap | None,
) -> str:
    """What ``repr`` of a model shows.

    Parameters
    ----------
    name
        Name of its class.
    adata
        Its cells; ``None`` if it has none.
    options, arguments
        Options of the model, and arguments of its set-up.
    clusters
        Clusters in use; ``None`` if it is not trained.
    spatial_map
        Map to coordinates; ``None`` if there is none.
    """
    size = "no data" if adata is None else f"{adata.n_obs:,} cells, {adata.n_vars:,} genes"
    state = "not trained: call `model.train()`"
    if clusters is not None:
        n = len(clusters)
        state = f"{n} cluster{'s' * (n != 1)} of {len(clusters.of_component)} components"
        state += f": {', '.join(clusters.names[:8])}{', ...' * (n > 8)}"
    given = {key: options[key] for key in ("gene_likelihood", "n_latent")} | {key: arguments.get(key) for key in NOTED}
    text = ", ".join(f"{key}={value!r}" for key, value in given.items() if value is not None)
    lines = [f"{name} on {size}", state, text]
    return "\n    ".join(lines if spatial_map is None else [*lines, repr(spatial_map)])
