"""Where was the cell? One linear map from RMVE's latent space against regressions from genes and embeddings.

    python benchmarks/spatial.py --data bdtnp,osmfish,starmap,gtex,mob --schemes folds,blocks --seeds 0,1,2
    python benchmarks/spatial.py --data bdtnp,osmfish,starmap,gtex --schemes folds --methods "rmve weight 200" --seeds 0,1,2

Every fold leaves out cells altogether, expression and position: ``folds`` leaves out a random fifth, ``blocks`` a fifth
of the tissue's regions (k-means on the positions), so that no neighbour of a cell is known. RMVE and the regressions see
the rest only; scVI and PCA are fitted to the expression of all cells, without positions, which is to their advantage.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
import scvi
from data import checked
from runs import CACHE, cached_embedding, measured, prepare, run_missing, write_table
from sklearn.base import BaseEstimator
from sklearn.compose import TransformedTargetRegressor
from sklearn.cross_decomposition import PLSRegression
from sklearn.decomposition import PCA
from sklearn.linear_model import RidgeCV
from sklearn.neighbors import KNeighborsRegressor
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import rmve
from rmve.spatial import folds, quality

#: Likelihood, and column with the type of a cell.
FILES = {
    "bdtnp": ("normal", None),
    "osmfish": ("nb", "cell_type"),
    "starmap": ("nb", "cell_type"),
    "gtex": ("normal", "cell_type"),
    "mob": ("nb", "cell_type"),
    "mouse_brain": ("nb", "cell_type"),
    "worm_body": ("normal", None),
}
#: Neurons of a class of the worm lie at most so far apart, as a share of the body.
MAX_SPREAD = 0.05
#: Weights of positions in training, beside the default.
WEIGHTS = (20, 200)
N_TOP_GENES, N_FOLDS, PENALTIES = 2000, 5, np.logspace(-2, 5, 15)
NOTES = (
    "Mean over seeds and folds. *R²*: of each axis; *error*: median distance from the true position, as a fraction of the "
    "diagonal of the tissue's bounding box; *distances*: Pearson correlation of the distances between cells. *by cluster*: "
    "an affine map for each component; *no positions*: RMVE that learned no positions, and a linear map afterwards; "
    "*weight 200*, *weight 20*: that of positions in training, 50 by default; "
    "*type mean*: the mean position of the cell's labelled type. mob is a ring of layers: no linear map exists. gtex: "
    "the place of a sample is that of its organ. mouse_brain: cells, placed along one axis, the number of the coronal section. "
    "worm_body: classes of neurons of C. elegans, at the mean place of their neurons."
)


@dataclass(frozen=True)
class Placed:
    """Cells with a position, and what regressions are given."""

    name: str
    adata: ad.AnnData
    likelihood: str
    type_key: str | None

    @property
    def positions(self) -> np.ndarray:
        return np.asarray(self.adata.obsm["spatial"], dtype=float)

    @cached_property
    def features(self) -> np.ndarray:
        """Log-normalised genes of counts, other values as they are, shape ``(n, G)``."""
        cells = self.adata.copy()
        if self.likelihood == "nb":
            sc.pp.normalize_total(cells)
            sc.pp.log1p(cells)
        return cells.to_df().to_numpy(dtype=float)


def load(name: str) -> Placed:
    """A data set: cells with a position, at most :data:`N_TOP_GENES` variable genes."""
    likelihood, type_key = FILES[name]
    adata = ad.read_h5ad(checked(name))
    if name == "worm_body":  # one row for each class of neurons, transcripts per million
        adata = adata[adata.obs["position_sd"].astype(float) < MAX_SPREAD].copy()
        adata.X = adata.to_df().transform(np.log1p).to_numpy()
    adata = adata[np.isfinite(np.asarray(adata.obsm["spatial"], dtype=float)).all(1)].copy()
    if adata.n_vars > N_TOP_GENES:
        flavor = "seurat_v3" if likelihood == "nb" else "seurat"
        sc.pp.highly_variable_genes(adata, n_top_genes=N_TOP_GENES, flavor=flavor)
        adata = adata[:, adata.var["highly_variable"]].copy()
    if likelihood == "nb":
        sc.pp.filter_cells(adata, min_counts=1)
    return Placed(name, adata, likelihood, type_key)


#: From cells, training rows, test rows and a seed to the positions of the test cells, one array for each map.
Method = Callable[[Placed, np.ndarray, np.ndarray, int], dict[str, np.ndarray]]


def run_rmve(
    cells: Placed, train: np.ndarray, test: np.ndarray, seed: int, learn: bool = True, plan_kwargs: dict | None = None
) -> dict[str, np.ndarray]:
    """RMVE with its defaults, or other ones in training, and both kinds of maps."""
    scvi.settings.seed = seed
    known, unknown = cells.adata[train].copy(), cells.adata[test].copy()
    rmve.RMVE.setup_anndata(known, spatial_key="spatial" if learn else None)
    model = rmve.RMVE(known, gene_likelihood=cells.likelihood)
    model.train(accelerator="cpu", enable_progress_bar=False, plan_kwargs=plan_kwargs)
    scvi.settings.seed = None
    maps = {"linear": "linear"} | ({"by cluster": "by_cluster"} if learn else {})
    placed = {}
    for name, kind in maps.items():
        model.fit_spatial_map(spatial_key="spatial", kind=kind)
        placed[name] = model.map_to_space(unknown).drop(columns="sd").to_numpy()
    return placed


def regression(cells: Placed, train: np.ndarray, test: np.ndarray, seed: int, make: Callable) -> dict[str, np.ndarray]:
    """A regression from standardised genes to standardised positions."""
    model = TransformedTargetRegressor(make_pipeline(StandardScaler(), make(seed)), transformer=StandardScaler())
    model.fit(cells.features[train], cells.positions[train])
    return {"": model.predict(cells.features[test]).reshape(len(test), -1)}


def pca_ridge(seed: int) -> BaseEstimator:
    return make_pipeline(PCA(10, random_state=seed), RidgeCV(PENALTIES))


def mlp(seed: int) -> BaseEstimator:
    return MLPRegressor(hidden_layer_sizes=(128, 128), alpha=1e-2, early_stopping=True, max_iter=500, random_state=seed)


def scvi_ridge(cells: Placed, train: np.ndarray, test: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Ridge on scVI's embedding of all cells, made with its defaults."""

    def embed() -> np.ndarray:
        scvi.settings.seed = seed
        adata = cells.adata.copy()
        scvi.model.SCVI.setup_anndata(adata)
        model = scvi.model.SCVI(adata, gene_likelihood="normal" if cells.likelihood == "normal" else "zinb")
        model.train(accelerator="cpu", enable_progress_bar=False)
        return model.get_latent_representation()

    z, _ = cached_embedding(CACHE / f"spatial-{cells.name}", f"scvi-{seed}", embed)
    ridge = make_pipeline(StandardScaler(), RidgeCV(PENALTIES)).fit(z[train], cells.positions[train])
    return {"": ridge.predict(z[test])}


