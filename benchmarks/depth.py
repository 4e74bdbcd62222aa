"""Do the clusters stay the same when half, or three quarters, of the molecules are taken away?

python benchmarks/depth.py --data pbmc3k,zheng:all --methods rmve,leiden,phenograph --seeds 0,1,2
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from data import DEPTHS, is_there, load
from methods import METHODS
from runs import Table, benchmark
from sklearn.metrics import adjusted_rand_score

DATA = ["pbmc3k", "bladder", "zeisel", "kang", "cite", "hashing", "scmix_10x", "zheng"]
NOTES = (
    "Mean over seeds. *to the full data's clusters*: ARI between the clusters of the thinned and of the full data, same "
    "method and seed, on the cells that both hold; *clusters more*: how many more there are than on the full data (in the "
    "means: the mean size of that difference). Genes are chosen on the thinned counts."
)


def full(data: str) -> str:
    """The name of a data set without its depth."""
    return ":".join(part for part in data.split(":") if part not in DEPTHS)


def summarize(table: Table) -> pd.DataFrame:
    """Each depth against the full data."""
    rows = table.rows[table.rows["clusters"].isin(["unknown K", "known K", "start alone"])]
    cells = {data: load(data).adata.obs_names for data in rows["data"].unique() if is_there(data)}
    of_full = {tuple(run[["data", "method", "clusters", "seed"]]): run for _, run in rows.iterrows()}
    found = []
    for _, run in rows.iterrows():
        whole = of_full.get((full(run["data"]), run["method"], run["clusters"], run["seed"]))
        if whole is None or run["data"] not in cells:
            continue
        labels = [pd.Series(table.labels_of(r), cells[r["data"]]) for r in (run, whole)]
        shared = cells[run["data"]].intersection(cells[whole["data"]])
        line = {"data": run["data"], "method": run["method"], "clusters": run["clusters"], "ari": run["ari"]}
        line["to_full"] = adjusted_rand_score(*(part[shared] for part in labels))
        found.append(line | {"more": run["n_clusters"] - whole["n_clusters"]})
    lines = []
    found = pd.DataFrame(found)
    for (method, clusters, data), runs in found.groupby(["method", "clusters", "data"], sort=False):
        line = {"data": data, "method": method, "clusters": clusters, "ARI": f"{runs['ari'].mean():.3f}"}
        thinned = data != full(data)
        line["to the full data's clusters"] = f"{runs['to_full'].mean():.3f}" if thinned else ""
        line["clusters more"] = f"{runs['more'].mean():+.1f}" if thinned else ""
        lines.append(line | {"runs": len(runs)})
    thinned = found[found["data"] != found["data"].map(full)]
    for (method, clusters), runs in thinned.groupby(["method", "clusters"]):
        line = {"data": "*mean of the thinned*", "method": method, "clusters": clusters}
        line |= {"ARI": f"{runs['ari'].mean():.3f}", "to the full data's clusters": f"{runs['to_full'].mean():.3f}"}
        lines.append(line | {"clusters more": f"±{np.abs(runs['more']).mean():.1f}", "runs": len(runs)})
    return pd.DataFrame(lines)


if __name__ == "__main__":
    sets = [":".join([data, *depth]) for data in DATA for depth in ([], ["half"], ["quarter"])]
    benchmark("depth", __doc__, METHODS, summarize, NOTES, sets, ["rmve", "leiden", "phenograph"])
