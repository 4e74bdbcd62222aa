"""Does one population stay one cluster? And how many clusters are made of cells without types?

    python benchmarks/one_population.py --methods rmve,leiden,phenograph,cytocipher --seeds 0,1,2

Simulated cells differ in nothing but depth and chance; real ones are of one cell line, or sorted for one type. (Sorted
monocytes and helper T cells are left out: dendritic cells are among the former, naive and memory cells among the latter.)
"""

from __future__ import annotations

import pandas as pd
from methods import METHODS
from runs import Table, benchmark, span

SIMULATED = [
    *(f"one:{kind}:{n_cells}:2000" for kind in ("poisson", "nb") for n_cells in (300, 1000, 3000)),
    *(f"one:{kind}:1000:{depth}" for kind in ("poisson", "nb") for depth in (500, 10000)),
    "one:noisy:1000:2000",
]
LINES = [
    *(f"scmix_10x:only={line}" for line in ("A549", "H838", "H2228", "HCC827", "H1975")),
    *(f"hashing:only={line}" for line in ("HEK", "K562", "KG1", "THP1")),
]
SORTED = [
    f"zheng:only={cells}" for cells in ("b-cells", "cd56-nk", "naive-t", "naive-cytotoxic", "memory-t", "regulatory-t")
]
CONTINUA = ["continuum:cloud", "continuum:line"]
NOTES = (
    "Clusters of the method's own number, over seeds, and in brackets the mean share of cells outside the largest one; "
    "above, the share of runs that give a single cluster. A *cloud* is one Gaussian in eight dimensions, a *line* has two "
    "ends and no types between them. *one:KIND:CELLS:DEPTH*: simulated, Poisson, or negative binomial with an inverse "
    "dispersion of 3 (nb) or .5 (noisy)."
)


def summarize(table: Table) -> pd.DataFrame:
    """Share of runs that stay one for each group of sets, then the clusters on each set; a column for each method."""
    rows = table.rows[table.rows["clusters"].str.contains("unknown K")].copy()
    rows["outside"] = [1.0 - pd.Series(table.labels_of(run)).value_counts(True).max() for _, run in rows.iterrows()]
    lines = {}
    for name, sets in (("simulated", SIMULATED), ("cell lines", LINES), ("sorted cells", SORTED)):
        chosen = rows[rows["data"].isin(sets)]
        for method, runs in chosen.groupby("method"):
            lines.setdefault(f"{name}: one cluster", {})[method] = (
                f"{(runs['n_clusters'] == 1).mean():.0%} of {len(runs)}"
            )
    for data in [*SIMULATED, *LINES, *SORTED, *CONTINUA]:
        for method, runs in rows[rows["data"] == data].groupby("method"):
            lines.setdefault(data, {})[method] = f"{span(runs['n_clusters'])} ({runs['outside'].mean():.0%})"
    return pd.DataFrame.from_dict(lines, orient="index").fillna("").rename_axis("data").reset_index()


if __name__ == "__main__":
    methods = ["rmve", "leiden", "phenograph", "cytocipher"]
    benchmark("one_population", __doc__, METHODS, summarize, NOTES, [*SIMULATED, *LINES, *SORTED, *CONTINUA], methods)
