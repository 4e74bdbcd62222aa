"""Simulated gradients: cells along one axis, of uneven density and with zeros, placed by RMVE, ridge and kNN.

    python benchmarks/gradients.py --kinds uniform,skewed,shallow,ends,zeros,all --seeds 0,1
    python benchmarks/gradients.py --methods "rmve weight 20,rmve weight 200" --seeds 0

All methods see the counts of all cells; the positions of a random fifth are hidden, and judge. A tenth of the genes rise or
fall along the axis, a tenth have a peak at some place, and the others follow two programmes that have nothing to do with it.
RMVE's map is shown with other rules for a slope above one, too; the training is the same.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from unittest.mock import patch

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
import scipy.sparse as sp
import scvi
from runs import measured, prepare, run_missing, write_table
from sklearn.linear_model import RidgeCV
from sklearn.metrics import r2_score
from sklearn.neighbors import KNeighborsRegressor
from spatial import WEIGHTS

import rmve
from rmve.spatial import _affine

N_CELLS, N_GENES, DISPERSION = 1000, 600, 3.0
#: Share of the genes that are monotone, and share that have a peak.
MONOTONE, PEAKED = 0.1, 0.1
#: Standard errors that are taken from a slope above one, varied; with infinitely many none is above one.
ERRORS = {"no error": 0.0, "two errors": 2.0, "slope to 1": np.inf}
N_COMPONENTS, N_NEIGHBORS, PENALTIES = 10, 15, np.logspace(-2, 5, 15)
NOTES = (
    f"{N_CELLS} cells x {N_GENES} genes; mean over seeds, of the fifth of the cells whose positions are hidden. *error*: as a share "
    "of the length of the axis. *uniform*: even density; *skewed*: Beta(.5, 2); *shallow*: the same with a median of 400 counts in place of 1,500; *ends*: seven cells of ten in clumps at the two "
    "ends; *zeros*: even density, and up to eight counts of ten of a gene are lost; *all*: Beta(.5, 2), a clump at the far end, and zeros. "
    "*no error*, *two errors*: what is taken from a slope above one, of the same training; *slope to 1*: no slope is above one, as it "
    "was up to version 0.1.0; *weight 20*, *weight 200*: that of positions in training, 50 by default. "
    "*pca*: ten principal components."
)


@dataclass(frozen=True)
class Kind:
    """Places of cells, from random numbers and a number of cells; the greatest share of a gene's counts that is lost; depth."""

    places: Callable[[np.random.Generator, int], np.ndarray]
    lost: float = 0.0
    depth: float = 1500.0


