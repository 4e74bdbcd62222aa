"""Figures of the documentation on positions.

    python benchmarks/place_figures.py

writes docs/figures/{embryo,body_map,body_atlas}.png, and from the rows of ``spatial.py`` results/spatial.svg.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
import scvi
from body import fold_of_samples, profiles
from data import HERE, RESULTS
from matplotlib.figure import Figure
from runs import prepare
from spatial import load

import rmve

FIGURES = HERE.parent / "docs" / "figures"


def train(name: str, spatial_key: str = "spatial"):
    """Annotated cells of a data set of ``spatial.py``."""
    cells = load(name)
    adata = cells.adata
    if name == "gtex":  # blood has no place in the body
        adata.obsm["body"] = rmve.body.organ_positions(adata.obs["organ"])
        spatial_key = "body"
    scvi.settings.seed = 0
    rmve.RMVE.setup_anndata(adata, spatial_key=spatial_key)
    model = rmve.RMVE(adata, gene_likelihood=cells.likelihood)
    model.train(accelerator="cpu", enable_progress_bar=False)
    model.annotate()
    print(name, model.spatial_map_.r2_, model.spatial_map_.error_fraction_, model.n_clusters)
    return adata


def embryo() -> Figure:
    adata = train("bdtnp")
    figure, axes = plt.subplots(2, 2, figsize=(12.5, 5.6), layout="constrained")
    side = (0, 2)
    rmve.pl.spatial(adata, axes=side, ax=axes[0, 0]).set_title("clusters, true positions")
    rmve.pl.spatial(adata, axes=side, predicted=True, ax=axes[0, 1]).set_title("clusters, predicted positions")
    rmve.pl.spatial_error(adata, axes=side, arrows=True, ax=axes[1, 0])
    rmve.pl.spatial(adata, axes=side, predicted=True, color="rmve_spatial_sd", ax=axes[1, 1]).set_title("uncertainty")
    return figure


def body() -> Figure:
    adata = train("gtex")
    adata.obs["tissue"] = adata.obs["cell_type"]
    return rmve.pl.body_map(adata, color="tissue").figure


def atlas() -> Figure:
    """Profiles of the Human Cell Landscape: places of the organs, and where the map puts the samples that it has not seen."""
    adata = profiles()
    fold = fold_of_samples(adata.obs)
    known, unseen = adata[fold != 0].copy(), adata[fold == 0].copy()
    scvi.settings.seed = 0
    rmve.RMVE.setup_anndata(known, spatial_key="spatial")
    model = rmve.RMVE(known)
    model.train(accelerator="cpu", enable_progress_bar=False)
    unseen.obsm["placed"] = model.map_to_space(unseen).drop(columns="sd").to_numpy()
    figure, axes = plt.subplots(1, 2, figsize=(13, 9), layout="constrained")
    for ax, basis, title in zip(
        axes, ("spatial", "placed"), ("where they are from", "where the map puts them"), strict=True
    ):
        rmve.pl.body_map(unseen, basis=basis, color="organ", ax=ax).set_title(title)
    return figure


def errors() -> Figure:
    """Error of each method on each data set, RMVE with its default weight, random cells left out; the least on top."""
    rows = pd.read_csv(RESULTS / "spatial.csv").dropna(subset="error").fillna({"map": ""})
    rows = rows[(rows["scheme"] == "folds") & (rows["data"] != "mob") & ~rows["method"].str.startswith("rmve weight")]
    rows["method"] = (rows["method"] + " " + rows["map"]).str.strip()
    figure, axes = plt.subplots(1, 4, figsize=(13, 3.4), layout="constrained")
    for ax, name in zip(axes, ("bdtnp", "osmfish", "starmap", "gtex"), strict=True):
        means = rows[rows["data"] == name].groupby("method")["error"].mean().sort_values(ascending=False)
        ours = means.index.str.startswith("rmve")
        ax.barh(means.index, 100 * means, color=["#c8553d" if own else "#b8b8b8" for own in ours], height=0.7)
        ax.set(title=name, xlabel="median error, % of the diameter")
        ax.spines[["top", "right", "left"]].set_visible(False)
        ax.tick_params(axis="y", length=0, labelsize=8)
    return figure


def main() -> None:
    """Draw all."""
    prepare()
    errors().savefig(RESULTS / "spatial.svg", bbox_inches="tight")
    for name, draw in (("embryo", embryo), ("body_map", body), ("body_atlas", atlas)):
        draw().savefig(FIGURES / f"{name}.png", dpi=130, bbox_inches="tight")


if __name__ == "__main__":
    main()
