"""How many cells are a cell's surroundings? Domains of ``rmve.spatial_domains`` with more and fewer neighbours.

    python benchmarks/neighbourhoods.py --seeds 0

osmfish: 4,839 cells of the mouse somatosensory cortex, against the authors' regions. layers: 3,000 simulated cells of six
types in five layers, which differ in the shares of the types.
"""

from __future__ import annotations

import argparse

import anndata as ad
import numpy as np
import scanpy as sc
import scipy.sparse as sp
import scvi
from data import checked
from runs import measured, prepare, run_missing, write_table
from scores import score

import rmve

NUMBERS = (5, 10, 15, 30, 50)
N_LAYERS, N_TYPES, N_GENES = 5, 6, 100
NOTES = "*unknown*: the number of domains is found; *known*: the level with the true number, or the finest. ARI to the regions."


def layered(seed: int) -> tuple[ad.AnnData, np.ndarray]:
    """Simulated cells, and their layers."""
    rng = np.random.default_rng(seed)
    position = rng.uniform(size=(3000, 2)) * [2000.0, 1000.0]
    layer = (position[:, 1] // (1000.0 / N_LAYERS)).astype(int)
    shares = rng.dirichlet(np.full(N_TYPES, 0.7), size=N_LAYERS)
    kind = np.array([rng.choice(N_TYPES, p=shares[place]) for place in layer])
    rates = 3.0 * np.exp(rng.normal(scale=0.7, size=(N_TYPES, N_GENES)))
    counts = sp.csr_matrix(rng.poisson(rates[kind]).astype(np.float32))
    return ad.AnnData(counts, obsm={"spatial": position}), layer.astype(str)


def load(name: str, seed: int) -> tuple[ad.AnnData, np.ndarray]:
    """Cells with positions, and their regions."""
    if name == "layers":
        return layered(seed)
    adata = ad.read_h5ad(checked("osmfish"))
    sc.pp.filter_cells(adata, min_counts=1)
    return adata, adata.obs["region"].astype(str).to_numpy()


def run(name: str, n_neighbors: int, seed: int) -> list[dict]:
    """One run."""
    adata, truth = load(name, seed)
    scvi.settings.seed = seed
    with measured() as cost:
        model = rmve.spatial_domains(adata, n_neighbors=n_neighbors, accelerator="cpu", quiet=True)
    found = score(truth, adata.obs["rmve_domain"].to_numpy())
    finest = int(model.get_resolutions()["n_clusters"].max())
    known = score(truth, model.merge_components(min(len(set(truth)), finest)).to_numpy())
    row = {"data": name, "neighbours": n_neighbors, "seed": seed}
    return [
        row | {"unknown": found["ari"], "used": found["n_clusters"], "known": known["ari"], "seconds": cost.seconds}
    ]


def main() -> None:
    """Run what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="osmfish,layers")
    parser.add_argument("--seeds", default="0")
    arguments = parser.parse_args()
    prepare()
    names, seeds = arguments.data.split(","), [int(seed) for seed in arguments.seeds.split(",")]
    jobs = [(name, number, seed) for seed in seeds for number in NUMBERS for name in names]
    rows = run_missing("neighbourhoods", ["data", "neighbours", "seed"], jobs, run)
    means = rows.groupby(["data", "neighbours"]).mean(numeric_only=True).drop(columns="seed").round(3).reset_index()
    summary = means.join(rows.groupby(["data", "neighbours"]).size().rename("runs"), on=["data", "neighbours"])
    command = f"OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 python benchmarks/neighbourhoods.py --seeds {arguments.seeds}"
    write_table("neighbourhoods", summary, NOTES, command)
    print(summary.to_string(index=False))


if __name__ == "__main__":
    main()
