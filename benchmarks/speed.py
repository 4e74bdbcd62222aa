"""Speed and memory of RMVE and scVI: same data, network, batch size and threads, in turn in one process.

    OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 python benchmarks/speed.py

Times of training are of the last of three epochs (the joint phase of RMVE, with its neighbour graph and repulsion), as CPU
seconds on a CPU and as seconds on a GPU. Methods take turns round by round, so that a busy machine slows all of them.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import anndata as ad
import h5py
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scanpy as sc
import scipy.sparse as sp
import scvi
import torch
from data import RESULTS, load
from lightning.pytorch.callbacks import Callback
from runs import measured, memory_gb, prepare, run_missing, to_markdown, versions

import rmve

N_CELLS, N_GENES, DENSITY, N_TYPES, K, BATCH_SIZE = 8192, 2000, 0.11, 8, 20, 128
#: Cells simulated one by one; larger data repeats them.
MAX_SIMULATED = 50_000
NETWORK = {"n_hidden": 128, "n_layers": 2, "n_latent": 10}
EPOCHS, MAX_BATCHES = 3, 400
KEYS = ["part", "device", "method", "value", "round"]
#: What is varied in each part, and which methods take turns.
PARTS = {
    "training": ([0], ["rmve nb", "scvi nb", "scvi zinb", "rmve zinb", "matrix products"]),
    "components": ([1, 10, 20, 50, 200], ["rmve nb"]),
    "genes": ([500, 2000, 5000, 20_000], ["rmve nb", "scvi nb"]),
    "cells": ([10_000, 100_000, 1_000_000], ["rmve nb", "scvi nb"]),
    "density": ([0.02, 0.05, 0.11, 0.3], ["rmve nb", "scvi nb"]),
    "mini-batch": ([128, 256, 512, 1024], ["rmve nb", "scvi nb", "scvi zinb"]),
    "clusters": (["pbmc3k", "kang"], ["rmve", "scvi + Leiden"]),
    "disk": ([100_000, 1_000_000], ["rmve"]),
    "command line": ([100_000], ["rmve cluster", "rmve cluster --backed"]),
}
ROUNDS = {
    "training": 5,
    "components": 5,
    "genes": 2,
    "cells": 1,
    "density": 2,
    "mini-batch": 3,
    "clusters": 1,
    "disk": 1,
    "command line": 1,
}


@lru_cache(maxsize=2)
def simulate(n_cells: int, n_genes: int, density: float) -> ad.AnnData:
    """Poisson counts of eight types of cells, scaled to a density, with a random neighbour graph of 15 edges."""
    rng = np.random.default_rng(0)
    profiles = rng.dirichlet(np.full(n_genes, 0.3), N_TYPES)
    low, high = 10.0, 1e6
    for _ in range(40):
        total = (low * high) ** 0.5
        too_dense = (1 - np.exp(-total * profiles)).mean() > density
        low, high = (low, total) if too_dense else (total, high)
    n = min(n_cells, MAX_SIMULATED)
    blocks = []
    for start in range(0, n, 4096):
        size = min(4096, n - start)
        depth = total * rng.lognormal(0.0, 0.3, (size, 1))
        x = rng.poisson(profiles[rng.integers(N_TYPES, size=size)] * depth).astype(np.float32)
        x[x.sum(1) == 0, 0] = 1.0
        blocks.append(sp.csr_matrix(x))
    x = sp.vstack(blocks * -(-n_cells // n), format="csr")[:n_cells]
    adata = ad.AnnData(x)
    indptr = np.arange(0, 15 * n_cells + 1, 15)
    edges = rng.integers(n_cells, size=15 * n_cells, dtype=np.int32)
    adata.obsp["graph"] = sp.csr_matrix((np.ones(15 * n_cells, np.float32), edges, indptr), shape=(n_cells, n_cells))
    return adata


class Clock(Callback):
    """Seconds and cells of the last epoch."""

    def __init__(self, gpu: bool):
        self.gpu = gpu

    def now(self) -> float:
        if self.gpu:
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()

    def on_train_epoch_start(self, trainer, plan) -> None:
        self.cells, self.start = 0, self.now()

    def on_train_batch_end(self, trainer, plan, outputs, batch, batch_idx) -> None:
        self.cells += batch["X"].shape[0]

    def on_train_epoch_end(self, trainer, plan) -> None:
        self.seconds = self.now() - self.start


def trained(method: str, adata: ad.AnnData, device: str, n_components: int, batch_size: int):
    """A model trained for a few epochs from a random start, and the clock of its last epoch."""
    name, likelihood = method.split()
    clock = Clock(device != "cpu")
    options = {
        "max_epochs": EPOCHS,
        "batch_size": batch_size,
        "train_size": 1.0,
        "callbacks": [clock],
        "limit_train_batches": MAX_BATCHES,
        "accelerator": device,
        "devices": 1,
        "logger": None,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    if name == "rmve":
        rmve.RMVE.setup_anndata(adata, neighbors_key="graph")
        model = rmve.RMVE(adata, n_components=n_components, gene_likelihood=likelihood, **NETWORK)
        options["start"] = np.random.default_rng(0).integers(n_components, size=adata.n_obs)
    else:
        scvi.model.SCVI.setup_anndata(adata)
        model = scvi.model.SCVI(adata, gene_likelihood=likelihood, **NETWORK)
    model.train(**options)
    return model, clock


def matrix_products(n_genes: int, batch_size: int) -> float:
    """Seconds of a training step's products with the genes: two forward, three backward."""
    x, w = torch.randn(batch_size, n_genes), torch.randn(n_genes, NETWORK["n_hidden"])
    start = time.process_time()
    for _ in range(50):
        h = x @ w
        _ = h @ w.T, x.T @ h, x.T @ h, x @ w
    return (time.process_time() - start) / 50


