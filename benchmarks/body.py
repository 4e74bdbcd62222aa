"""Where in the body was the cell? One linear map, learned on some donors and judged on others.

    python benchmarks/body.py --seeds 0,1,2

*donors*: cell-type profiles of the Human Cell Landscape, each the mean of about a hundred cells of one type in one tissue
sample. Each sample of an organ that has several is left out once, with all its profiles; the others teach. Organ and study
are confounded in the whole table (a study has few organs), so that only profiles of the one study HCL take part. *heart* and
*gut*: single nuclei and cells of two other atlases, placed by a map that all profiles teach, through the genes that both have.
"""

from __future__ import annotations

import argparse

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
import scipy.sparse as sp
from data import checked
from runs import measured, prepare, run_missing, write_table
from spatial import METHODS, N_TOP_GENES, Placed

from rmve.body import ORGANS

#: Folds; no organ has more samples.
N_FOLDS = 5
CHOSEN = ("rmve", "ridge", "pca + ridge", "pls", "knn", "mlp", "type mean", "mean place")
#: Files of cells that the map has not seen, and the organs of the drawing that they are of.
UNSEEN = {
    "heart": ("heart", {"heart": "heart"}),
    "gut": ("gut", {"terminal ileum": "small intestine", "colon": "colon"}),
}
#: Distance from the head to the feet.
HEIGHT = 195.0
#: Classes of cells, by words in their type; the first that fits.
CLASSES = {
    "endothelial": "endothel",
    "immune": "t cell|b cell|nk|macroph|neutro|mast|dendr|monocyte|myeloid|plasmo|kupffer|kuppfer|hofbauer|cd8|neuth|granulocyte|microglia|eosin|baso|m1 |m2 ",
    "blood": "erythro|megakar|hsc|progenitor cell$|hematopo",
    "stroma": "fibro|strom|muscle|pericyte|mesench|adipo|chondro|osteo|myo",
    "nerve": "neuron|glia|astro|oligo|schwann|neural",
    "epithelium": "epithel|entero|goblet|basal|hepato|acinar|alveol|tubul|ductal|pit|chief|intercal|podocyte|loop|at1|at2|club|clara|urothel|trophoblast|endocrine",
}
NOTES = (
    "*error*: median distance to the centre of the own organ, as a share of the body's height; *own organ*: share that lands "
    "nearest to it, of all organs that taught; *mean place*: the mean of all profiles; *type mean*: the mean of the profile's "
    "type. RMVE's row is its linear map. *donors*: profiles (means of about a hundred cells); *heart*, *gut*: single nuclei and cells."
)


def profiles(genes: pd.Index | None = None) -> ad.AnnData:
    """Placed profiles of the study HCL, with 2,000 variable genes of those that are given."""
    adata = ad.read_h5ad(checked("hcl"))
    placed = np.isfinite(adata.obsm["spatial"]).all(1) & (adata.obs["study"] == "HCL").to_numpy()
    adata = adata[placed, adata.var_names if genes is None else adata.var_names.isin(genes)].copy()
    sc.pp.highly_variable_genes(adata, n_top_genes=N_TOP_GENES, flavor="seurat_v3")
    adata = adata[:, adata.var["highly_variable"]].copy()
    adata.obs["organ"] = adata.obs["anatomogram"].astype(str).str.replace("_", " ")
    return adata


