"""Clusters of RMVE and of its peers on the same cells, genes and seeds.

    python benchmarks/clustering.py --data pbmc3k --methods rmve,pca,scvi --seeds 0,1,2 --name pbmc3k

Every run is a row of ``benchmarks/results/NAME.csv``; runs that are there already are not repeated, so an
interrupted benchmark goes on where it stopped. ``NAME.md`` is the table made from the rows. Labels are used for
scoring, and for telling all methods the number of clusters where it counts as known; never for training.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import resource
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from itertools import combinations
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
import torch
from rich.progress import track
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

import rmve

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
N_TOP_GENES = 2000

FILES = {
    "pbmc3k": "pbmc3k.h5ad",
    "pbmc4k": "pbmc4k_10x_top2000.h5ad",
    "bladder": "mouse_bladder_2100.h5ad",
    "worm": "worm_neuron.h5ad",
    "kidney": "human_kidney_top2000.h5ad",
    "zeisel": "zeisel_cortex.h5ad",
    "cite": "cbmc_cite_500.h5ad",
    "scmix": "scmix_5cl_celseq2.h5ad",
    "kang": "kang_pbmc_2x2.h5ad",
}


# -------------------------------------------------------------------------- data


def data_folder() -> Path:
    """Folder of the real data: ``$RMVE_DATA``, or ``shared/data`` beside the repository."""
    return Path(os.environ.get("RMVE_DATA", HERE.parents[1] / "shared" / "data"))


def load(name: str) -> tuple[ad.AnnData, np.ndarray]:
    """Counts and the labels to score against.

    ``NAME`` is a file of real data, cut to 2,000 variable genes; ``NAME:all`` keeps all genes.
    ``simulated:SEPARATION:SEED`` is eight types with overlapping components.
    """
    name, *options = name.split(":")
    if name == "simulated":
        adata = rmve.datasets.simulate(n_clusters=8, separation=float(options[0]), seed=int(options[1]))
        return adata, adata.obs["cell_type"].astype(str).to_numpy()
    adata = ad.read_h5ad(data_folder() / FILES[name])
    keep = adata.obs["cell_type"].astype(str).to_numpy() != "(none)"
    if "demuxlet_cls" in adata.obs:
        keep &= adata.obs["demuxlet_cls"].astype(str).to_numpy() != "DBL"
    adata = adata[keep].copy()
    sc.pp.filter_genes(adata, min_cells=3)
    if "all" not in options and adata.n_vars > N_TOP_GENES:
        sc.pp.highly_variable_genes(adata, flavor="seurat_v3", n_top_genes=N_TOP_GENES)
        adata = adata[:, adata.var["highly_variable"]].copy()
    sc.pp.filter_cells(adata, min_counts=1)
    return adata, adata.obs["cell_type"].astype(str).to_numpy()


# ----------------------------------------------------------------------- methods


@dataclass(frozen=True)
class Outcome:
    """Clusters of one run, one entry for each way of reading them off."""

    clusters: dict[str, np.ndarray]
    used: dict[str, int]


def outcome(clusters: dict) -> Outcome:
    """Clusters as arrays, and how many of them hold cells."""
    clusters = {name: np.asarray(labels).astype(str) for name, labels in clusters.items()}
    return Outcome(clusters, {name: len(np.unique(labels)) for name, labels in clusters.items()})


def run_rmve(adata: ad.AnnData, n_known: int, seed: int) -> Outcome:
    """RMVE with its defaults: trained with K, with K unknown, and the latter merged down to K."""
    clusters = {"known K": train_rmve(adata, n_known, seed).predict()}
    model = train_rmve(adata, None, seed)
    clusters["unknown K"] = model.predict()
    if model.n_clusters > n_known:
        clusters["unknown K, merged to K"] = model.merge_components(n_known)
    return outcome(clusters)


def run_rmve_from(n_components: int, plan_kwargs: dict | None = None, **model_kwargs) -> Callable:
    """RMVE as if K were unknown, from a given number of components."""
    plan_kwargs = rmve.model.UNKNOWN_K | (plan_kwargs or {})

    def method(adata: ad.AnnData, n_known: int, seed: int) -> Outcome:
        model = train_rmve(adata, n_components, seed, plan_kwargs=plan_kwargs, **model_kwargs)
        return outcome({f"from {n_components}": model.predict(), "then merged": model.merge_components("auto")})

    return method


def train_rmve(
    adata: ad.AnnData, n_components: int | None, seed: int, plan_kwargs: dict | None = None, **model_kwargs
) -> rmve.RMVE:
    """One trained model."""
    rmve.RMVE.setup_anndata(adata)
    torch.manual_seed(seed)
    model = rmve.RMVE(adata, n_components=n_components, **model_kwargs)
    model.train(plan_kwargs=plan_kwargs, enable_progress_bar=False, enable_model_summary=False)
    return model


def cluster_embedding(embedding: np.ndarray, n_known: int, seed: int) -> dict[str, np.ndarray]:
    """k-means with K known, Leiden at resolution 1 and at the resolution that gives K clusters."""
    adata = ad.AnnData(obsm={"X": embedding}, obs=pd.DataFrame(index=np.arange(len(embedding)).astype(str)))
    sc.pp.neighbors(adata, use_rep="X", n_neighbors=15, random_state=seed)

    def leiden(resolution: float) -> np.ndarray:
        sc.tl.leiden(adata, resolution, flavor="igraph", n_iterations=2, directed=False, random_state=seed)
        return adata.obs["leiden"].astype(str).to_numpy()

    low, high = 0.01, 4.0
    for _ in range(12):
        middle = (low * high) ** 0.5
        at_k = leiden(middle)
        n_found = len(np.unique(at_k))
        if n_found == n_known:
            break
        low, high = (middle, high) if n_found < n_known else (low, middle)
    return {
        "k-means, known K": KMeans(n_known, n_init=20, random_state=seed).fit_predict(embedding),
        "Leiden 1.0, unknown K": leiden(1.0),
        "Leiden, known K": at_k,
    }


def run_pca(adata: ad.AnnData, n_known: int, seed: int) -> Outcome:
    """scanpy's standard pipeline: normalise, log1p, scale, 50 principal components."""
    work = adata.copy()
    sc.pp.normalize_total(work)
    sc.pp.log1p(work)
    sc.pp.scale(work, max_value=10)
    sc.pp.pca(work, n_comps=min(50, work.n_vars - 1), random_state=seed)
    return outcome(cluster_embedding(work.obsm["X_pca"], n_known, seed))


