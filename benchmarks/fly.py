"""Dissociated cells of the fly embryo, mapped onto its atlas: is the pattern of a gene found that was left out?

    python benchmarks/fly.py --seeds 0

The atlas (3,039 places x 84 genes, in situ intensities) has positions, the 1,297 sequenced cells have none. The genes are
left out in seven parts. From the others, cells are matched with places; the pattern of a left-out gene is the average of
its expression in the cells matched with each place, and is compared with the atlas (Pearson correlation).

RMVE is ``rmve.map_to_atlas``: the atlas is read as counts, Poisson draws around the intensities with each gene's mean and each
cell's depth as in the sequenced cells, and places are matched with cells in the latent space. novoSpaRc (Nitzan et al., Nature 2019) gets the same genes of the
atlas.
"""

from __future__ import annotations

import argparse

import anndata as ad
import numpy as np
import pandas as pd
import scvi
from data import checked
from runs import measured, prepare, run_missing, write_table

import rmve

N_PARTS = 7
METHODS = ("rmve", "novosparc")
NOTES = (
    "Mean Pearson correlation between reconstructed and measured pattern over the genes: *left out*, each once, and *used*. "
    "*r2*: of the three axes, for places of the atlas that RMVE held out, read as counts. The seed draws the counts, the "
    "model and the parts."
)


def load() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Positions and intensities of the atlas, counts of the same genes in cells, their total counts, and the genes."""
    atlas = ad.read_h5ad(checked("bdtnp"))
    cells = ad.read_h5ad(checked("fly"))
    genes = [gene for gene in atlas.var_names if gene in cells.var_names]
    intensities = np.clip(atlas[:, genes].to_df().to_numpy(float), 0, None)
    totals = np.asarray(cells.X.sum(1)).ravel()
    return np.asarray(atlas.obsm["spatial"]), intensities, cells[:, genes].to_df().to_numpy(float), totals, genes


def correlations(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Pearson correlation of each column."""
    found, true = (array - array.mean(0) for array in (found, true))
    norm = np.linalg.norm(found, axis=0) * np.linalg.norm(true, axis=0)
    return (found * true).sum(0) / np.maximum(norm, np.finfo(float).tiny)


def run_rmve(used: np.ndarray, seed: int) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Patterns of all genes, from the used ones."""
    positions, intensities, counts, totals, genes = load()
    names = np.array(genes)
    atlas = ad.AnnData(intensities[:, used], var=pd.DataFrame(index=names[used]), obsm={"spatial": positions})
    cells = ad.AnnData(counts[:, used].astype(np.float32), var=pd.DataFrame(index=names[used]))
    cells.X[cells.X.sum(1) == 0, 0] = 1  # a cell without any count cannot be read
    scvi.settings.seed = seed
    found = rmve.map_to_atlas(cells, atlas, seed=seed, accelerator="cpu", quiet=True)
    scvi.settings.seed = None
    expression = pd.DataFrame(np.log1p(counts / totals[:, None] * np.median(totals)), index=cells.obs_names)
    return {"rmve": found.impute(expression).to_numpy()}, {"r2": float(found.model.spatial_map_.r2_.mean())}


def run_novosparc(used: np.ndarray, seed: int) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """novoSpaRc, its expression term weighed against the atlas, as its tutorial on these data runs it (weight 0.8 of the atlas)."""
    import novosparc

    positions, intensities, counts, totals, genes = load()
    expression = np.log1p(counts / totals[:, None] * np.median(totals))
    cells = ad.AnnData(expression, var=pd.DataFrame(index=genes))
    found = {}
    for weight in (0.5, 0.8, 1.0):
        tissue = novosparc.cm.Tissue(dataset=cells, locations=positions)
        tissue.setup_reconstruction(
            atlas_matrix=intensities[:, used], markers_to_use=used, num_neighbors_s=5, num_neighbors_t=5
        )
        tissue.reconstruct(alpha_linear=weight, epsilon=5e-3)
        found[f"novosparc, weight of the atlas {weight}"] = np.asarray(tissue.sdge).T
    return found, {}


def run(method: str, seed: int, part: int) -> list[dict]:
    """One part of the genes left out: a row for each way to match."""
    _, intensities, _, _, genes = load()
    left_out = np.array_split(np.random.default_rng(seed).permutation(len(genes)), N_PARTS)[part]
    used = np.setdiff1d(np.arange(len(genes)), left_out)
    with measured() as cost:
        found, notes = {"rmve": run_rmve, "novosparc": run_novosparc}[method](used, seed)
    rows = []
    for name, result in found.items():
        scores = correlations(result, intensities)
        row = {"method": method, "seed": seed, "part": part, "match": name, "n": len(left_out), "seconds": cost.seconds}
        rows.append(row | {"left out": scores[left_out].mean(), "used": scores[used].mean()} | notes)
    return rows


def summarize(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over genes and seeds."""
    lines = []
    for match, group in rows.groupby("match", sort=False):
        by_seed = group.groupby("seed").apply(
            lambda one: np.average(one["left out"], weights=one["n"]), include_groups=False
        )
        lines.append(
            {
                "method": match,
                "left out": f"{by_seed.mean():.3f} ± {by_seed.std(ddof=0):.3f}",
                "used": f"{group['used'].mean():.3f}",
                "r2": f"{group['r2'].mean():.3f}" if group["r2"].notna().any() else "",
                "seconds": f"{group['seconds'].mean():.0f}",
                "seeds": group["seed"].nunique(),
            }
        )
    return pd.DataFrame(lines)


def main() -> None:
    """Run what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--only-table", action="store_true", help="run nothing")
    arguments = parser.parse_args()
    prepare()
    seeds, methods = map(int, arguments.seeds.split(",")), arguments.methods.split(",")
    jobs = [(method, seed, part) for seed in seeds for method in methods for part in range(N_PARTS)]
    jobs = [] if arguments.only_table else jobs
    summary = summarize(run_missing("fly", ["method", "seed", "part"], jobs, run))
    command = f"OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 python benchmarks/fly.py --seeds {arguments.seeds}"
    write_table("fly", summary, NOTES, command)
    print(summary.to_string(index=False))


if __name__ == "__main__":
    main()