def place(name: str, adata: ad.AnnData, train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """Places of some cells by a method that the others teach."""
    if name == "mean place":
        return np.repeat(adata.obsm["spatial"][train].mean(0, keepdims=True), len(test), 0)
    cells = Placed("body", adata, "nb", "major_type")
    found = METHODS[name](cells, train, test, seed)
    return found["linear" if name == "rmve" else ""]


def nearest_organ(places: np.ndarray, organs: dict[str, np.ndarray]) -> np.ndarray:
    """Name of the organ whose centre is nearest."""
    centers = np.array(list(organs.values()))
    return np.array(list(organs))[((places[:, None] - centers) ** 2).sum(-1).argmin(1)]


def class_of(types: pd.Series) -> np.ndarray:
    """Class of a cell by the name of its type."""
    names = types.astype(str).str.lower()
    found = np.full(len(names), "other", dtype=object)
    for label, words in reversed(CLASSES.items()):
        found[names.str.contains(words)] = label
    return found


def fold_of_samples(obs: pd.DataFrame) -> np.ndarray:
    """Fold that leaves out each profile's sample; -1 for the only sample of an organ, which always teaches."""
    sample = obs["sample"].astype(str)
    several = sample.groupby(obs["organ"]).unique()
    fold = {name: place for names in several if len(names) > 1 for place, name in enumerate(sorted(names))}
    assert max(fold.values()) < N_FOLDS
    return sample.map(fold).fillna(-1).to_numpy(int)


def scores(places: np.ndarray, own: np.ndarray, truth: np.ndarray, organs: dict[str, np.ndarray]) -> dict[str, float]:
    """Error and share of the own organ."""
    distance = np.linalg.norm(places - truth, axis=1) / HEIGHT
    return {"error": np.median(distance), "own_organ": (nearest_organ(places, organs) == own).mean(), "n": len(own)}


def run_donors(method: str, seed: int) -> list[dict]:
    """Each sample of an organ with several is left out once: a row for all profiles, and one for each class."""
    adata = profiles()
    fold = fold_of_samples(adata.obs)
    places = np.full((adata.n_obs, 2), np.nan)
    with measured() as cost:
        for left_out in range(N_FOLDS):
            test = np.flatnonzero(fold == left_out)
            places[test] = place(method, adata, np.flatnonzero(fold != left_out), test, seed)
    judged = np.flatnonzero(fold >= 0)
    own, truth = adata.obs["organ"].to_numpy(str), adata.obsm["spatial"]
    organs = dict(zip(own, truth, strict=True))
    classes = class_of(adata.obs["major_type"])
    rows = []
    for name in ("all", *sorted(set(classes[judged]))):
        part = judged if name == "all" else judged[classes[judged] == name]
        rows.append({"cells": name, **scores(places[part], own[part], truth[part], organs), "seconds": cost.seconds})
    return rows


def run_unseen(data: str, method: str, seed: int) -> list[dict]:
    """Cells of another atlas, on the map that all profiles teach."""
    file, names = UNSEEN[data]
    cells = ad.read_h5ad(checked(file))
    cells = cells[:, ~cells.var_names.duplicated()].copy()
    teachers = profiles(cells.var_names)
    new = ad.AnnData(
        sp.csr_matrix(cells[:, teachers.var_names].X, dtype=np.float32),
        obs=pd.DataFrame({"organ": cells.obs["organ"].astype(str).map(names), "major_type": cells.obs["cell_type"]}),
        var=pd.DataFrame(index=teachers.var_names),
    )
    new.obsm["spatial"] = ORGANS.loc[new.obs["organ"], ["x", "y"]].to_numpy(float)
    both = ad.concat([teachers, new[np.asarray(new.X.sum(1)).ravel() > 0]])
    both.obs_names_make_unique()
    n = teachers.n_obs
    with measured() as cost:
        places = place(method, both, np.arange(n), np.arange(n, both.n_obs), seed)
    organs = dict(zip(teachers.obs["organ"], teachers.obsm["spatial"], strict=True))
    own, truth = both.obs["organ"].to_numpy(str)[n:], both.obsm["spatial"][n:]
    rows, parts = [], sorted(set(own))
    for name in ("all", *(parts if len(parts) > 1 else ())):
        part = np.ones(len(own), dtype=bool) if name == "all" else own == name
        rows.append({"cells": name, **scores(places[part], own[part], truth[part], organs), "seconds": cost.seconds})
    return rows


def run(data: str, method: str, seed: int) -> list[dict]:
    """One method on one task."""
    if method == "type mean" and data in UNSEEN:
        return [{"data": data, "method": method, "seed": seed}]  # other atlases name types otherwise
    rows = run_donors(method, seed) if data == "donors" else run_unseen(data, method, seed)
    return [{"data": data, "method": method, "seed": seed} | row for row in rows]


def summarize(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds."""
    lines = []
    for (data, cells, method), group in rows.dropna(subset="error").groupby(["data", "cells", "method"], sort=False):
        line = {"data": data, "cells": cells, "n": int(group["n"].iloc[0]), "method": method}
        line |= {"error": f"{group['error'].mean():.4f}", "own organ": f"{group['own_organ'].mean():.2f}"}
        lines.append(line | {"seconds": f"{group['seconds'].mean():.0f}", "runs": len(group)})
    return pd.DataFrame(lines)


def main() -> None:
    """Run what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="donors,heart,gut")
    parser.add_argument("--methods", default=",".join(CHOSEN))
    parser.add_argument("--seeds", default="0")
    arguments = parser.parse_args()
    prepare()
    jobs = [
        (data, method, int(seed))
        for seed in arguments.seeds.split(",")
        for data in arguments.data.split(",")
        for method in arguments.methods.split(",")
    ]
    rows = run_missing("body", ["data", "method", "seed"], jobs, run)
    order = {name: place for place, name in enumerate((*("donors", *UNSEEN), "all", *CLASSES, "other", *CHOSEN))}
    rows = rows.sort_values(["data", "cells", "method"], key=lambda column: column.map(order), kind="stable")
    summary = summarize(rows)
    command = f"OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 python benchmarks/body.py --seeds {arguments.seeds}"
    write_table("body", summary, NOTES, command)
    print(summary.to_string(index=False))


if __name__ == "__main__":
    main()
