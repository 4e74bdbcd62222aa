"""What `subcluster` finds inside the clusters of a run, and what Leiden finds in the run's embedding.

    python benchmarks/subclusters.py --data zheng,pbmc3k,hashing,scmix_10x --seeds 0,1,2

The model is trained on 2,000 variable genes, and its clusters are divided with the same genes or with all of them. On sets
of one population (see ``one_population.py``), nothing should be divided.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from data import SIMULATED, Dataset, load
from methods import read_off, train_rmve
from peers import QUIET, best_leiden, neighbor_graph
from runs import Clusters, Table, benchmark, measured, span

NOTES = (
    "Mean ± standard deviation over seeds. *unknown K*: clusters of the run; *divided*: each cluster trained again on its "
    "cells, with the genes of the run or with all genes; *Leiden on the embedding*: on the run's own latent space, at the "
    "resolution that an oracle chooses; *kept whole*: share of the types that no division cut, that is, of which at least "
    "95 % of the cells in a cluster stay in one part of it; *used*: clusters that hold cells."
)


def divide(dataset: Dataset, seed: int, shared: Path) -> dict[str, Clusters]:
    """Clusters of one run, what becomes of them, and Leiden on its embedding."""
    with measured() as cost:
        model = train_rmve(dataset.adata, None, seed)
    found = {"unknown K": read_off(model, cost)}
    genes = {"genes of the run": None}
    if dataset.name.split(":")[0] not in SIMULATED:  # which have no more
        genes["all genes"] = load(f"{dataset.name}:all").adata
    for name, adata in genes.items():
        with measured() as more:
            labels = model.subcluster(adata=adata, **QUIET)
        found[f"divided, {name}"] = Clusters(labels, cost + more)
    with measured() as more:
        graph = neighbor_graph(model.get_latent_representation(), seed)
        best = best_leiden(graph, dataset.truth, seed)
    found["Leiden on the embedding, oracle"] = Clusters(best, cost + more)
    return found


def kept_whole(before: np.ndarray, after: np.ndarray, truth: np.ndarray, share: float = 0.95, least: int = 10) -> float:
    """Share of the cells' groups, of one type in one cluster before, that are in one cluster after."""
    groups = pd.DataFrame({"before": before, "after": after, "type": truth}).groupby(["before", "type"])["after"]
    largest = [after.value_counts(normalize=True).iloc[0] for _, after in groups if len(after) >= least]
    return float(np.mean([value >= share for value in largest]))


def summarize(table: Table) -> pd.DataFrame:
    """Mean and spread over seeds."""
    rows, lines = table.rows, []
    first = {(run["data"], run["seed"]): run for _, run in rows[rows["clusters"] == "unknown K"].iterrows()}
    for (data, clusters), group in rows.groupby(["data", "clusters"], sort=False):
        truth = load(data).truth
        whole = [
            kept_whole(table.labels_of(first[data, run["seed"]]), table.labels_of(run), truth)
            for _, run in group.iterrows()
        ]
        lines.append(
            {
                "data": data,
                "clusters": clusters,
                "ARI": f"{group['ari'].mean():.3f} ± {group['ari'].std(ddof=0):.3f}",
                "NMI": f"{group['nmi'].mean():.3f}",
                "used": span(group["n_clusters"]),
                "kept whole": f"{np.mean(whole):.0%}" if clusters.startswith("divided") else "",
                "seconds": f"{group['seconds'].mean():.0f}",
                "runs": len(group),
            }
        )
    return pd.DataFrame(lines)


if __name__ == "__main__":
    sets = ["zheng", "pbmc3k", "hashing", "scmix_10x"]
    benchmark("subclusters", __doc__, {"rmve": divide}, summarize, NOTES, sets, ["rmve"])
