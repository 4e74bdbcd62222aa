"""How many molecules, and how little confusion? The two constants of the default level, varied.

    python benchmarks/levels.py --data pbmc3k,zeisel,hashing,scmix_10x,zheng:all --seeds 0

One run of RMVE for each data set and seed. Its components are merged as at the default level, with other numbers of molecules
in the two samples of a cell and other thresholds of the confusion.
"""

from __future__ import annotations

import argparse

import pandas as pd
from data import load
from methods import train_rmve
from runs import prepare, run_missing, write_table
from scores import score

from rmve.clusters.levels import MIN_CONFUSION, N_MOLECULES, merge_tree
from rmve.model._encode import encode
from rmve.model._levels import joint_of_cells

MOLECULES = (100, 250, N_MOLECULES, 1000, 2000, 100_000)
THRESHOLDS = (0.25, MIN_CONFUSION, 0.75, 1.0)
NOTES = (
    "ARI of the default level (clusters), mean over data sets and seeds in the first lines. *molecules*: in each of the two "
    "samples of a cell, at most half of what it has. *threshold*: least confusion of clusters that are merged as one. The "
    "defaults are 500 and 0.5."
)


def run(data: str, seed: int) -> list[dict]:
    """One run, and its default level with each pair of constants."""
    dataset = load(data)
    model = train_rmve(dataset.adata, None, seed)
    posterior = encode(model.module, model.adata_manager)
    assigned, latent = posterior.assigned, posterior.latent
    rows = []
    for molecules in MOLECULES:
        joint = joint_of_cells(model.module, model.adata_manager, molecules)
        for threshold in THRESHOLDS:
            tree = merge_tree(joint, assigned, latent, min_confusion=threshold)
            found = score(dataset.truth, tree.cut(tree.n_default)[assigned])
            rows.append({"data": data, "seed": seed, "molecules": molecules, "threshold": threshold} | found)
    return rows


def summarize(rows: pd.DataFrame) -> pd.DataFrame:
    """A line for each number of molecules and data set, a column for each threshold."""
    rows = rows.copy()
    lines = []
    for data, group in [("mean", rows), *rows.groupby("data", sort=False)]:
        for molecules, of_number in group.groupby("molecules"):
            number = "half of the cell" if molecules > 10_000 else f"{molecules:,}"
            line = {"data": data, "molecules": number}
            for threshold, runs in of_number.groupby("threshold"):
                clusters = "" if data == "mean" else f" ({runs['n_clusters'].mean():.0f})"
                line[f"threshold {threshold:g}"] = f"{runs['ari'].mean():.3f}{clusters}"
            lines.append(line)
    return pd.DataFrame(lines)


def main() -> None:
    """Run what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="pbmc3k,zeisel,bladder,kidney,hashing,scmix_10x,zheng:all")
    parser.add_argument("--seeds", default="0")
    arguments = parser.parse_args()
    prepare()
    jobs = [(data, int(seed)) for seed in arguments.seeds.split(",") for data in arguments.data.split(",")]
    rows = run_missing("levels", ["data", "seed"], jobs, run)
    command = f"python benchmarks/levels.py --data {arguments.data} --seeds {arguments.seeds}"
    print(write_table("levels", summarize(rows), NOTES, command))


if __name__ == "__main__":
    main()
