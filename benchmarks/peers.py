"""What RMVE is compared with, each through its own package and with its own defaults."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
import torch
from data import Dataset
from runs import Clusters, Meter, Method, cached_embedding, measured, quiet
from scores import score
from sklearn.cluster import KMeans
from sklearn.mixture import GaussianMixture

#: Resolutions that the oracle chooses from.
RESOLUTIONS = np.geomspace(0.05, 4.0, 40)
QUIET = {"enable_progress_bar": False, "enable_model_summary": False}


def pca_embedding(adata: ad.AnnData, seed: int) -> np.ndarray:
    """scanpy's standard pipeline: normalise, log1p, scale, 50 principal components."""
    work = adata.copy()
    sc.pp.normalize_total(work)
    sc.pp.log1p(work)
    sc.pp.scale(work, max_value=10)
    sc.pp.pca(work, n_comps=min(50, work.n_vars - 1), random_state=seed)
    return work.obsm["X_pca"]


def scvi_embedding(adata: ad.AnnData, seed: int, batch_key: str | None = None) -> np.ndarray:
    """scVI with its defaults."""
    import scvi

    work = adata.copy()
    scvi.settings.seed = seed
    scvi.model.SCVI.setup_anndata(work, batch_key=batch_key)
    model = scvi.model.SCVI(work)
    model.train(**QUIET)
    scvi.settings.seed = None
    return model.get_latent_representation()


def drvi_embedding(adata: ad.AnnData, seed: int) -> np.ndarray:
    """DRVI with 32 latent dimensions, as its documentation suggests for small data, and its other defaults."""
    import drvi
    import scvi

    work = adata.copy()
    scvi.settings.seed = seed
    drvi.model.DRVI.setup_anndata(work, is_count_data=True)
    model = drvi.model.DRVI(work, n_latent=32)
    model.train(**QUIET)
    scvi.settings.seed = None
    return model.get_latent_representation()


def neighbor_graph(embedding: np.ndarray, seed: int) -> ad.AnnData:
    """scanpy's graph of 15 nearest neighbours, for :func:`leiden`."""
    adata = ad.AnnData(obsm={"X": embedding}, obs=pd.DataFrame(index=np.arange(len(embedding)).astype(str)))
    sc.pp.neighbors(adata, use_rep="X", n_neighbors=15, random_state=seed)
    return adata


def leiden(graph: ad.AnnData, resolution: float, seed: int) -> np.ndarray:
    """Leiden clusters of a neighbour graph."""
    sc.tl.leiden(graph, resolution, flavor="igraph", n_iterations=2, directed=False, random_state=seed)
    return graph.obs["leiden"].astype(str).to_numpy()


def best_leiden(graph: ad.AnnData, truth: np.ndarray, seed: int) -> np.ndarray:
    """Leiden clusters at the resolution that an oracle chooses."""
    return max((leiden(graph, r, seed) for r in RESOLUTIONS), key=lambda labels: score(truth, labels)["ari"])


def cluster_embedding(embedding: np.ndarray, cost: Meter, dataset: Dataset, seed: int) -> dict[str, Clusters]:
    """k-means and a Gaussian mixture at the true K; Leiden at 1.0, at the true K, and as an oracle would set it."""
    n_known = dataset.n_known
    with measured() as meter:
        graph = neighbor_graph(embedding, seed)
    cost_of_graph = cost + meter

    def leiden_at(resolution: float) -> np.ndarray:
        return leiden(graph, resolution, seed)

    def leiden_at_k() -> np.ndarray:
        low, high = 0.01, 4.0
        for _ in range(12):
            middle = (low * high) ** 0.5
            labels = leiden_at(middle)
            n_found = len(np.unique(labels))
            if n_found == n_known:
                break
            low, high = (middle, high) if n_found < n_known else (low, middle)
        return labels

    def timed(cluster: Callable[[], np.ndarray], earlier: Meter) -> Clusters:
        with measured() as meter:
            labels = cluster()
        return Clusters(labels, earlier + meter)

    gmm = GaussianMixture(n_known, covariance_type="diag", n_init=5, reg_covar=1e-4, random_state=seed)
    return {
        "k-means, known K": timed(lambda: KMeans(n_known, n_init=20, random_state=seed).fit_predict(embedding), cost),
        "GMM, known K": timed(lambda: gmm.fit_predict(embedding), cost),
        "Leiden, known K": timed(leiden_at_k, cost_of_graph),
        "Leiden 1.0, unknown K": timed(lambda: leiden_at(1.0), cost_of_graph),
        "Leiden, oracle": timed(lambda: best_leiden(graph, dataset.truth, seed), cost_of_graph),
    }