def _uniform(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.uniform(size=n)


def _skewed(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.beta(0.5, 2.0, size=n)


def _ends(rng: np.random.Generator, n: int) -> np.ndarray:
    part = rng.choice(3, size=n, p=[0.35, 0.35, 0.3])
    near = rng.beta(1.0, 20.0, size=n)
    return np.select([part == 0, part == 1], [near, 1.0 - near], rng.uniform(size=n))


def _skewed_with_clump(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.where(rng.random(n) < 0.15, 1.0 - rng.beta(1.0, 20.0, size=n), _skewed(rng, n))


KINDS = {
    "uniform": Kind(_uniform),
    "skewed": Kind(_skewed),
    "shallow": Kind(_skewed, depth=400.0),
    "ends": Kind(_ends),
    "zeros": Kind(_uniform, lost=0.8),
    "all": Kind(_skewed_with_clump, lost=0.8),
}


def simulate(kind: str, seed: int) -> ad.AnnData:
    """Counts of cells along an axis from 0 to 1, ``obsm["spatial"]``."""
    rng = np.random.default_rng([seed, 20])
    place = KINDS[kind].places(rng, N_CELLS)
    log_rate = np.tile(rng.normal(scale=1.0, size=N_GENES), (N_CELLS, 1))
    n_monotone, n_peaked = int(MONOTONE * N_GENES), int(PEAKED * N_GENES)
    steepness = rng.choice([-1.0, 1.0], n_monotone) * rng.uniform(3.0, 12.0, n_monotone)
    height = rng.uniform(0.5, 2.0, n_monotone)
    log_rate[:, :n_monotone] += height * np.tanh(0.5 * steepness * (place[:, None] - rng.uniform(size=n_monotone)))
    width = rng.uniform(0.08, 0.25, n_peaked)
    from_peak = (place[:, None] - rng.uniform(size=n_peaked)) / width
    log_rate[:, n_monotone : n_monotone + n_peaked] += 2.0 * np.exp(-0.5 * from_peak**2)
    log_rate[:, n_monotone + n_peaked :] += rng.normal(size=(N_CELLS, 2)) @ rng.normal(
        scale=0.3, size=(2, N_GENES - n_monotone - n_peaked)
    )
    rate = np.exp(log_rate)
    depth = KINDS[kind].depth * rng.lognormal(sigma=0.5, size=(N_CELLS, 1))
    counts = rng.poisson(rng.gamma(DISPERSION, depth * rate / rate.sum(1, keepdims=True) / DISPERSION))
    counts[rng.random(counts.shape) < rng.uniform(0.0, KINDS[kind].lost, N_GENES)] = 0
    return ad.AnnData(sp.csr_matrix(counts.astype(np.float32)), obsm={"spatial": place[:, None]})


def hidden(seed: int) -> np.ndarray:
    """Cells that judge, as a mask."""
    mask = np.zeros(N_CELLS, dtype=bool)
    mask[np.random.default_rng([seed, 21]).choice(N_CELLS, N_CELLS // 5, replace=False)] = True
    return mask


#: From cells, the mask of those whose position is hidden and a seed to the places of these, one array for each map.
Method = Callable[[ad.AnnData, np.ndarray, int], dict[str, np.ndarray]]


def train_rmve(adata: ad.AnnData, test: np.ndarray, seed: int, plan_kwargs: dict | None = None) -> rmve.RMVE:
    """RMVE that sees all cells, and the positions of all but some."""
    scvi.settings.seed = seed
    adata = adata.copy()
    adata.obsm["spatial"][test] = np.nan
    rmve.RMVE.setup_anndata(adata, spatial_key="spatial")
    model = rmve.RMVE(adata)
    model.train(accelerator="cpu", enable_progress_bar=False, plan_kwargs=plan_kwargs)
    scvi.settings.seed = None
    return model


def run_rmve(adata: ad.AnnData, test: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """RMVE with its defaults, and its map with other rules for a slope above one."""
    model = train_rmve(adata, test, seed)
    maps = {"": model.map_to_space()["0"].to_numpy()[test]}
    for name, errors in ERRORS.items():
        with patch.object(_affine, "STANDARD_ERRORS", errors):
            model.fit_spatial_map()
        maps[name] = model.map_to_space()["0"].to_numpy()[test]
    return maps


def run_weighted(adata: ad.AnnData, test: np.ndarray, seed: int, weight: float) -> dict[str, np.ndarray]:
    """RMVE with another weight of the positions."""
    model = train_rmve(adata, test, seed, plan_kwargs={"position_weight": weight})
    return {"": model.map_to_space()["0"].to_numpy()[test]}


def logged(adata: ad.AnnData, n_components: int | None) -> np.ndarray:
    """Log-normalised and standardised genes, or their principal components."""
    cells = adata.copy()
    sc.pp.normalize_total(cells)
    sc.pp.log1p(cells)
    sc.pp.scale(cells, max_value=10)
    if n_components is None:
        return np.asarray(cells.X)
    sc.pp.pca(cells, n_comps=n_components)
    return cells.obsm["X_pca"]


def regressed(regression: Callable, n_components: int | None) -> Method:
    def place(adata: ad.AnnData, test: np.ndarray, seed: int) -> dict[str, np.ndarray]:
        x, s = logged(adata, n_components), adata.obsm["spatial"][:, 0]
        return {"": regression().fit(x[~test], s[~test]).predict(x[test])}

    return place


METHODS: dict[str, Method] = {
    "rmve": run_rmve,
    **{f"rmve weight {weight}": partial(run_weighted, weight=weight) for weight in WEIGHTS},
    "ridge": regressed(lambda: RidgeCV(PENALTIES), None),
    "pca + ridge": regressed(lambda: RidgeCV(PENALTIES), N_COMPONENTS),
    "pca + knn": regressed(lambda: KNeighborsRegressor(N_NEIGHBORS), N_COMPONENTS),
    "knn": regressed(lambda: KNeighborsRegressor(N_NEIGHBORS), None),
}


def run(kind: str, method: str, seed: int) -> list[dict]:
    """One method on one gradient."""
    adata, test = simulate(kind, seed), hidden(seed)
    with measured() as cost:
        maps = METHODS[method](adata, test, seed)
    true = adata.obsm["spatial"][test, 0]
    rows = []
    for name, predicted in maps.items():
        error = np.abs(predicted - true)
        scores = {"r2": r2_score(true, predicted), "mean_error": error.mean(), "median_error": np.median(error)}
        rows.append({"kind": kind, "method": method, "seed": seed, "map": name} | scores | {"seconds": cost.seconds})
    return rows


def summarize(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds."""
    groups = rows.fillna({"map": ""}).groupby(["kind", "method", "map"], sort=False)
    means, runs = groups.mean(numeric_only=True).reset_index(), groups.size().to_numpy()
    return pd.DataFrame(
        {
            "gradient": means["kind"],
            "method": (means["method"] + " " + means["map"]).str.strip(),
            "R²": means["r2"].map("{:.3f}".format),
            "mean error": means["mean_error"].map("{:.4f}".format),
            "median error": means["median_error"].map("{:.4f}".format),
            "seconds": means["seconds"].map("{:.0f}".format),
            "runs": runs,
        }
    )


def main() -> None:
    """Run what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--name", default="gradients", help="stem of the files in benchmarks/results")
    arguments = parser.parse_args()
    prepare()
    kinds, methods = arguments.kinds.split(","), arguments.methods.split(",")
    jobs = [(kind, method, int(seed)) for seed in arguments.seeds.split(",") for kind in kinds for method in methods]
    rows = run_missing(arguments.name, ["kind", "method", "seed"], jobs, run)
    order = {name: place for names in (KINDS, METHODS) for place, name in enumerate(names)}
    rows = rows.sort_values(["kind", "method", "seed"], key=lambda column: column.map(lambda v: order.get(v, v)))
    summary = summarize(rows)
    options = (
        f'--kinds {arguments.kinds} --methods "{arguments.methods}" --seeds {arguments.seeds} --name {arguments.name}'
    )
    write_table(
        arguments.name,
        summary,
        NOTES,
        f"OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 python benchmarks/gradients.py {options}",
    )
    print(summary.to_string(index=False))


if __name__ == "__main__":
    main()
