"""RMVE as the benchmarks run it: with its defaults, from other starts, and with parts of it left out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import torch
from data import Dataset
from peers import PEERS, QUIET, leiden, neighbor_graph, pca_embedding
from runs import Clusters, Meter, Method, measured
from scores import score
from sklearn.cluster import KMeans
from sklearn.mixture import GaussianMixture

import rmve

#: From counts and a seed to a partition that training starts from.
Start = Callable[[ad.AnnData, int], np.ndarray]


def train_rmve(
    adata: ad.AnnData,
    n_components: int | None,
    seed: int,
    plan_kwargs: dict | None = None,
    setup: dict | None = None,
    batch_size: int | None = None,
    start: np.ndarray | None = None,
    **model_kwargs,
) -> rmve.RMVE:
    """One trained model; ``setup`` are options of ``setup_anndata``, ``None`` of ``batch_size`` is the default."""
    rmve.RMVE.setup_anndata(adata, **(setup or {}))
    torch.manual_seed(seed)
    model = rmve.RMVE(adata, n_components=n_components, **model_kwargs)
    model.train(plan_kwargs=plan_kwargs, batch_size=batch_size, start=start, **QUIET)
    return model


def read_off(model: rmve.RMVE, cost: Meter) -> Clusters:
    """Clusters of a trained model with their confidence and separation."""
    soft = model.predict(soft=True)
    used = model.get_components().query("active")
    separation = float(used["separation"].min()) if len(used) > 1 else float("nan")
    return Clusters(model.predict(), cost, soft.to_numpy().max(1), separation)


def read_levels(model: rmve.RMVE, cost: Meter, dataset: Dataset) -> dict[str, Clusters]:
    """All that one run gives: what it started from, its own number of clusters, the true one, and the best level.

    The finest level stands in for the true number where that is more; an oracle chooses the best one.
    """

    def ari_at(n_clusters: int) -> float:
        return score(dataset.truth, model.merge_components(n_clusters))["ari"]

    def level(n_clusters: int) -> Clusters:
        model.merge_components(n_clusters)
        return read_off(model, cost)

    clusters = {"start alone": Clusters(model.starting_partition_, cost), "unknown K": read_off(model, cost)}
    numbers = [int(n) for n in model.get_resolutions()["n_clusters"]]
    clusters["known K"] = level(min(dataset.n_known, max(numbers)))
    clusters["best level"] = level(max(numbers, key=ari_at))
    return clusters


def rmve_method(plan_kwargs: dict | None = None, start: Start | None = None, **model_kwargs) -> Method:
    """RMVE as if K were unknown, and the levels of that run."""

    def method(dataset: Dataset, seed: int, shared: Path) -> dict[str, Clusters]:
        with measured() as cost:
            partition = None if start is None else start(dataset.adata, seed)
            model = train_rmve(dataset.adata, None, seed, plan_kwargs, start=partition, **model_kwargs)
        return read_levels(model, cost, dataset)

    return method


def k_means_start(n_clusters: int) -> Start:
    """k-means on 20 principal components."""

    def start(adata: ad.AnnData, seed: int) -> np.ndarray:
        points = pca_embedding(adata, seed)[:, :20]
        return KMeans(n_clusters, n_init=1, random_state=seed).fit_predict(points)

    return start


def leiden_start(resolution: float) -> Start:
    """Leiden on 20 principal components."""

    def start(adata: ad.AnnData, seed: int) -> np.ndarray:
        graph = neighbor_graph(pca_embedding(adata, seed)[:, :20], seed)
        return leiden(graph, resolution, seed).astype(int)

    return start


def random_start(adata: ad.AnnData, seed: int) -> np.ndarray:
    """Each cell in one of 40 components, by chance."""
    return np.random.default_rng(seed).integers(40, size=adata.n_obs)


def gmm_from(n_components: int) -> Method:
    """A Gaussian mixture on 20 principal components, with more components than types."""

    def method(dataset: Dataset, seed: int, shared: Path) -> dict[str, Clusters]:
        with measured() as cost:
            points = pca_embedding(dataset.adata, seed)[:, :20]
            mixture = GaussianMixture(n_components, covariance_type="diag", reg_covar=1e-3, random_state=seed)
            posterior = mixture.fit(points).predict_proba(points)
        return {f"from {n_components}": Clusters(posterior.argmax(1), cost, posterior.max(1))}

    return method


#: Partitions that training starts from, in place of its own.
STARTS: dict[str, Start] = {
    "k-means 40": k_means_start(40),
    "k-means 60": k_means_start(60),
    "Leiden 3": leiden_start(3.0),
}

#: What is left out or exchanged.
PARTS = {
    "no repulsion": {"repulsion": None},
    "plain bound": {"plan_kwargs": {"split": None}},
    "halves alone": {"plan_kwargs": {"min_molecules": None}},
    "down to 100 molecules": {"plan_kwargs": {"min_molecules": 100.0}},
    "negative binomial split": {"plan_kwargs": {"split": "negative_binomial"}},
    "repulsion 20": {"plan_kwargs": {"repulsion_weight": 20.0}},
    "repulsion 100": {"plan_kwargs": {"repulsion_weight": 100.0}},
    "moving repulsion": {"plan_kwargs": {"repulsion_moves": True}},
    "pairwise": {"repulsion": "pairwise"},
    "dpp": {"repulsion": "dpp"},
    "wasserstein": {"repulsion": "wasserstein"},
    "means": {"repulsion": "means"},
    "no Potts": {"plan_kwargs": {"neighbor_weight": 0.0}},
    "view agreement": {"plan_kwargs": {"view_weight": 1.0}},
    "factorized": {"posterior": "factorized"},
    "random start": {"start": random_start},
    "mini-batches of 128": {"batch_size": 128},
    "mini-batches of 512": {"batch_size": 512},
    "VaDE": {"posterior": "factorized", "repulsion": None, "plan_kwargs": {"neighbor_weight": 0.0}},
}

METHODS: dict[str, Method] = {
    "rmve": rmve_method(),
    **{f"rmve ({name})": rmve_method(**options) for name, options in PARTS.items()},
    **{f"rmve ({name})": rmve_method(start=start) for name, start in STARTS.items()},
    "gmm from 40": gmm_from(40),
    **PEERS,
}