def cluster_with(name: str, embed: Callable[[ad.AnnData, int], np.ndarray]) -> Method:
    """All ways of clustering one embedding."""

    def method(dataset: Dataset, seed: int, shared: Path) -> dict[str, Clusters]:
        embedding, cost = cached_embedding(shared, f"{name}-{seed}", lambda: embed(dataset.adata, seed))
        return cluster_embedding(embedding, cost, dataset, seed)

    return method


def leiden_alone(dataset: Dataset, seed: int, shared: Path) -> dict[str, Clusters]:
    """Leiden at resolution 1 on principal components."""
    embedding, cost = cached_embedding(shared, f"pca-{seed}", lambda: pca_embedding(dataset.adata, seed))
    with measured() as meter:
        labels = leiden(neighbor_graph(embedding, seed), 1.0, seed)
    return {"unknown K": Clusters(labels, cost + meter)}


def phenograph(dataset: Dataset, seed: int, shared: Path) -> dict[str, Clusters]:
    """PhenoGraph (Levine et al., Cell 2015) on principal components, with its defaults: it finds the number itself."""
    import phenograph

    embedding, cost = cached_embedding(shared, f"pca-{seed}", lambda: pca_embedding(dataset.adata, seed))
    with measured() as meter, quiet():
        labels, _, _ = phenograph.cluster(embedding, seed=seed, n_jobs=1)
    return {"unknown K": Clusters(labels, cost + meter)}


def scace(dataset: Dataset, seed: int, shared: Path) -> dict[str, Clusters]:
    """scAce (He et al., NAR Genomics and Bioinformatics 2023), prepared as its documentation says, with its defaults.

    An autoencoder from Leiden clusters at resolution 2 of its own embedding, which it merges while it trains. Needs the
    package ``scace``, without the dependencies that it asks for (one of them, ``sklearn``, no longer installs).
    """
    from scace import run_scace

    with measured() as meter, quiet():
        work = dataset.adata.copy()
        # Of sparse counts it makes batches of the wrong shape, and a loss of all pairs of cells.
        work.X = work.X.toarray()
        work.raw = work.copy()
        depth = work.X.sum(1)
        sc.pp.normalize_total(work)
        work.obs["scale_factor"] = depth / np.median(depth)
        sc.pp.log1p(work)
        sc.pp.scale(work)
        torch.manual_seed(seed)
        run_scace(work)
    return {"unknown K": Clusters(work.obs["scace_cluster"], meter)}


def cytocipher(dataset: Dataset, seed: int, shared: Path) -> dict[str, Clusters]:
    """Cytocipher (Balderson et al., Bioinformatics 2023) from Leiden at resolution 3.

    It scores each cell for the marker genes of each cluster, and merges clusters whose scores do not differ significantly.
    Its defaults, but that a cluster has at least one marker (``min_de``), and two may have the same
    (``squash_exception``): without, it stops with an error on clusters that it should merge. Needs the package ``cytocipher``, without the versions of ``numba`` and ``seaborn`` that it asks for, and ``seaborn``.
    """
    from cytocipher import tl

    embedding, cost = cached_embedding(shared, f"pca-{seed}", lambda: pca_embedding(dataset.adata, seed))
    with measured() as meter, quiet():
        work = dataset.adata.copy()
        sc.pp.normalize_total(work, target_sum=1e4)
        sc.pp.log1p(work)
        work.obs["fine"] = pd.Categorical(leiden(neighbor_graph(embedding, seed), 3.0, seed))
        tl.merge_clusters(work, "fine", min_de=1, squash_exception=True, random_state=seed)
    return {"unknown K": Clusters(work.obs["fine_merged"], cost + meter)}


def true_components(dataset: Dataset, seed: int, shared: Path) -> dict[str, Clusters]:
    """The best that can be had on simulated data: the most probable component given the true latent variables."""
    truth, z = dataset.adata.uns["simulation"], dataset.adata.obsm["true_latent"]
    scaled = (z[:, None] - truth["means"]) / truth["sds"]
    log_joint = np.log(truth["weights"]) - (0.5 * scaled**2 + np.log(truth["sds"])).sum(-1)
    posterior = torch.as_tensor(log_joint).softmax(-1).numpy()
    return {"known K": Clusters(posterior.argmax(1), Meter(), posterior.max(1))}


PEERS: dict[str, Method] = {
    "pca": cluster_with("pca", pca_embedding),
    "scvi": cluster_with("scvi", scvi_embedding),
    "drvi": cluster_with("drvi", drvi_embedding),
    "leiden": leiden_alone,
    "phenograph": phenograph,
    "scace": scace,
    "cytocipher": cytocipher,
    "true components": true_components,
}
