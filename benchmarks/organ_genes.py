"""Why do immune cells tell their organ? The genes of the organ's own cells, left out or alone.

    python benchmarks/organ_genes.py --methods ridge,knn
    python benchmarks/organ_genes.py --methods rmve --genes "without 30,without others 30"

Profiles of the Human Cell Landscape, samples left out, as in ``body.py``. *Residents* are all profiles but those of immune
cells and the blood lineage. The genes of an organ are those whose log-expression in its residents is most above the mean of
all organs, by the profiles that teach. *others* is a control: as many other genes of nearly the same mean expression.
The last table asks whether what immune profiles have of these genes is what would leak from residents: the same genes, in
proportion.
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd
from body import HEIGHT, N_FOLDS, class_of, fold_of_samples, nearest_organ, place, profiles
from runs import measured, prepare, run_missing, to_markdown, write_table

METHODS = ("ridge", "knn", "rmve")
GENES = ("all", *(f"{part} {n}" for n in (10, 30) for part in ("without", "without others", "only", "only others")))
GUESTS, CLASSES = ("immune", "blood"), ("immune", "endothelial", "stroma", "epithelium", "all")
#: Genes of an organ in the table of leaks, and fewest profiles of residents and of guests in its organs.
N_LEAKS, MIN_PROFILES = 30, 3
NOTES = (
    "Median error, as a share of the body's height, and share of profiles nearest to their own organ. *genes*: all 2,000; *without "
    "30*: without the 30 genes of each organ; *only 30*: these alone; *others*: as many others of nearly the same mean; *n*: number of genes, mean over folds."
)


class Profiles:
    """The profiles with what is derived from them once."""

    def __init__(self):
        self.adata = profiles()
        counts = self.adata.to_df().to_numpy(float)
        self.scaled = counts / counts.sum(1, keepdims=True) * 1e4
        self.logged = np.log1p(self.scaled)
        self.fold = fold_of_samples(self.adata.obs)
        self.classes = class_of(self.adata.obs["major_type"])
        self.organ = self.adata.obs["organ"].to_numpy(str)

    def of_organs(self, rows: np.ndarray, n: int) -> dict[str, np.ndarray]:
        """The genes of each organ that residents among some profiles tell, as columns."""
        rows = rows[~np.isin(self.classes[rows], GUESTS)]
        means = pd.DataFrame(self.logged[rows]).groupby(self.organ[rows]).mean()
        best = np.argsort(-(means - means.mean()).to_numpy(), axis=1)[:, :n]
        return dict(zip(means.index, best, strict=True))

    def alike(self, genes: np.ndarray) -> np.ndarray:
        """As many other genes, each of nearly the mean expression of one of the given."""
        rank = self.logged.mean(0).argsort().argsort()
        free = np.setdiff1d(np.arange(len(rank)), genes)
        found = []
        for gene in np.random.default_rng(0).permutation(genes):
            nearest = np.abs(rank[free] - rank[gene]).argmin()
            found.append(free[nearest])
            free = np.delete(free, nearest)
        return np.sort(found)

    def columns(self, genes: str, rows: np.ndarray) -> np.ndarray:
        """Columns of one of :data:`GENES`, as far as the profiles that teach tell."""
        everything = np.arange(self.adata.n_vars)
        if genes == "all":
            return everything
        part, n = genes.rsplit(" ", 1)
        chosen = np.unique(np.concatenate(list(self.of_organs(rows, int(n)).values())))
        if part.endswith("others"):
            chosen = self.alike(chosen)
        return chosen if part.startswith("only") else np.setdiff1d(everything, chosen)


def run(method: str, genes: str, seed: int) -> list[dict]:
    """Each sample of an organ with several is left out once: a row for each class of profiles."""
    data = Profiles()
    places, n_genes = np.full((data.adata.n_obs, 2), np.nan), []
    with measured() as cost:
        for left_out in range(N_FOLDS):
            test, train = np.flatnonzero(data.fold == left_out), np.flatnonzero(data.fold != left_out)
            columns = data.columns(genes, train)
            n_genes.append(len(columns))
            places[test] = place(method, data.adata[:, columns].copy(), train, test, seed)
    truth, organs = data.adata.obsm["spatial"], dict(zip(data.organ, data.adata.obsm["spatial"], strict=True))
    rows = []
    for name in CLASSES:
        judged = (data.fold >= 0) & ((data.classes == name) | (name == "all"))
        error = np.linalg.norm(places[judged] - truth[judged], axis=1) / HEIGHT
        own = nearest_organ(places[judged], organs) == data.organ[judged]
        row = {"method": method, "genes": genes, "seed": seed, "cells": name, "n": np.mean(n_genes)}
        rows.append(row | {"error": np.median(error), "own_organ": own.mean(), "seconds": cost.seconds})
    return rows


def leaks() -> pd.DataFrame:
    """For each organ, how the excess of its genes in its guests follows that in its residents."""
    data = Profiles()
    guest = np.isin(data.classes, GUESTS)
    lines = []
    for organ, columns in data.of_organs(np.arange(data.adata.n_obs), N_LEAKS).items():
        here = data.organ == organ
        if min((here & guest).sum(), (here & ~guest).sum()) < MIN_PROFILES:
            continue

        def excess(part: np.ndarray, here: np.ndarray = here, columns: np.ndarray = columns) -> np.ndarray:
            own, others = data.scaled[here & part], data.scaled[~here & part]
            return (own.mean(0) - others.mean(0))[columns]

        residents, guests = excess(~guest), excess(guest)
        lines.append(
            {
                "organ": organ,
                "residents": int((here & ~guest).sum()),
                "guests": int((here & guest).sum()),
                "genes above": f"{(guests > 0).mean():.0%}",
                "correlation": round(float(np.corrcoef(residents, guests)[0, 1]), 2),
                "slope": round(float(residents @ guests / (residents @ residents)), 3),
                "strongest": ", ".join(data.adata.var_names[columns[np.argsort(-guests)[:3]]]),
            }
        )
    return pd.DataFrame(lines)


def summarize(rows: pd.DataFrame) -> pd.DataFrame:
    """A line for each method and choice of genes, means over seeds."""
    order = {name: place for names in (METHODS, GENES) for place, name in enumerate(names)}
    rows = rows.sort_values(["method", "genes"], key=lambda column: column.map(order), kind="stable")
    lines = []
    for (method, genes), group in rows.groupby(["method", "genes"], sort=False):
        line = {"method": method, "genes": genes, "n": f"{group['n'].mean():.0f}"}
        for name, part in group.groupby("cells", sort=False):
            line[name] = f"{part['error'].mean():.4f} / {part['own_organ'].mean():.2f}"
        lines.append(line | {"seconds": f"{group['seconds'].mean():.0f}", "runs": group["seed"].nunique()})
    return pd.DataFrame(lines)


def main() -> None:
    """Run what is missing and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="ridge,knn")
    parser.add_argument("--genes", default=",".join(GENES))
    parser.add_argument("--seeds", default="0")
    arguments = parser.parse_args()
    prepare()
    jobs = [
        (method, genes, int(seed))
        for seed in arguments.seeds.split(",")
        for method in arguments.methods.split(",")
        for genes in arguments.genes.split(",")
    ]
    summary = summarize(run_missing("organ_genes", ["method", "genes", "seed"], jobs, run))
    table = leaks()
    about = (
        f"Of the {N_LEAKS} genes of each organ: how many are higher in its immune and blood profiles (*guests*) than in those "
        "of other organs, how their excess there, per 10,000, follows that in residents, and the three highest."
    )
    notes = f"{NOTES}\n\n{to_markdown(table)}\n\n{about}"
    command = f'OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 python benchmarks/organ_genes.py --methods {arguments.methods} --genes "{arguments.genes}"'
    write_table("organ_genes", summary, notes, command)
    print(summary.to_string(index=False), table.to_string(index=False), sep="\n")


if __name__ == "__main__":
    main()