def run_scvi(adata: ad.AnnData, n_known: int, seed: int) -> Outcome:
    """scVI with its defaults."""
    import scvi

    scvi.settings.seed = seed
    work = adata.copy()
    scvi.model.SCVI.setup_anndata(work)
    model = scvi.model.SCVI(work)
    model.train(enable_progress_bar=False, enable_model_summary=False)
    scvi.settings.seed = None
    return outcome(cluster_embedding(model.get_latent_representation(), n_known, seed))


def run_truth(adata: ad.AnnData, n_known: int, seed: int) -> Outcome:
    """The best that can be had on simulated data: the most probable component given the true latent variables."""
    truth, z = adata.uns["simulation"], adata.obsm["true_latent"]
    scaled = (z[:, None] - truth["means"]) / truth["sds"]
    log_joint = np.log(truth["weights"]) - (0.5 * scaled**2 + np.log(truth["sds"])).sum(-1)
    return outcome({"known K": log_joint.argmax(1)})


METHODS: dict[str, Callable] = {
    "rmve": run_rmve,
    "rmve from 40": run_rmve_from(40),
    "rmve from 40 no repulsion": run_rmve_from(40, repulsion=None),
    "rmve from 40 moving repulsion": run_rmve_from(40, {"repulsion_moves": True}),
    "true components": run_truth,
    "pca": run_pca,
    "scvi": run_scvi,
}


# -------------------------------------------------------------------------- runs


#: Columns that name a run.
RUN = ["data", "method", "clusters", "seed"]


def label_file(folder: Path, data: str, method: str, clusters: str, seed: int) -> Path:
    """Where the clusters of a run are kept."""
    return folder / f"{data.replace(':', '-')}_{method}_{clusters}_{seed}.npy"