def time_to_clusters(method: str, adata: ad.AnnData, device: str) -> dict:
    """CPU seconds from counts to clusters, each method with its defaults."""
    quiet = {"accelerator": device, "devices": 1, "logger": None, "enable_progress_bar": False}
    with measured() as meter:
        if method == "rmve":
            rmve.RMVE.setup_anndata(adata)
            model = rmve.RMVE(adata)
            model.train(enable_model_summary=False, **quiet)
            labels = model.predict()
        else:
            scvi.model.SCVI.setup_anndata(adata)
            model = scvi.model.SCVI(adata)
            model.train(enable_model_summary=False, **quiet)
            adata.obsm["X_scVI"] = model.get_latent_representation()
            sc.pp.neighbors(adata, use_rep="X_scVI")
            sc.tl.leiden(adata, flavor="igraph", n_iterations=2, directed=False)
            labels = adata.obs["leiden"]
    return {"seconds": meter.seconds, "peak_gb": meter.peak_gb, "clusters": labels.nunique()}


def write_to_disk(path: Path, n_cells: int) -> None:
    """A file of simulated counts, stored by rows, written block by block."""
    adata = simulate(min(n_cells, MAX_SIMULATED), N_GENES, DENSITY)
    names = pd.DataFrame(index=[f"cell {i}" for i in range(n_cells)])
    ad.AnnData(adata.X).write_h5ad(path)
    with h5py.File(path, "r+") as file:
        for start in range(adata.n_obs, n_cells, adata.n_obs):
            ad.io.sparse_dataset(file["X"]).append(adata.X[: n_cells - start])
        del file["obs"]
        ad.io.write_elem(file, "obs", names)


class Stages(Callback):
    """CPU seconds from the start of this process at which training began, and at the end of each of its epochs."""

    def __init__(self):
        self.began, self.ends = None, []

    def on_train_start(self, trainer, plan) -> None:
        self.began = time.process_time()

    def on_train_epoch_end(self, trainer, plan) -> None:
        self.ends.append(time.process_time())


