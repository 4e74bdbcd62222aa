"""Unsupervised clusters of all 70,000 MNIST digits: accuracy, NMI and ARI of RMVE and of its ablations.

    python benchmarks/mnist.py --seeds 11,12,13 --variants "RMVE,no views,no balance,no repulsion"
    python benchmarks/mnist.py --seeds 0 --subset 10000 --name mnist_quick

A run starts from communities of the digits' neighbour graph, as many as there are components, learns them, and then
moves on its own: the bound with a view of each digit (a small random deformation), balance and confidence of the
assignment. Labels are used for scoring only. Every run is a row of ``benchmarks/results/NAME.csv``; runs that are there
already are not repeated. ``NAME.md`` is the table made from the rows.
"""

from __future__ import annotations

import argparse
import math
import random
import time

import anndata as ad
import igraph
import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from data import RESULTS, data_folder
from runs import prepare, run_missing, to_markdown, versions
from scores import matched, score
from sklearn.decomposition import PCA

import rmve
from rmve.clusters.initialization import nearest_neighbors

N_IMAGES, SIDE, N_DIGITS, N_NEIGHBORS, BATCH_SIZE = 70_000, 28, 10, 15, 512
#: Resolution of the communities: low enough for few of them, high enough for more than ten.
RESOLUTION = 0.5

MODEL = {"n_hidden": 512, "dropout_rate": 0.0, "input_dropout": 0.0, "gene_likelihood": "bernoulli"}
PLAN = {
    "lr": 4e-3,
    "lr_schedule": "one-cycle",
    "warmup_fraction": 0.25,
    "start_weight": 30.0,
    "kl_weight": 0.5,
    "neighbor_weight": 0.0,
    "view_weight": 100.0,
    "balance_weight": 100.0,
    "entropy_weight": 10.0,
}
#: What each ablation changes in the options of the plan.
VARIANTS = {
    "RMVE": {},
    "no views": {"view_weight": 0.0},
    "no balance": {"balance_weight": 0.0, "entropy_weight": 0.0},
    "no repulsion": {"repulsion_weight": 0.0},
}
RUN = ["variant", "seed", "digits", "epochs"]


def load(n_digits: int) -> tuple[ad.AnnData, np.ndarray]:
    """Intensities in [0, 1], one row for each digit, and the labels to score against."""
    adata = rmve.datasets.mnist(n_digits, folder=data_folder())
    return adata, adata.obs.pop("digit").to_numpy(dtype=int)


def deform(x: torch.Tensor) -> torch.Tensor:
    """Rotate by up to 15°, scale by up to 15 %, shear by up to 20 %, shift by up to 2.2 pixels, and bend by about a pixel."""
    n = len(x)

    def uniform(*shape: int) -> torch.Tensor:
        return 2 * torch.rand(*shape, device=x.device) - 1

    angle = uniform(n) * math.radians(15)
    cos, sin = angle.cos(), angle.sin()
    rotation = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)
    stretch = torch.diag_embed(1 + 0.15 * uniform(n, 2))
    stretch[:, 0, 1] = 0.2 * uniform(n)
    affine = torch.cat([rotation @ stretch, 0.16 * uniform(n, 2, 1)], -1)
    grid = F.affine_grid(affine, [n, 1, SIDE, SIDE], align_corners=False)
    bend = 0.07 * torch.randn(n, 2, 5, 5, device=x.device)
    bend = F.interpolate(bend, size=SIDE, mode="bicubic", align_corners=True)
    view = F.grid_sample(x.reshape(n, 1, SIDE, SIDE), grid + bend.permute(0, 2, 3, 1), align_corners=False)
    return view.reshape(n, -1).clamp(0, 1)


def graph_partition(images: np.ndarray, n_clusters: int, seed: int) -> np.ndarray:
    """Leiden communities of the shared-neighbour graph, the smallest merged until ``n_clusters`` are left.

    Two digits are joined if one is among the 15 nearest neighbours of the other, the more firmly the more neighbours
    they share. The smallest community joins the one that it is most linked to for that one's size.
    """
    points = PCA(50, random_state=seed).fit_transform(images)
    near = (nearest_neighbors(points, N_NEIGHBORS, seed) > 0).astype(np.float32)
    shared = near.multiply(near @ near.T)
    edges = sp.triu(shared.maximum(shared.T), k=1).tocoo()
    weights = edges.data / (2 * N_NEIGHBORS - edges.data)
    graph = igraph.Graph(n=len(images), edges=np.column_stack([edges.row, edges.col]))
    igraph.set_random_number_generator(random.Random(seed))
    found = graph.community_leiden("modularity", weights=weights, resolution=RESOLUTION, n_iterations=2)
    partition = np.array(found.membership)
    links = np.zeros((len(found), len(found)))
    np.add.at(links, (partition[edges.row], partition[edges.col]), weights)
    links += links.T
    while len(links) > n_clusters:
        size = links.sum(1)
        small = size.argmin()
        into = np.where(np.arange(len(size)) == small, -1.0, links[small] / size).argmax()
        links[into] += links[small]
        links[:, into] += links[:, small]
        links = np.delete(np.delete(links, small, 0), small, 1)
        partition[partition == small] = into
        partition[partition > small] -= 1
    return partition