def type_mean(cells: Placed, train: np.ndarray, test: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """The mean position of the cell's type; of all cells, for a type that has none."""
    types = cells.adata.obs[cells.type_key].astype(str).to_numpy()
    means = pd.DataFrame(cells.positions[train]).groupby(types[train]).mean().reindex(types[test])
    return {"": means.fillna(pd.Series(cells.positions[train].mean(0))).to_numpy()}


METHODS: dict[str, Method] = {
    "rmve": run_rmve,
    "rmve no positions": partial(run_rmve, learn=False),
    **{f"rmve weight {weight}": partial(run_rmve, plan_kwargs={"position_weight": weight}) for weight in WEIGHTS},
    "ridge": partial(regression, make=lambda seed: RidgeCV(PENALTIES)),
    "pca + ridge": partial(regression, make=pca_ridge),
    "scvi + ridge": scvi_ridge,
    "pls": partial(regression, make=lambda seed: PLSRegression(10)),
    "knn": partial(regression, make=lambda seed: KNeighborsRegressor(15)),
    "mlp": partial(regression, make=mlp),
    "type mean": type_mean,
}


def run(data: str, scheme: str, method: str, seed: int) -> list[dict]:
    """One method on one data set: predictions of all folds together, judged at once."""
    cells = load(data)
    key = {"data": data, "scheme": scheme, "method": method, "seed": seed}
    if method == "type mean" and cells.type_key is None:
        return [key]
    positions = cells.positions
    parts: dict[str, np.ndarray] = {}
    with measured() as cost:
        for train, test in folds(positions, scheme, None, N_FOLDS, seed):
            for name, predicted in METHODS[method](cells, train, test, seed).items():
                parts.setdefault(name, np.empty_like(positions))[test] = predicted
    rows = []
    for name, predicted in parts.items():
        found = quality(positions, predicted)
        scores = {f"r2_{axis}": value for axis, value in enumerate(found.r2_)}
        scores |= {"r2": found.r2_.mean(), "error": found.error_fraction_, "distances": found.distance_correlation_}
        rows.append(key | {"map": name} | scores | {"p": found.p_value_, "seconds": cost.seconds})
    return rows


def summarize(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds."""
    lines = []
    rows = rows.dropna(subset="error").fillna({"map": ""})
    axes = [name for name in ("r2_0", "r2_1", "r2_2") if name in rows]
    for (data, scheme, method, kind), group in rows.groupby(["data", "scheme", "method", "map"], sort=False):
        r2 = " / ".join(f"{group[axis].mean():.3f}" for axis in axes if group[axis].notna().all())
        spread = f" ± {group['error'].std(ddof=0):.4f}" if len(group) > 1 else ""
        lines.append(
            {
                "data": data,
                "scheme": scheme,
                "method": f"{method} {kind}".strip(),
                "R² by axis": r2,
                "mean R²": f"{group['r2'].mean():.3f}",
                "error": f"{group['error'].mean():.4f}{spread}",
                "distances": f"{group['distances'].mean():.3f}",
                "p": f"{group['p'].max():.3f}",
                "seconds": f"{group['seconds'].mean():.0f}",
                "runs": len(group),
            }
        )
    return pd.DataFrame(lines)


def main() -> None:
    """Run what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=",".join(FILES))
    parser.add_argument("--schemes", default="folds,blocks")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--only-table", action="store_true", help="run nothing")
    arguments = parser.parse_args()
    prepare()
    jobs = [
        (data, scheme, method, int(seed))
        for seed in arguments.seeds.split(",")
        for scheme in arguments.schemes.split(",")
        for data in arguments.data.split(",")
        for method in arguments.methods.split(",")
    ]
    jobs = [] if arguments.only_table else jobs
    rows = run_missing("spatial", ["data", "scheme", "method", "seed"], jobs, run)
    order = {name: place for names in (FILES, METHODS, ("folds", "blocks")) for place, name in enumerate(names)}
    rows = rows.sort_values(
        ["data", "scheme", "method", "seed"], key=lambda column: column.map(lambda v: order.get(v, v))
    )
    summary = summarize(rows)
    command = "OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 python benchmarks/spatial.py"
    write_table("spatial", summary, NOTES, command)
    print(summary.to_string(index=False))


if __name__ == "__main__":
    main()