def from_disk(path: Path) -> dict:
    """All of a run from a file that stays on disk: seconds of each stage, and the peak of the whole process."""
    prepare()
    clock, stages = time.process_time, Stages()
    imported, start = memory_gb(), clock()
    adata = ad.read_h5ad(path, backed="r")
    rmve.RMVE.setup_anndata(adata)
    model = rmve.RMVE(adata)
    model.train(accelerator="cpu", callbacks=[stages], quiet=True)
    trained = clock()
    model.annotate()
    return {
        "start_seconds": stages.began - start,
        "epoch_seconds": (stages.ends[-1] - stages.began) / len(stages.ends),
        "epochs": len(stages.ends),
        "annotate_seconds": clock() - trained,
        "seconds": clock() - start,
        "imported_gb": imported,
        "process_gb": memory_gb(peak=True),
        "clusters": adata.obs["rmve"].nunique(),
    }


def in_own_process(function, *arguments):
    """The result of a function that is called in a fresh process, where no memory is in use yet."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def run_from_disk(n_cells: int) -> dict:
    """Write a file, run, remove the file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cells.h5ad"
        in_own_process(write_to_disk, path, n_cells)
        return {"file_gb": path.stat().st_size / 2**30, **in_own_process(from_disk, path)}


def command_line(path: Path, options: list[str]) -> float:
    """Peak of the memory of ``rmve cluster`` on a file, in GB; two epochs are enough to reach it."""
    options = ["-o", str(path.with_stem("clustered")), "--max-epochs", "2", "--quiet", *options]
    subprocess.run([sys.executable, "-m", "rmve", "cluster", str(path), *options], check=True)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20


def run_command_line(method: str, n_cells: int) -> dict:
    """Write a file, run the command on it, remove both files."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cells.h5ad"
        in_own_process(write_to_disk, path, n_cells)
        peak = in_own_process(command_line, path, method.split()[2:])
        return {"file_gb": path.stat().st_size / 2**30, "process_gb": peak}


def run(part: str, device: str, method: str, value: str, turn: int) -> list[dict]:
    """One run."""
    row = {"part": part, "device": device, "method": method, "value": value, "round": turn}
    torch.manual_seed(turn)
    if method == "matrix products":
        return [row | {"cells_per_second": BATCH_SIZE / matrix_products(N_GENES, BATCH_SIZE)}]
    if part == "disk":
        return [row | run_from_disk(int(value))]
    if part == "command line":
        return [row | run_command_line(method, int(value))]
    if part == "clusters":
        adata = load(value).adata
        adata.obsp.clear()
        return [row | {"cells": adata.n_obs} | time_to_clusters(method, adata, device)]
    size = {"n_cells": N_CELLS, "n_genes": N_GENES, "density": DENSITY}
    name = {"cells": "n_cells", "genes": "n_genes", "density": "density"}.get(part)
    if name is not None:
        size[name] = float(value) if name == "density" else int(value)
    adata = simulate(**size)
    n_components = int(value) if part == "components" else K
    batch_size = int(value) if part == "mini-batch" else BATCH_SIZE
    with measured() as meter:
        model, clock = trained(method, adata, device, n_components, batch_size)
    row |= {"cells_per_second": clock.cells / clock.seconds, "peak_gb": meter.peak_gb}
    if part == "training":
        start = clock.now()
        _ = model.predict(soft=True) if method.startswith("rmve") else model.get_latent_representation()
        row["inferred_per_second"] = adata.n_obs / (clock.now() - start)
    return [row]


def training_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Medians over rounds and, round by round, the ratios to scVI."""
    wide = rows.pivot_table(index="round", columns="method", values="cells_per_second")
    lines = []
    for method, group in rows.groupby("method", sort=False):
        line = {"method": method, "cells per second": f"{group['cells_per_second'].median():.0f}"}
        for peer in ("scvi nb", "scvi zinb"):
            line[f"times {peer}"] = f"{(wide[method] / wide[peer]).median():.2f}"
        inferred = group["inferred_per_second"].median()
        line["inference, cells per second"] = "" if np.isnan(inferred) else f"{inferred:.0f}"
        line["peak GB above data"] = "" if np.isnan(inferred) else f"{group['peak_gb'].median():.2f}"
        lines.append(line | {"rounds": len(group)})
    return pd.DataFrame(lines)