def run(data: str, method: str, seed: int, folder: Path) -> list[dict]:
    """One run of one method: rows of scores; the clusters are kept for the agreement between seeds."""
    adata, truth = load(data)
    start = time.perf_counter()
    result = METHODS[method](adata, len(np.unique(truth)), seed)
    seconds = time.perf_counter() - start
    rows = []
    for name, labels in result.clusters.items():
        np.save(label_file(folder, data, method, name, seed), pd.factorize(labels)[0])
        rows.append(
            {
                "data": data,
                "method": method,
                "clusters": name,
                "seed": seed,
                "ari": adjusted_rand_score(truth, labels),
                "nmi": normalized_mutual_info_score(truth, labels),
                "n_clusters": result.used[name],
                "seconds": seconds,
                "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
            }
        )
    return rows


def summarize(rows: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Mean and spread over seeds (and over simulated data sets of one kind), and the agreement between seeds."""
    table = []
    family = rows["data"].str.replace(r"^(simulated:.*):\d+$", r"\1", regex=True)
    for (data, method, clusters), group in rows.groupby([family, "method", "clusters"], sort=False):
        agreement = []
        for _, runs in group.groupby("data"):
            labels = [np.load(label_file(folder, *run)) for run in runs[RUN].itertuples(index=False)]
            agreement += [adjusted_rand_score(a, b) for a, b in combinations(labels, 2)]
        table.append(
            {
                "data": data,
                "method": method,
                "clusters": clusters,
                "ARI": f"{group['ari'].mean():.3f} ± {group['ari'].std(ddof=0):.3f}",
                "lowest": f"{group['ari'].min():.3f}",
                "NMI": f"{group['nmi'].mean():.3f}",
                "used": "-".join(dict.fromkeys(str(n) for n in (group["n_clusters"].min(), group["n_clusters"].max()))),
                "seeds agree": f"{np.mean(agreement):.3f}" if agreement else "",
                "seconds": f"{group['seconds'].mean():.0f}",
                "runs": len(group),
            }
        )
    return pd.DataFrame(table)


def to_markdown(table: pd.DataFrame, command: str) -> str:
    """The table with the command and versions that made it."""
    lines = ["| " + " | ".join(table.columns) + " |", "|" + "---|" * table.shape[1]]
    lines += ["| " + " | ".join(str(value) for value in row) + " |" for row in table.itertuples(index=False)]
    packages = ("rmve", "scvi-tools", "scanpy", "torch", "scikit-learn", "leidenalg", "igraph")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return (
        "\n".join(lines)
        + f"\n\nMean ± standard deviation over runs (seeds, and simulated data sets of one kind); *lowest*: the worst run; *used*: clusters that hold cells; "
        f"*seeds agree*: mean ARI between seeds on the same data; *seconds*: of the whole method, all its rows together, {torch.get_num_threads()} "
        f"thread(s).\n\nCommand: `{command}`\n\nPython {platform.python_version()}, {versions}\n"
    )


def main() -> None:
    """Run what is missing and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", default="pbmc3k", help=f"of {', '.join(FILES)}, NAME:all, and simulated:SEPARATION:SEED"
    )
    parser.add_argument("--methods", default="rmve,pca", help=f"of {'; '.join(METHODS)}")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--name", default="clustering", help="stem of the files in benchmarks/results")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    for logger in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))

    path = RESULTS / f"{arguments.name}.csv"
    labels = RESULTS / f".{arguments.name}"
    labels.mkdir(parents=True, exist_ok=True)
    rows = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=RUN)
    # a run counts as done while its clusters are there: in a fresh checkout all are repeated
    there = [label_file(labels, *run).exists() for run in rows[RUN].itertuples(index=False)]
    rows = rows[np.array(there, dtype=bool)]
    done = set(zip(rows["data"], rows["method"], rows["seed"], strict=True))
    jobs = [
        (data, method, seed)
        for data in arguments.data.split(",")
        for method in arguments.methods.split(",")
        for seed in map(int, arguments.seeds.split(","))
        if (data, method, seed) not in done
    ]
    for data, method, seed in track(jobs, description=arguments.name):
        new = pd.DataFrame(run(data, method, seed, labels))
        rows = pd.concat([rows, new], ignore_index=True) if len(rows) else new
        rows.round(4).to_csv(path, index=False)
    command = (
        f'OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 python benchmarks/clustering.py --data "{arguments.data}" --methods "{arguments.methods}" '
        f"--seeds {arguments.seeds} --name {arguments.name}"
    )
    table = summarize(rows, labels)
    (RESULTS / f"{arguments.name}.md").write_text(to_markdown(table, command))
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
