"""Dissociated cells of the fly embryo, mapped onto its atlas: is the pattern of a gene found that was left out?

    python benchmarks/fly.py --seeds 0

The atlas (3,039 places x 84 genes, in situ intensities) has positions, the 1,297 sequenced cells have none. The genes are
left out in seven parts. From the others, cells are matched with places; the pattern of a left-out gene is the average of
its expression in the cells matched with each place, and is compared with the atlas (Pearson correlation).

RMVE reads counts, so the atlas is read as counts, too: Poisson draws around the intensities, with each gene's mean and
each cell's depth as in the sequenced cells. Both are clustered and embedded together, with the positions of the atlas. A
place and a cell match by a Gaussian kernel, on mapped positions (``map``) or in the latent space (``latent``), whose width
is the one that fits the genes that are not left out. novoSpaRc (Nitzan et al., Nature 2019) gets the same genes of the
atlas.
"""

from __future__ import annotations

import argparse

import anndata as ad
import numpy as np
import pandas as pd
import scvi
from data import RESULTS, checked
from runs import measured, prepare, run_missing, to_markdown, versions

import rmve

N_PARTS, N_DRAWS = 7, 2
#: Widths of the kernel to choose from, in root-mean-square distances between all cells.
WIDTHS = (0.03, 0.05, 0.08, 0.12, 0.18, 0.27)
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


def as_counts(intensities: np.ndarray, counts: np.ndarray, totals: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Counts as the cells' from places of the atlas, ``N_DRAWS`` times each, shape ``(N_DRAWS n, G)``."""
    rate = np.tile(intensities / intensities.mean(0) * counts.mean(0), (N_DRAWS, 1))
    return rng.poisson(rate * rng.choice(totals / totals.mean(), size=(len(rate), 1)))


def patterns(points: np.ndarray, n_places: int, expression: np.ndarray, width: float) -> np.ndarray:
    """Average expression of the cells near each place, shape ``(n_places, G)``; ``points`` are places, then cells."""
    places, cells = points[: N_DRAWS * n_places], points[N_DRAWS * n_places :]
    scale = 2 * width**2 * points.var(0).sum() * 2
    weight = np.zeros((n_places, len(cells)))
    for draw in np.split(places, N_DRAWS):
        weight += np.exp(-((draw[:, None] - cells) ** 2).sum(-1) / scale)
    return weight @ expression / np.maximum(weight.sum(1, keepdims=True), 1e-300)


def run_rmve(used: np.ndarray, seed: int) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Patterns of all genes, from the used ones, by position and by latent space."""
    positions, intensities, counts, totals, _ = load()
    drawn = as_counts(intensities[:, used], counts[:, used], totals, np.random.default_rng(seed))
    adata = ad.AnnData(np.vstack([drawn, counts[:, used]]).astype(np.float32))
    adata.X[adata.X.sum(1) == 0, 0] = 1  # a cell without any count cannot be read
    adata.obs["source"] = pd.Categorical(["atlas"] * len(drawn) + ["cells"] * len(counts))
    adata.obsm["spatial"] = np.vstack([np.tile(positions, (N_DRAWS, 1)), np.full((len(counts), 3), np.nan)])
    scvi.settings.seed = seed
    rmve.RMVE.setup_anndata(adata, batch_key="source", spatial_key="spatial")
    model = rmve.RMVE(adata)
    model.train(accelerator="cpu", enable_progress_bar=False)
    scvi.settings.seed = None
    spaces = {
        "map": model.map_to_space()[["0", "1", "2"]].to_numpy(),
        "latent": model.get_latent_representation().astype(float),
    }
    expression = np.log1p(counts / totals[:, None] * np.median(totals))
    found = {}
    for name, points in spaces.items():
        tried = [patterns(points, len(positions), expression, width) for width in WIDTHS]
        fit = [correlations(result[:, used], intensities[:, used]).mean() for result in tried]
        found[f"rmve {name}"] = tried[int(np.argmax(fit))]
    return found, {"r2": float(model.spatial_map_.r2_.mean())}


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
    text = f"{to_markdown(summary)}\n\n{NOTES}\n\nCommand: `{command}`\n\n{versions()}\n"
    (RESULTS / "fly.md").write_text(text)
    print(summary.to_string(index=False))


if __name__ == "__main__":
    main()