def scaling_table(rows: pd.DataFrame, part: str) -> pd.DataFrame:
    """Cells per second for each value, and relative to the first."""
    rows = rows.assign(value=rows["value"].astype(float))
    wide = rows.pivot_table(index="value", columns="method", values="cells_per_second", aggfunc="median")
    table = pd.DataFrame({part: [f"{value:g}" for value in wide.index]})
    for method in wide:
        table[f"{method}, cells per second"] = [f"{value:.0f}" for value in wide[method]]
    if "scvi nb" not in wide:
        # the rounds are paired: a busy machine slows all values of a round
        paired = rows.pivot_table(index="round", columns="value", values="cells_per_second")
        table["cost, relative to the first"] = (
            (1 / paired.div(paired.iloc[:, 0], axis=0)).median().round(2).astype(str).to_numpy()
        )
    else:
        table["ratio"] = (wide["rmve nb"] / wide["scvi nb"]).round(2).to_numpy()
    peak = rows[rows["method"] == "rmve nb"].groupby("value")["peak_gb"].median().reindex(wide.index)
    table["rmve, peak GB above data"] = peak.round(2).to_numpy()
    return table


def batch_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Cells per second for each size of mini-batch, relative to scVI with that size and with its default of 128."""
    rows = rows.assign(value=rows["value"].astype(float))
    wide = rows.pivot_table(index="round", columns=["method", "value"], values="cells_per_second")
    table = pd.DataFrame({"mini-batch": [f"{size:g}" for size in wide["rmve nb"]]})
    for method in wide.columns.levels[0]:
        table[f"{method}, cells per second"] = wide[method].median().round().astype(int).to_numpy()
    table["times scvi nb"] = (wide["rmve nb"] / wide["scvi nb"]).median().round(2).to_numpy()
    for peer in ("scvi nb", "scvi zinb"):
        ratio = wide["rmve nb"].div(wide[peer, float(BATCH_SIZE)], axis=0)
        table[f"times {peer} at {BATCH_SIZE}"] = ratio.median().round(2).to_numpy()
    return table


def clusters_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Seconds from counts to clusters, and relative to scVI with Leiden on the same data."""
    peer = rows[rows["method"] == "scvi + Leiden"].set_index("value")["seconds"]
    return pd.DataFrame(
        {
            "data": rows["value"],
            "cells": rows["cells"].astype(int),
            "method": rows["method"],
            "seconds from counts to clusters": rows["seconds"].round().astype(int),
            "relative to scvi + Leiden": (rows["seconds"] / rows["value"].map(peer)).round(2),
            "clusters": rows["clusters"].astype(int),
        }
    )


def disk_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Stages and memory of runs from disk."""
    whole = {"start_seconds": "start, s", "epoch_seconds": "epoch, s", "epochs": "epochs"}
    whole |= {"annotate_seconds": "annotate, s", "seconds": "all, s", "clusters": "clusters"}
    sizes = {"file_gb": "file, GB", "imported_gb": "libraries, GB", "process_gb": "peak of the process, GB"}
    cells = rows["value"].astype(int).rename("cells")
    numbers = rows[[*whole]].round().astype(int).rename(columns=whole)
    return pd.concat([cells, numbers, rows[[*sizes]].round(2).rename(columns=sizes)], axis=1)


def command_line_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Memory of the command line, with the counts in memory and on disk."""
    table = rows[["value", "method", "file_gb", "process_gb"]].round(2)
    return table.set_axis(["cells", "command", "file, GB", "peak of the process, GB"], axis=1)


