"""Draw the picture of the first page: blood cells with the clusters that were found, and a tissue with its domains.

    RMVE_DATA=FOLDER python docs/figures/first.py

writes ``docs/figures/first.png``. The blood cells are those that scanpy downloads; the folder holds ``osmfish_ssctx.h5ad``
(see ``benchmarks/README.md``).
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import anndata as ad
import matplotlib.pyplot as plt
import pandas as pd
import scanpy as sc
import scvi

import rmve

DATA = Path(os.environ["RMVE_DATA"])
#: Genes that mark each type of blood cells.
MARKERS = {
    "CD4 T cells": ["IL7R", "LTB"],
    "CD8 T cells": ["CD8A", "GZMK"],
    "NK cells": ["GNLY", "GZMB"],
    "B cells": ["MS4A1", "CD79A"],
    "CD14+ monocytes": ["CD14", "S100A8"],
    "FCGR3A+ monocytes": ["FCGR3A", "MS4A7"],
    "dendritic cells": ["FCER1A", "CLEC10A"],
    "megakaryocytes": ["PPBP", "PF4"],
}


def blood() -> ad.AnnData:
    """Blood cells as in the tutorial on T-cell subsets, with clusters named by markers, and a UMAP."""
    adata = sc.datasets.pbmc3k()
    mitochondrial = adata.var_names.str.startswith("MT-")
    sc.pp.filter_cells(adata, min_genes=200)
    adata.obs["mt"] = adata[:, mitochondrial].X.sum(1).A1 / adata.X.sum(1).A1
    sc.pp.filter_genes(adata, min_cells=3)
    adata = adata[(adata.obs["n_genes"] < 2500) & (adata.obs["mt"] < 0.05)].copy()
    adata.layers["counts"] = adata.X.copy()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    sc.pp.highly_variable_genes(adata, n_top_genes=2000, flavor="seurat_v3", layer="counts")
    markers = sc.get.obs_df(adata, [gene for genes in MARKERS.values() for gene in genes])
    adata = adata[:, adata.var["highly_variable"]].copy()
    rmve.RMVE.setup_anndata(adata, layer="counts")
    model = rmve.RMVE(adata)
    model.train(accelerator="cpu", quiet=True)
    means = markers.groupby(model.predict(), observed=True).mean()
    means = (means - means.mean()) / means.std()
    scores = pd.DataFrame({name: means[genes].mean(axis=1) for name, genes in MARKERS.items()})
    names = scores.apply(lambda row: " and ".join(row.index[row > row.max() - 0.5]), axis=1)  # of several types alike
    model.rename_clusters(names.drop_duplicates().to_dict())
    model.annotate()
    sc.pp.neighbors(adata, use_rep="X_rmve")
    sc.tl.umap(adata)
    return adata


def cortex() -> ad.AnnData:
    """Cells of the mouse cortex, with domains."""
    adata = ad.read_h5ad(DATA / "osmfish_ssctx.h5ad")
    rmve.spatial_domains(adata, accelerator="cpu", quiet=True)
    return adata


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    plt.switch_backend("agg")
    scvi.settings.seed = 0
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(10, 4.2), layout="constrained", gridspec_kw={"width_ratios": [1.15, 1]}
    )
    rmve.pl.embedding(blood(), ax=left, legend_loc="right margin", title="2,638 blood cells", frameon=False)
    rmve.pl.spatial(
        cortex(), color="rmve_domain", ax=right, size=4, title="4,839 cells of the mouse cortex", legend_loc="none"
    )
    right.set(xlabel="", ylabel="")
    figure.savefig(Path(__file__).with_name("first.png"), dpi=110, bbox_inches="tight", pil_kwargs={"optimize": True})
