"""Does it matter what training starts from?

    python benchmarks/starts.py --data pbmc3k,zheng:all --seeds 0,1,2

RMVE from k-means with 40 and with 60 centres, and from Leiden at resolution 3: agreement of the starts, and of what
became of them.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from methods import METHODS, STARTS
from runs import Table, benchmark, span

DATA = ["pbmc3k", "bladder", "zeisel", "kang", "cite", "hashing", "scmix_10x", "zheng"]
NOTES = (
    "*starts agree*: mean ARI between the clusters from different starts, same seed; *seeds agree*: between seeds, same "
    "start; *ARI*: to the types, mean, with the least and greatest of the starts' means in brackets; *used*: number of "
    "clusters."
)


def summarize(table: Table) -> pd.DataFrame:
    """Agreement between starts and between seeds."""
    rows = table.rows[table.rows["method"].isin([f"rmve ({name})" for name in STARTS])]
    lines = []
    for (clusters, data), runs in rows.groupby(["clusters", "data"], sort=False):
        of_start = runs.groupby("method")["ari"].mean()
        lines.append(
            {
                "data": data,
                "clusters": clusters,
                "starts agree": np.nanmean([table.agreement(same) for _, same in runs.groupby("seed")]),
                "seeds agree": np.nanmean([table.agreement(same) for _, same in runs.groupby("method")]),
                "ARI": f"{of_start.mean():.3f} ({of_start.min():.3f}-{of_start.max():.3f})",
                "used": span(runs["n_clusters"]),
                "runs": len(runs),
            }
        )
    lines = pd.DataFrame(lines).sort_values(["clusters", "data"])
    of_column = {"starts agree": "mean", "seeds agree": "mean", "runs": "sum"}
    means = lines.groupby("clusters").agg(of_column).reset_index().assign(data="*mean*")
    return pd.concat([lines, means]).round(3).fillna("")


if __name__ == "__main__":
    benchmark("starts", __doc__, METHODS, summarize, NOTES, DATA, [f"rmve ({name})" for name in STARTS])