def run(variant: str, seed: int, n_digits: int, epochs: int) -> dict:
    """One run: a row of scores."""
    adata, truth = load(n_digits)
    begin = time.process_time()
    start = graph_partition(adata.X, N_DIGITS, seed)
    rmve.RMVE.setup_anndata(adata)
    torch.manual_seed(seed)
    model = rmve.RMVE(adata, n_components=N_DIGITS, **MODEL)
    model.train(
        max_epochs=epochs,
        batch_size=BATCH_SIZE,
        accelerator="cpu",
        precision="bf16-mixed",
        start=start,
        plan_kwargs={"view": deform} | PLAN | VARIANTS[variant],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    clusters = model.predict().cat.codes.to_numpy()
    found = score(truth, clusters)
    return {
        "variant": variant,
        "seed": seed,
        "digits": len(truth),
        "epochs": epochs,
        **{name: found[name] for name in ("accuracy", "nmi", "ari")},
        "smallest": np.bincount(clusters, minlength=N_DIGITS).min(),
        "start_accuracy": matched(truth, start).mean(),
        "seconds": time.process_time() - begin,
    }


def summarize(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean and spread over seeds."""

    def spread(values: pd.Series, digits: int, factor: float = 1.0) -> str:
        return f"{factor * values.mean():.{digits}f} ± {factor * values.std(ddof=0):.{digits}f}"

    table = []
    settings = ["variant", "digits", "epochs"]
    for key, group in rows.groupby(settings, sort=False):
        table.append(
            dict(zip(settings, key, strict=True))
            | {
                "accuracy %": spread(group["accuracy"], 2, 100),
                "lowest": f"{100 * group['accuracy'].min():.2f}",
                "NMI": spread(group["nmi"], 3),
                "ARI": spread(group["ari"], 3),
                "smallest cluster": group["smallest"].min(),
                "start %": spread(group["start_accuracy"], 2, 100),
                "CPU seconds": f"{group['seconds'].mean():.0f}",
                "seeds": ",".join(map(str, sorted(group["seed"]))),
            }
        )
    return pd.DataFrame(table)


NOTES = """Mean ± standard deviation over seeds. *accuracy*: under the best one-to-one matching of clusters and digits; *lowest*: the
worst run; *start*: accuracy of the partition that training starts from, the Leiden communities merged to ten; *CPU
seconds*: of one thread, start and training, with matrix products in bfloat16; *no balance*: no confidence either.

Labels were looked at while the rule for merging communities (starts of seeds 0 to 5), deformations, weights, schedule
and epochs were chosen (prototypes, and runs of seeds 0 to 2 and 10). The seeds of the table
had no part in that, and no finished run was left out."""


def report(table: pd.DataFrame) -> str:
    """The table with the commands and versions that made it."""
    commands = [
        f'    OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 python benchmarks/mnist.py --variants "{",".join(group["variant"])}" '
        f"--seeds {seeds} --max-epochs {epochs}" + (f" --subset {digits}" if digits < N_IMAGES else "")
        for (digits, epochs, seeds), group in table.groupby(["digits", "epochs", "seeds"], sort=False)
    ]
    return "\n\n".join([to_markdown(table), NOTES, "\n".join(commands), versions()]) + "\n"


def main() -> None:
    """Run what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="11,12,13,14,15,16,17,18,19,20")
    parser.add_argument("--variants", default="RMVE", help=f"of {', '.join(VARIANTS)}")
    parser.add_argument("--max-epochs", type=int, default=20)
    parser.add_argument("--subset", type=int, help="number of digits, for a quick run")
    parser.add_argument("--name", default="mnist", help="stem of the files in benchmarks/results")
    arguments = parser.parse_args()
    prepare()
    jobs = [
        (variant, seed, arguments.subset or N_IMAGES, arguments.max_epochs)
        for variant in arguments.variants.split(",")
        for seed in map(int, arguments.seeds.split(","))
    ]
    rows = run_missing(arguments.name, RUN, jobs, lambda *job: [run(*job)])
    table = summarize(rows)
    (RESULTS / f"{arguments.name}.md").write_text(report(table))
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