def summarize(rows: pd.DataFrame) -> str:
    """All tables as Markdown."""
    text = []
    for (device, part), group in rows.groupby(["device", "part"], sort=False):
        text.append(f"**{part.capitalize()}, {device}**")
        if part == "training":
            text.append(to_markdown(training_table(group)))
        elif part == "mini-batch":
            text.append(to_markdown(batch_table(group)))
        elif part == "clusters":
            text.append(to_markdown(clusters_table(group)))
        elif part == "command line":
            text.append(to_markdown(command_line_table(group)))
        elif part == "disk":
            text.append(to_markdown(disk_table(group)))
        else:
            text.append(to_markdown(scaling_table(group, part)))
    return "\n\n".join(text)


def draw(rows: pd.DataFrame) -> None:
    """Throughput against what is varied."""
    parts = [part for part in ("components", "genes", "cells", "density", "mini-batch") if part in set(rows["part"])]
    if not parts:
        return
    figure, axes = plt.subplots(1, len(parts), figsize=(2.6 * len(parts), 2.8), layout="constrained", squeeze=False)
    styles = {"rmve nb": ("RMVE", "#D55E00", "o"), "scvi nb": ("scVI (nb)", "#E69F00", ">")}
    for ax, part in zip(axes[0], parts, strict=True):
        for method, (name, color, marker) in styles.items():
            chosen = rows[(rows["part"] == part) & (rows["method"] == method)]
            median = chosen.groupby(chosen["value"].astype(float))["cells_per_second"].median() / 1000
            if len(median):
                ax.plot(median.index, median, marker=marker, color=color, label=name)
        ax.set(xscale="log", ylim=(0, 1.08 * ax.dataLim.ymax), xlabel=part)
        values = sorted(rows.loc[rows["part"] == part, "value"].astype(float).unique())
        ax.set_xticks(values, [f"{value:g}" if value < 1e5 else f"{value:.0e}".replace("e+0", "e") for value in values])
        ax.minorticks_off()
        ax.grid(lw=0.5, alpha=0.5)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("training, thousand cells / s")
    axes[0, -1].legend(frameon=False)
    plt.rcParams["svg.hashsalt"] = "speed"
    figure.savefig(RESULTS / "speed.svg", metadata={"Date": None})


NOTES = (
    "Training: the last of three epochs, two hidden layers of 128, 10 latent dimensions, batches of 128; 8192 simulated "
    "cells x 2000 genes, density 0.11, and 20 components, where not varied. *Matrix products*: those with the genes' weights "
    "alone, which no implementation can do without. scVI's default likelihood is zinb, RMVE's nb. On a CPU the times are CPU "
    "seconds, on a machine shared with other work: ratios are taken within rounds, in which the methods take turns; "
    "absolute numbers say little. Peak memory is what a run added to a process that held the data."
)


def main() -> None:
    """Run what is missing, write the tables and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument(
        "--only-table", action="store_true", help="run nothing, write the tables of the rows that are there"
    )
    parser.add_argument("--devices", default="cpu,cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    prepare()
    jobs = []
    parts = [] if arguments.only_table else arguments.parts.split(",")
    for device, part in product(arguments.devices.split(","), parts):
        values, methods = PARTS[part]
        for turn, value, method in product(range(ROUNDS[part]), values, methods):
            if not (device != "cpu" and method == "matrix products"):
                jobs.append((part, device, method, str(value), turn))
    rows = run_missing("speed", KEYS, jobs, run, {"value": str})
    order = {part: place for place, part in enumerate(PARTS)}
    rows = rows.sort_values("part", key=lambda parts: parts.map(order), kind="stable")
    tables = summarize(rows)
    command = "OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 python benchmarks/speed.py"
    (RESULTS / "speed.md").write_text(f"{tables}\n\n{NOTES}\n\nCommand: `{command}`\n\n{versions()}; {machine()}\n")
    draw(rows)
    print(tables)


def machine() -> str:
    """Processor, and GPU if there is one."""
    try:
        with open("/proc/cpuinfo") as file:
            name = next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        name = "unknown processor"
    return f"{name}, {torch.cuda.get_device_name()}" if torch.cuda.is_available() else name


if __name__ == "__main__":
    main()
