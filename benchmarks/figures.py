"""Figures of the benchmark tables.

    python benchmarks/figures.py --name clustering

Reads ``benchmarks/results/NAME.csv`` and draws ``NAME.svg`` beside it.
"""

from __future__ import annotations

import argparse

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from data import RESULTS

#: What is drawn: method and clusters, name, colour (Okabe and Ito's palette) and marker, for K known and not.
PANELS = {
    "Number of clusters given": {
        ("rmve", "known K"): ("RMVE", "#D55E00", "o"),
        ("pca", "k-means, known K"): ("PCA + k-means", "#56B4E9", "^"),
        ("pca", "Leiden, known K"): ("PCA + Leiden", "#0072B2", "v"),
        ("scvi", "k-means, known K"): ("scVI + k-means", "#009E73", "<"),
        ("scvi", "GMM, known K"): ("scVI + GMM", "#CC79A7", "D"),
        ("scvi", "Leiden, known K"): ("scVI + Leiden", "#E69F00", ">"),
    },
    "Number of clusters found": {
        ("rmve", "unknown K"): ("RMVE", "#D55E00", "o"),
        ("pca", "Leiden 1.0, unknown K"): ("PCA + Leiden(1.0)", "#0072B2", "v"),
        ("scvi", "Leiden 1.0, unknown K"): ("scVI + Leiden(1.0)", "#E69F00", ">"),
        ("pca", "Leiden, oracle"): ("PCA + Leiden, oracle", "#999999", "v"),
        ("scvi", "Leiden, oracle"): ("scVI + Leiden, oracle", "#999999", ">"),
    },
}


def draw_panel(ax: plt.Axes, rows: pd.DataFrame, methods: dict, order: list[str]) -> None:
    """One dot for each data set and method: the mean ARI over seeds, with the range."""
    for (method, clusters), (name, color, marker) in methods.items():
        chosen = rows[(rows["method"] == method) & (rows["clusters"] == clusters)]
        if chosen.empty:
            continue
        ari = chosen.groupby("data")["ari"].agg(["mean", "min", "max"]).reindex(order)
        y = np.arange(len(order))
        main = name == "RMVE"
        ax.hlines(y, ari["min"], ari["max"], color=color, lw=1.5, alpha=0.6)
        ax.plot(
            ari["mean"],
            y,
            marker,
            color=color,
            ms=10 if main else 7.5,
            zorder=3 if main else 2,
            label=name,
            mec="white",
        )
    ax.set(yticks=np.arange(len(order)), yticklabels=order, xlim=(0, 1.03), xlabel="adjusted Rand index")
    ax.invert_yaxis()
    ax.grid(lw=0.5, alpha=0.5)
    ax.spines[["top", "right"]].set_visible(False)


def main() -> None:
    """Draw the figure of one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="clustering")
    arguments = parser.parse_args()
    rows = pd.read_csv(RESULTS / f"{arguments.name}.csv")
    order = rows[rows["method"] == "rmve"].groupby("data")["ari"].mean().sort_values(ascending=False).index.to_list()
    figure, axes = plt.subplots(1, 2, figsize=(10, 0.42 * len(order) + 2.2), sharey=True, layout="constrained")
    for ax, (title, methods) in zip(axes, PANELS.items(), strict=True):
        draw_panel(ax, rows, methods, order)
        ax.set_title(title)
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, frameon=False, fontsize=8)
    plt.rcParams["svg.hashsalt"] = arguments.name  # the same figure gives the same file
    figure.savefig(RESULTS / f"{arguments.name}.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
