"""Domains of a tissue: clusters of cells with their surroundings."""

from __future__ import annotations

import numpy as np
from anndata import AnnData

from rmve import _validation as check
from rmve.likelihoods import get_likelihood
from rmve.model import RMVE
from rmve.spatial._domains import pool
from rmve.spatial._surroundings import surroundings

#: Name of the graph in the AnnData that a model of domains is trained on.
GRAPH = "surroundings"


def spatial_domains(
    adata: AnnData,
    spatial_key: str = "spatial",
    layer: str | None = None,
    section_key: str | None = None,
    n_domains: int | None = None,
    n_neighbors: int | None = None,
    gene_likelihood: str = "nb",
    key_added: str = "rmve_domain",
    **train_kwargs,
) -> RMVE:
    """Divide a tissue into domains, and write them into ``adata.obs``.

    Each cell gets the values of the cells around it: the sum of counts, the mean of other values. RMVE clusters these, with
    the same neighbours in its Potts prior. A domain is a part of the tissue with a composition of its own, where a cluster of
    single cells is a type.

    Parameters
    ----------
    adata
        Cells or spots, all with a position.
    spatial_key
        Key of ``adata.obsm`` with the positions, shape ``(n, 1 to 3)``, in one unit.
    layer
        Layer with the values; ``None`` is ``adata.X``.
    section_key
        Column of ``adata.obs`` with the section of each cell. Cells of different sections are no neighbours, and sections are
        batches of the model.
    n_domains
        Number of domains; ``None`` finds it.
    n_neighbors
        Number of neighbours. ``None`` takes the first ring of spots where they lie on a hexagonal or square grid, and 15 where
        they do not.
    gene_likelihood
        Likelihood, as in :class:`rmve.RMVE`: ``"nb"`` for counts, ``"normal"`` for log-normalised values.
    key_added
        Column of ``adata.obs`` for the domains; that of an earlier call is replaced.
    **train_kwargs
        Passed to :meth:`rmve.RMVE.train`.

    Returns
    -------
    The trained model. Its cells are a copy with the pooled values; ``merge_components`` gives finer or coarser domains.

    Raises
    ------
    KeyError
        If a key is missing.
    ValueError
        If a cell has no position or section, the values do not fit the likelihood, or ``key_added`` holds something else.

    Examples
    --------
    >>> import rmve
    >>> adata = rmve.datasets.toy(n_cells=200)
    >>> model = rmve.spatial_domains(adata, layer="counts", max_epochs=2, quiet=True)
    >>> adata.obs["rmve_domain"].cat.categories.size == model.n_clusters
    True
    """
    check.check_anndata(adata)
    likelihood = get_likelihood(gene_likelihood)
    positions = check.get_all_coordinates(adata, spatial_key, "adata", "cell")
    if n_neighbors is not None:
        check.check_positive_int("n_neighbors", n_neighbors)
    sections = None
    if section_key is not None:
        if section_key not in adata.obs:
            raise KeyError(f"`section_key={section_key!r}` is not a column of `adata.obs`.")
        if adata.obs[section_key].isna().any():
            raise ValueError(f"`adata.obs[{section_key!r}]` has missing values. Give each cell a section.")
        sections = adata.obs[section_key].astype(str).to_numpy()
    check.check_free(adata, key_added, [("obs", key_added)], "spatial_domains")
    check.check_values(adata, layer, gene_likelihood, check.check_finite(adata, layer))
    graph = surroundings(positions, sections, n_neighbors)
    values = pool(check.get_matrix(adata, layer), graph, mean=not likelihood.takes_counts)
    obs = adata.obs[[] if section_key is None else [section_key]].copy()
    pooled = AnnData(values, obs=obs, var=adata.var[[]].copy(), obsp={GRAPH: graph})
    batch_key = section_key if sections is not None and len(set(sections)) > 1 else None
    RMVE.setup_anndata(pooled, batch_key=batch_key, neighbors_key=GRAPH)
    model = RMVE(pooled, n_components=n_domains, gene_likelihood=gene_likelihood)
    model.train(**train_kwargs)
    domains = model.predict()
    degree = float(np.median(np.asarray(graph.sum(1))))
    adata.obs[key_added] = domains
    params = {"function": "spatial_domains", "spatial_key": spatial_key, "layer": layer or "X", "n_neighbors": degree}
    adata.uns[key_added] = {"params": params}
    return model
