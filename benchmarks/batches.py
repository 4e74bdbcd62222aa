"""Batches: do cells of one type come together, and stay apart from others, when the method is given the batches?

    python benchmarks/batches.py --data kang,scmix,starmap --methods rmve,scvi,harmony,pca --seeds 0,1,2
    python benchmarks/batches.py --data kang --methods "rmve (encoder told)" --seeds 0,1,2

Biology is scored on clusters (ARI, NMI) and on the embedding (cell-type silhouette, cLISI); mixing on the embedding
(iLISI, kBET within types, batch silhouette). All but ARI and NMI of clusters come from scib-metrics and are scaled so
that 1 is best. ``pca`` does not use the batches.
"""

from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from data import Dataset, load
from methods import read_levels, train_rmve
from peers import cluster_embedding, pca_embedding, scvi_embedding
from runs import CACHE, Clusters, cached_embedding, measured, prepare, run_missing, span, write_table
from scores import score

BATCH_KEY = "batch"
METRICS = ["ARI", "NMI", "silhouette", "cLISI", "iLISI", "kBET", "batch silhouette"]
NOTES = (
    "Mean over seeds (± standard deviation for ARI). *known K*: k-means for embeddings, the level of that number for RMVE; "
    "*unknown K*: Leiden at resolution 1 for embeddings. *silhouette*, *cLISI*, *iLISI*, *kBET* and *batch silhouette*: "
    "scib-metrics, on the embedding, scaled so that 1 is best; the first two see types, the others batches."
)

Embedded = tuple[np.ndarray, dict[str, Clusters]]


def run_rmve(dataset: Dataset, seed: int, shared: Path, **model_kwargs) -> Embedded:
    """RMVE with its defaults, or other ones."""
    with measured() as cost:
        model = train_rmve(dataset.adata, None, seed, setup={"batch_key": BATCH_KEY}, **model_kwargs)
    return model.get_latent_representation(), read_levels(model, cost, dataset)


def harmony_embedding(adata: ad.AnnData, seed: int) -> np.ndarray:
    """Harmony on 50 principal components, with its defaults."""
    import harmonypy

    logging.getLogger("harmonypy").setLevel(logging.ERROR)
    points = pca_embedding(adata, seed)
    corrected = np.asarray(harmonypy.run_harmony(points, adata.obs, BATCH_KEY, random_state=seed).Z_corr)
    return corrected if corrected.shape == points.shape else corrected.T


def embedding_method(name: str, embed: Callable[[ad.AnnData, int], np.ndarray]) -> Callable:
    """Clusters of an embedding by k-means at the true K and by Leiden at resolution 1."""

    def method(dataset: Dataset, seed: int, shared: Path) -> Embedded:
        embedding, cost = cached_embedding(shared, f"{name}-{seed}", lambda: embed(dataset.adata, seed))
        clusters = cluster_embedding(embedding, cost, dataset, seed)
        return embedding, {
            "known K": clusters["k-means, known K"],
            "unknown K": clusters["Leiden 1.0, unknown K"],
        }

    return method


METHODS: dict[str, Callable[[Dataset, int, Path], Embedded]] = {
    "rmve": run_rmve,
    "rmve (encoder told)": partial(run_rmve, encode_covariates=True),
    "scvi": embedding_method("scvi-batch", partial(scvi_embedding, batch_key=BATCH_KEY)),
    "harmony": embedding_method("harmony", harmony_embedding),
    "pca": embedding_method("pca", pca_embedding),
}


def embedding_scores(embedding: np.ndarray, types: np.ndarray, batches: np.ndarray, n_neighbors: int = 90) -> dict:
    """Scores of scib-metrics, by the names in :data:`METRICS`."""
    import scib_metrics
    from scib_metrics.nearest_neighbors import NeighborsResults
    from sklearn.neighbors import NearestNeighbors

    types, batches = pd.factorize(types)[0], pd.factorize(batches)[0]
    search = NearestNeighbors(n_neighbors=n_neighbors).fit(embedding)
    distances, indices = search.kneighbors(embedding)
    neighbors = NeighborsResults(indices=indices, distances=distances)
    return {
        "silhouette": float(scib_metrics.silhouette_label(embedding, types)),
        "cLISI": float(scib_metrics.clisi_knn(neighbors, types)),
        "iLISI": float(scib_metrics.ilisi_knn(neighbors, batches)),
        "kBET": float(scib_metrics.kbet_per_label(neighbors, batches, types)),
        "batch silhouette": float(scib_metrics.silhouette_batch(embedding, types, batches)),
    }


def run(data: str, method: str, seed: int) -> list[dict]:
    """One run: a row for each of its clusterings."""
    dataset = load(data)
    embedding, clusterings = METHODS[method](dataset, seed, CACHE / re.sub(r"\W+", "-", data))
    scores = embedding_scores(embedding, dataset.truth, dataset.adata.obs[BATCH_KEY].to_numpy())
    rows = []
    for name, clusters in clusterings.items():
        found = score(dataset.truth, clusters.labels, clusters.confidence)
        row = {"data": data, "method": method, "clusters": name, "seed": seed}
        row |= {"ARI": found["ari"], "NMI": found["nmi"], "n_clusters": found["n_clusters"]}
        rows.append(row | scores | asdict(clusters.cost))
    return rows


def summarize(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds."""
    lines = []
    for (data, method, clusters), group in rows.groupby(["data", "method", "clusters"], sort=False):
        line = {"data": data, "method": method, "clusters": clusters}
        line |= {name: f"{group[name].mean():.3f}" for name in METRICS}
        line["ARI"] += f" ± {group['ARI'].std(ddof=0):.3f}"
        lines.append(
            line | {"used": span(group["n_clusters"]), "seconds": f"{group['seconds'].mean():.0f}", "runs": len(group)}
        )
    return pd.DataFrame(lines)


def main() -> None:
    """Run what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="kang,scmix,starmap")
    parser.add_argument("--methods", default="rmve,scvi,harmony,pca", help=f"of {', '.join(METHODS)}")
    parser.add_argument("--seeds", default="0,1,2")
    arguments = parser.parse_args()
    prepare()
    jobs = [
        (data, method, int(seed))
        for seed in arguments.seeds.split(",")
        for data in arguments.data.split(",")
        for method in arguments.methods.split(",")
    ]
    rows = run_missing("batches", ["data", "method", "seed"], jobs, run)
    rows = rows.sort_values(["data", "method", "clusters", "seed"])
    summary = summarize(rows)
    command = (
        f"OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 python benchmarks/batches.py --data {arguments.data} "
        f"--methods {arguments.methods} --seeds {arguments.seeds}"
    )
    write_table("batches", summary, NOTES, command)
    print(summary.to_string(index=False))


if __name__ == "__main__":
    main()
