"""RMVE as the benchmarks run it: with its defaults, and with parts of it left out."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import torch
from data import Dataset
from peers import PEERS, QUIET, pca_embedding
from runs import Clusters, Meter, Method, measured
from sklearn.mixture import GaussianMixture

import rmve

#: Training options for a run from many more components than there are types.
OVERCOMPLETE = {"repulsion": 20.0, "warmup_alpha": 1.0}


def train_rmve(
    adata: ad.AnnData,
    n_components: int | None,
    seed: int,
    plan_kwargs: dict | None = None,
    setup: dict | None = None,
    batch_size: int | None = None,
    random_start: bool = False,
    **model_kwargs,
) -> rmve.RMVE:
    """One trained model; ``setup`` are options of ``setup_anndata``, ``None`` of ``batch_size`` is the default."""
    rmve.RMVE.setup_anndata(adata, **(setup or {}))
    torch.manual_seed(seed)
    model = rmve.RMVE(adata, n_components=n_components, **model_kwargs)
    start = np.random.default_rng(seed).integers(model.module.n_components, size=adata.n_obs) if random_start else None
    model.train(plan_kwargs=plan_kwargs, batch_size=batch_size, start=start, **QUIET)
    return model


def read_off(model: rmve.RMVE, cost: Meter) -> Clusters:
    """Clusters of a trained model with their confidence and separation."""
    soft = model.predict(soft=True)
    used = model.get_components().query("active")
    separation = float(used["separation"].min()) if len(used) > 1 else float("nan")
    return Clusters(model.predict(), cost, soft.to_numpy().max(1), separation)


def rmve_method(plan_kwargs: dict | None = None, **model_kwargs) -> Method:
    """RMVE trained with K and with K unknown."""

    def method(dataset: Dataset, seed: int, shared: Path) -> dict[str, Clusters]:
        clusters = {}
        for name, n_components in (("known K", dataset.n_known), ("unknown K", None)):
            with measured() as cost:
                model = train_rmve(dataset.adata, n_components, seed, plan_kwargs, **model_kwargs)
            clusters[name] = read_off(model, cost)
        return clusters

    return method


def rmve_from(n_components: int, plan_kwargs: dict | None = None, **model_kwargs) -> Method:
    """RMVE as if K were unknown, from a given number of components."""
    plan_kwargs = OVERCOMPLETE | (plan_kwargs or {})

    def method(dataset: Dataset, seed: int, shared: Path) -> dict[str, Clusters]:
        with measured() as cost:
            model = train_rmve(dataset.adata, n_components, seed, plan_kwargs, **model_kwargs)
        raw = read_off(model, cost)
        model.merge_components("auto")
        return {f"from {n_components}": raw, "then merged": read_off(model, cost)}

    return method


def gmm_from(n_components: int) -> Method:
    """A Gaussian mixture on 20 principal components, with more components than types."""

    def method(dataset: Dataset, seed: int, shared: Path) -> dict[str, Clusters]:
        with measured() as cost:
            points = pca_embedding(dataset.adata, seed)[:, :20]
            mixture = GaussianMixture(n_components, covariance_type="diag", reg_covar=1e-3, random_state=seed)
            posterior = mixture.fit(points).predict_proba(points)
        return {f"from {n_components}": Clusters(posterior.argmax(1), cost, posterior.max(1))}

    return method


#: What is left out or exchanged, at a known K, an unknown K, or from too many components.
PARTS = {
    "no repulsion": {"repulsion": None},
    "moving repulsion": {"plan_kwargs": {"repulsion_moves": True}},
    "pairwise": {"repulsion": "pairwise"},
    "dpp": {"repulsion": "dpp"},
    "wasserstein": {"repulsion": "wasserstein"},
    "means": {"repulsion": "means"},
    "no Potts": {"plan_kwargs": {"potts": 0.0}},
    "view agreement": {"plan_kwargs": {"agreement": 1.0}},
    "factorized": {"posterior": "factorized"},
    "random start": {"random_start": True},
    "mini-batches of 128": {"batch_size": 128},
    "mini-batches of 512": {"batch_size": 512},
    "VaDE": {"posterior": "factorized", "repulsion": None, "plan_kwargs": {"potts": 0.0}},
}

METHODS: dict[str, Method] = {
    "rmve": rmve_method(),
    **{f"rmve ({name})": rmve_method(**options) for name, options in PARTS.items()},
    "rmve from 16": rmve_from(16),
    "rmve from 40": rmve_from(40),
    **{f"rmve from 40 ({name})": rmve_from(40, **options) for name, options in PARTS.items()},
    "gmm from 40": gmm_from(40),
    **PEERS,
}
