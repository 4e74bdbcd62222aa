"""The data of the benchmarks: real sets from a folder, and simulated ones."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import anndata as ad
import numpy as np
import scanpy as sc

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
    "starmap": "starmap_mpfc.h5ad",
}


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


def is_there(name: str) -> bool:
    """Whether a data set can be loaded; says so if not."""
    stem = name.split(":")[0]
    found = stem == "simulated" or (data_folder() / FILES[stem]).exists()
    if not found:
        print(f"Skipping {name}: {data_folder() / FILES[stem]} is not there.")
    return found


def load(name: str) -> Dataset:
    """A data set by its name.

    ``NAME`` is a file of real data, cut to 2,000 variable genes; ``NAME:all`` keeps all genes.
    ``simulated:SCENARIO:SEED`` is one of :data:`SCENARIOS`.
    """
    stem, *options = name.split(":")
    if stem == "simulated":
        adata = rmve.datasets.simulate(n_clusters=8, seed=int(options[1]), **SCENARIOS[options[0]])
        return Dataset(name, adata, adata.obs["cell_type"].astype(str).to_numpy())
    adata = ad.read_h5ad(data_folder() / FILES[stem])
    keep = adata.obs["cell_type"].astype(str).to_numpy() != "(none)"
    if "demuxlet_cls" in adata.obs:
        keep &= adata.obs["demuxlet_cls"].astype(str).to_numpy() != "DBL"
    adata = adata[keep].copy()
    sc.pp.filter_genes(adata, min_cells=3)
    if "all" not in options and adata.n_vars > N_TOP_GENES:
        sc.pp.highly_variable_genes(adata, flavor="seurat_v3", n_top_genes=N_TOP_GENES)
        adata = adata[:, adata.var["highly_variable"]].copy()
    sc.pp.filter_cells(adata, min_counts=1)
    return Dataset(name, adata, adata.obs["cell_type"].astype(str).to_numpy())
