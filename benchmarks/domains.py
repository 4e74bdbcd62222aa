"""Domains of a tissue: clusters of cells by themselves, and of cells with their surroundings.

    python benchmarks/domains.py --seeds 0,1,2

The cells are those of the mouse somatosensory cortex (osmFISH, 4,839 cells x 33 genes), scored against the regions that the
authors drew. ``surroundings`` are counts pooled over the 15 nearest cells (``rmve.pool_neighbors``), and for RMVE the same
graph as ``neighbors_key``.
"""

from __future__ import annotations

import argparse

import anndata as ad
import pandas as pd
import scanpy as sc
from data import Dataset, checked
from methods import read_levels, train_rmve
from peers import cluster_embedding, pca_embedding
from runs import measured, prepare, run_missing, span, write_table
from scores import score

import rmve

GRAPH, N_NEIGHBORS = "spatial_neighbors", 15
INPUTS = ("cells", "surroundings")
METHODS = ("rmve", "pca")
NOTES = "Mean over seeds ± standard deviation. ARI and NMI are against the eleven regions."


def load(given: str) -> Dataset:
    """The cells, and their regions as the truth."""
    adata = ad.read_h5ad(checked("osmfish"))
    sc.pp.neighbors(adata, n_neighbors=N_NEIGHBORS, use_rep="spatial", key_added=GRAPH)
    if given == "surroundings":
        rmve.pool_neighbors(adata, GRAPH)
        adata.X = adata.layers.pop("pooled")
    sc.pp.filter_cells(adata, min_counts=1)
    return Dataset(given, adata, adata.obs["region"].astype(str).to_numpy())


def run(given: str, method: str, seed: int) -> list[dict]:
    """One run: a row for each of its clusterings."""
    dataset = load(given)
    if method == "rmve":
        setup = {"neighbors_key": GRAPH} if given == "surroundings" else {}
        with measured() as cost:
            model = train_rmve(dataset.adata, None, seed, setup=setup)
        clusterings = read_levels(model, cost, dataset)
    else:
        with measured() as cost:
            embedding = pca_embedding(dataset.adata, seed)
        clusterings = cluster_embedding(embedding, cost, dataset, seed)
    rows = []
    for name, clusters in clusterings.items():
        found = score(dataset.truth, clusters.labels)
        row = {"input": given, "method": method, "clusters": name, "seed": seed, "seconds": clusters.cost.seconds}
        rows.append(row | {key: found[key] for key in ("ari", "nmi", "n_clusters")})
    return rows


def summarize(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds."""
    lines = []
    for (given, method, clusters), group in rows.groupby(["input", "method", "clusters"], sort=False):
        line = {"input": given, "method": method, "clusters": clusters}
        line |= {name: f"{group[name].mean():.3f} ± {group[name].std(ddof=0):.3f}" for name in ("ari", "nmi")}
        lines.append(line | {"used": span(group["n_clusters"]), "runs": len(group)})
    return pd.DataFrame(lines)


def main() -> None:
    """Run what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2,3,4")
    arguments = parser.parse_args()
    prepare()
    seeds = map(int, arguments.seeds.split(","))
    jobs = [(given, method, seed) for seed in seeds for given in INPUTS for method in METHODS]
    rows = run_missing("domains", ["input", "method", "seed"], jobs, run)
    summary = summarize(
        rows.sort_values(["input", "method"], key=lambda c: c.map({n: i for i, n in enumerate((*INPUTS, *METHODS))}))
    )
    command = f"OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 python benchmarks/domains.py --seeds {arguments.seeds}"
    write_table("domains", summary, NOTES, command)
    print(summary.to_string(index=False))


if __name__ == "__main__":
    main()
