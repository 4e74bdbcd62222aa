"""Clusters of RMVE and of its peers on the same cells, genes and seeds.

    python benchmarks/clustering.py --data pbmc3k --methods rmve,pca,scvi --seeds 0,1,2 --name pbmc3k

Every run is a row of ``benchmarks/results/NAME.csv``; runs that are there already are not repeated, so an
interrupted benchmark goes on where it stopped. ``NAME.md`` is the table made from the rows. Labels are used for
scoring, for the oracle, and for telling all methods the number of clusters where it counts as known; never for
training.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from methods import METHODS
from runs import Table, benchmark, span

NOTES = (
    "Mean ± standard deviation over runs (seeds, and simulated data sets of one kind); *lowest*: the worst run; "
    "*start alone*: what RMVE's training started from; *best level*: of its levels, chosen by an oracle; "
    "*accuracy*: Hungarian; *used*: clusters that hold cells; *seeds agree*: mean ARI between seeds on the same data; "
    "*ECE*: expected calibration error of q(y|x); *separation*: smallest Bhattacharyya distance in nats of two components "
    "in use; *seconds*: CPU time from counts to clusters; *GB*: rise of the memory peak."
)


def summarize(table: Table) -> pd.DataFrame:
    """Mean and spread over seeds (and over simulated data sets of one kind), and the agreement between seeds."""
    rows = table.rows
    family = rows["data"].str.replace(r"^(simulated:.*):\d+$", r"\1", regex=True)
    lines = []
    for (data, method, clusters), group in rows.groupby([family, "method", "clusters"], sort=False):
        agree = np.nanmean([table.agreement(runs) for _, runs in group.groupby("data")])
        lines.append(
            {
                "data": data,
                "method": method,
                "clusters": clusters,
                "ARI": f"{group['ari'].mean():.3f} ± {group['ari'].std(ddof=0):.3f}",
                "lowest": f"{group['ari'].min():.3f}",
                "NMI": f"{group['nmi'].mean():.3f}",
                "accuracy": f"{group['accuracy'].mean():.3f}",
                "used": span(group["n_clusters"]),
                "seeds agree": _number(agree, 3),
                "ECE": _number(group["ece"].mean(), 3),
                "separation": _number(group["separation"].mean(), 1),
                "seconds": _number(group["seconds"].mean(), 0),
                "GB": _number(group["peak_gb"].mean(), 1),
                "runs": len(group),
            }
        )
    return pd.DataFrame(lines)


def _number(value: float, digits: int) -> str:
    return "" if np.isnan(value) else f"{value:.{digits}f}"


if __name__ == "__main__":
    benchmark("clustering", __doc__, METHODS, summarize, NOTES)
