"""Draw the pictures of the gallery, from the cells that scanpy ships and from simulated ones.

    python docs/figures/gallery.py

writes ``docs/figures/gallery/*.png``. The lines of ``docs/gallery.md`` are those of this file.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import scvi
from scipy.ndimage import gaussian_filter

import rmve

FOLDER = Path(__file__).resolve().parent / "gallery"
DPI = 80
#: Organs of the simulated profiles, one for each group.
ORGANS = ["brain", "heart", "lung", "liver", "kidney", "colon", "muscle", "thyroid gland"]


def save(name: str, figure) -> None:
    figure.savefig(FOLDER / f"{name}.png", dpi=DPI, bbox_inches="tight", pil_kwargs={"optimize": True})
    plt.close("all")


def train(adata, **setup) -> rmve.RMVE:
    """A trained model, whose results are in ``adata``."""
    scvi.settings.seed = 0
    rmve.RMVE.setup_anndata(adata, layer="counts", **setup)
    model = rmve.RMVE(adata)
    model.train(accelerator="cpu", quiet=True)
    model.annotate()
    return model


def clusters() -> None:
    """Figures of clusters: 700 blood cells that come with scanpy."""
    adata = rmve.datasets.pbmc68k_reduced()
    model = train(adata)
    save("embedding", rmve.pl.embedding(adata).figure)
    save("embedding_gene", rmve.pl.embedding(adata, color="CD79A").figure)
    save("embedding_groups", rmve.pl.embedding(adata, color="bulk_labels", groups=["CD19+ B", "Dendritic"]).figure)
    save("components", rmve.pl.components(adata).figure)
    save("confidence", rmve.pl.confidence(adata).figure)
    save("confusion", rmve.pl.confusion(adata, "bulk_labels").figure)
    save("separation", rmve.pl.separation(adata).figure)
    save("merge_tree", rmve.pl.merge_tree(adata).figure)
    save("history", rmve.pl.history(model).figure)
    save("gene_programmes", rmve.pl.gene_programmes(model.get_gene_programmes()))
    table = model.get_markers(n=4)
    rmve.pl.markers(adata, table, layer="counts", return_fig=True).savefig(FOLDER / "markers.png", dpi=DPI)
    save("stability", rmve.pl.stability(rmve.RMVE.stability(adata, n_runs=3)).figure)


def space() -> None:
    """Figures of cells in space: simulated cells whose position follows from their state."""
    adata = rmve.datasets.toy(n_cells=1500)
    adata.obsm["spatial"] -= adata.obsm["spatial"].min(0)
    train(adata, spatial_key="spatial")
    save("spatial", rmve.pl.spatial(adata).figure)
    save("spatial_predicted", rmve.pl.spatial(adata, predicted=True).figure)
    save("spatial_error", rmve.pl.spatial_error(adata).figure)
    save("spatial_fit", rmve.pl.spatial_fit(adata, axis=0).figure)
    save("spatial_genes", rmve.pl.spatial_genes(adata, axis=0).figure)
    x, y = adata.obsm["spatial"].T
    density = gaussian_filter(np.histogram2d(y, x, bins=np.arange(0, 620, 4))[0], 5)
    picture = plt.get_cmap("pink_r")(density / density.max())
    section = {"images": {"hires": picture}, "scalefactors": {"tissue_hires_scalef": 1 / 4}}
    adata.uns["spatial"] = {"section": section}
    save("spatial_image", rmve.pl.spatial(adata, color="cell_type", groups=["type 0", "type 1"], alpha_img=0.6).figure)


def body() -> None:
    """The map of the body: simulated profiles, each group with the position of an organ."""
    adata = rmve.datasets.simulate(n_cells=800, n_genes=300, seed=2)
    adata.obs["organ"] = adata.obs["cell_type"].cat.rename_categories(ORGANS)
    rmve.body.add_organ_positions(adata, "organ")
    train(adata, spatial_key="spatial")
    save("body_map", rmve.pl.body_map(adata, color="organ").figure)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    plt.switch_backend("agg")
    FOLDER.mkdir(exist_ok=True)
    clusters()
    space()
    body()
