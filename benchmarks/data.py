"""The data of the benchmarks: real sets from a folder, and simulated ones."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
import scipy.sparse as sp

import rmve

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
N_TOP_GENES = 2000
#: Where all genes are kept: those found in at least this share of the cells.
MIN_SHARE = 0.002

#: Files of real data, with their origin and SHA-256.
SOURCES = pd.read_csv(HERE / "sources.csv", index_col="name")
#: Names of the sets with known types.
FILES = (
    "pbmc3k",
    "pbmc4k",
    "bladder",
    "worm",
    "kidney",
    "zeisel",
    "cite",
    "scmix",
    "kang",
    "starmap",
    "hashing",
    "scmix_10x",
    "zheng",
    "heart",
    "gut",
)
#: Labels that are no type.
NO_TYPE = ("(none)", "Doublet", "Negative")
#: Share of the molecules that is kept.
DEPTHS = {"half": 0.5, "quarter": 0.25}
#: With the option ``merged``: sorted T cells that differ little in RNA.
CD4 = dict.fromkeys(("cd4-t-helper", "naive-t", "memory-t", "regulatory-t"), "cd4-t")

#: Simulated counts of eight types, 3,000 cells and 1,000 genes where not said otherwise; the options are those of
#: ``rmve.datasets.simulate``.
SCENARIOS = {
    "apart": {"separation": 10.0},
    "overlapping": {"separation": 8.0},
    "rare": {"separation": 10.0, "imbalance": 0.6},
    "shallow": {"separation": 10.0, "depth": 300.0},
    "many": {"separation": 10.0, "imbalance": 0.6, "n_cells": 40_000},
    "same-mean": {"separation": 0.0, "shape_contrast": 1.0},
}

#: Inverse dispersion of the counts of one simulated population.
ONE = {"poisson": np.inf, "nb": 3.0, "noisy": 0.5}
#: A rare type within another: the set that they are from, the common type and the rare one. Where ``drawn``, cells are
#: drawn from the two types' means and dispersions, otherwise they are the real ones.
RARE = {
    "b-in-t": {"source": "zheng", "types": ("naive-t", "b-cells"), "drawn": True},
    "nk-in-t": {"source": "zheng", "types": ("naive-t", "cd56-nk"), "drawn": True},
    "cite": {"source": "cite", "types": ("CD4 T", "B"), "drawn": False},
}
N_WITH_RARE = 3000


@dataclass(frozen=True)
class Dataset:
    """Counts in ``adata.X``, and the labels to score against in ``truth``."""

    name: str
    adata: ad.AnnData
    truth: np.ndarray

    @cached_property
    def n_known(self) -> int:
        """Number of types."""
        return len(np.unique(self.truth))


def data_folder() -> Path:
    """Folder of the real data: ``$RMVE_DATA``, or ``shared/data`` beside the repository."""
    return Path(os.environ.get("RMVE_DATA", HERE.parents[1] / "shared" / "data"))


def path_of(name: str) -> Path:
    """Path of a file of :data:`SOURCES`, there or not."""
    return data_folder() / SOURCES.loc[name, "file"]


def checked(name: str) -> Path:
    """Path of a file of :data:`SOURCES`; says so if it is not the file that the tables were made from."""
    path = path_of(name)
    if hashlib.sha256(path.read_bytes()).hexdigest() != SOURCES.loc[name, "sha256"]:
        print(f"{path} is another file than that of the tables: its SHA-256 differs.")
    return path


def is_there(name: str) -> bool:
    """Whether a data set can be loaded; says so if not."""
    stem, *options = name.split(":")
    source = RARE.get(options[0], {}).get("source") if stem == "rare" else stem
    found = source is None or source in SIMULATED or path_of(source).exists()
    if not found:
        print(f"Skipping {name}: {path_of(source)} is not there.")
    return found


def load(name: str) -> Dataset:
    """A data set by its name, ``NAME:OPTION:...``.

    ``NAME`` is a file of real data, cut to 2,000 variable genes. Options: ``all`` keeps all genes that are found in at
    least 0.2 % of the cells; ``half`` and ``quarter`` keep a part of the molecules, drawn at random; ``only=TYPE``
    keeps the cells of one type; ``merged`` scores the sorted CD4 T cells as one type; ``states`` scores the states of heart cells
    in place of their types.

    Simulated: ``simulated:SCENARIO:SEED`` is one of :data:`SCENARIOS`; ``one:KIND:CELLS:DEPTH`` is a single population
    of :data:`ONE`; ``continuum:cloud`` and ``continuum:line`` are cells without types; ``rare:KIND:SHARE:SEED`` is one
    of :data:`RARE`, or ``simulated``.
    """
    stem, *options = name.split(":")
    adata = SIMULATED[stem](*options) if stem in SIMULATED else choose_genes(read(stem, options), "all" in options)
    return Dataset(name, adata, adata.obs["cell_type"].astype(str).to_numpy())


def read(stem: str, options: list[str]) -> ad.AnnData:
    """Cells of a file that have a type, with the options of :func:`load` that concern cells and molecules."""
    adata = ad.read_h5ad(checked(stem))
    types = adata.obs["cell_type"].astype(str)
    keep = ~types.isin(NO_TYPE).to_numpy()
    if "demuxlet_cls" in adata.obs:
        keep &= adata.obs["demuxlet_cls"].astype(str).to_numpy() != "DBL"
    for option in options:
        if option.startswith("only="):
            keep &= (types == option.removeprefix("only=")).to_numpy()
    adata = adata[keep].copy()
    if "merged" in options:
        adata.obs["cell_type"] = types[keep].replace(CD4)
    if "states" in options:
        adata.obs["cell_type"] = adata.obs["cell_state"].astype(str)
    for option in set(options) & set(DEPTHS):
        adata.X = thin(adata.X, DEPTHS[option])
    return adata


def thin(counts, share: float) -> sp.csr_matrix:
    """Each molecule is kept with the probability ``share``."""
    thinned = sp.csr_matrix(counts, copy=True)
    thinned.data = np.random.default_rng(0).binomial(thinned.data.astype(int), share).astype(np.float32)
    thinned.eliminate_zeros()
    return thinned


def choose_genes(adata: ad.AnnData, all_genes: bool) -> ad.AnnData:
    """Variable genes, or all that are not too rare; cells without a molecule in them are left out."""
    sc.pp.filter_genes(adata, min_cells=int(np.ceil(MIN_SHARE * adata.n_obs)) if all_genes else 3)
    if not all_genes and adata.n_vars > N_TOP_GENES:
        sc.pp.highly_variable_genes(adata, flavor="seurat_v3", n_top_genes=N_TOP_GENES)
        adata = adata[:, adata.var["highly_variable"]].copy()
    sc.pp.filter_cells(adata, min_counts=1)
    return adata


def simulate_types(scenario: str, seed: str) -> ad.AnnData:
    """Eight types of one of the :data:`SCENARIOS`."""
    return rmve.datasets.simulate(n_clusters=8, seed=int(seed), **SCENARIOS[scenario])


def simulate_one(kind: str, n_cells: str, depth: str) -> ad.AnnData:
    """Cells that differ in nothing but their depth and chance: 1,000 genes with log-normal rates."""
    rng = np.random.default_rng(0)
    return counts_around(np.exp(rng.normal(size=(1, 1000))), int(n_cells), float(depth), ONE[kind], rng)


def simulate_continuum(kind: str) -> ad.AnnData:
    """1,000 cells around one centre in eight dimensions, or along a line from one end to the other."""
    if kind == "cloud":
        return rmve.datasets.simulate(n_cells=1000, n_clusters=1, separation=0.0, seed=0)
    rng = np.random.default_rng(0)
    place = rng.uniform(-1.0, 1.0, size=(1000, 1))
    rates = np.exp(rng.normal(size=1000) + place * rng.normal(scale=0.5, size=1000))
    return counts_around(rates, 1000, 2000.0, ONE["nb"], rng)


def simulate_rare(kind: str, share: str, seed: str) -> ad.AnnData:
    """3,000 cells, of which the given share is of a rare type, ``uns["rare"]``."""
    rng = np.random.default_rng(int(seed))
    n_rare = round(float(share) * N_WITH_RARE)
    sizes = (N_WITH_RARE - n_rare, n_rare)
    if kind == "simulated":
        pool = rmve.datasets.simulate(n_cells=3 * N_WITH_RARE, n_clusters=2, separation=10.0, seed=int(seed))
        types, drawn = ("type 0", "type 1"), False
    else:
        source, types, drawn = RARE[kind].values()
        pool = read(source, [])
    parts = []
    for cell_type, size in zip(types, sizes, strict=True):
        cells = pool[pool.obs["cell_type"] == cell_type]
        if drawn:
            parts.append(draw_alike(cells, size, rng))
        else:
            parts.append(cells[rng.choice(cells.n_obs, size, replace=False)].copy())
    adata = ad.concat(parts)
    adata.obs["cell_type"] = np.repeat(types, sizes)
    adata.obs_names_make_unique()
    adata = choose_genes(adata, all_genes=False)
    adata.uns["rare"] = types[1]
    return adata


def draw_alike(cells: ad.AnnData, n_cells: int, rng: np.random.Generator) -> ad.AnnData:
    """New cells with the depths, and the genes' means and dispersions, of given ones: one population by construction."""
    counts = sp.csr_matrix(cells.X)
    depth = np.asarray(counts.sum(1)).ravel()
    scaled = counts.multiply((depth.mean() / depth)[:, None]).tocsr()
    mean = np.asarray(scaled.mean(0)).ravel()
    variance = np.asarray(scaled.power(2).mean(0)).ravel() - mean**2
    excess = np.maximum(variance - mean, 1e-3 * mean**2)
    dispersion = np.divide(mean**2, excess, out=np.ones_like(mean), where=mean > 0)
    new = counts_around(mean[None], n_cells, rng.choice(depth, n_cells), dispersion, rng, spread=0.0)
    new.var_names = cells.var_names
    return new


def counts_around(
    rates: np.ndarray,
    n_cells: int,
    depth: float | np.ndarray,
    dispersion: float | np.ndarray,
    rng: np.random.Generator,
    spread: float = 0.3,
) -> ad.AnnData:
    """Negative binomial (Poisson where the inverse dispersion is infinite) counts, depths log-normal around ``depth``."""
    depth = depth * np.exp(spread * rng.normal(size=n_cells))
    rates = rates / rates.sum(1, keepdims=True) * depth[:, None]
    shape = np.broadcast_to(dispersion, rates.shape[1])
    noisy = np.isfinite(shape)
    rates[:, noisy] *= rng.gamma(shape[noisy], 1.0 / shape[noisy], size=(n_cells, noisy.sum()))
    counts = sp.csr_matrix(rng.poisson(rates).astype(np.float32))
    obs = pd.DataFrame({"cell_type": "one"}, index=[f"cell {i}" for i in range(n_cells)])
    return ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"gene {j}" for j in range(counts.shape[1])]))


SIMULATED = {
    "simulated": simulate_types,
    "one": simulate_one,
    "continuum": simulate_continuum,
    "rare": simulate_rare,
}
