"""Runs of methods on data: measured, kept on disk, not repeated, summarised."""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from data import FILES, RESULTS, Dataset, is_there, load
from rich.progress import track
from scores import score
from sklearn.metrics import adjusted_rand_score

#: Embeddings that several ways of clustering share.
CACHE = RESULTS / ".embeddings"
#: Columns that name a run.
RUN = ["data", "method", "clusters", "seed"]
PACKAGES = (
    "rmve",
    "scvi-tools",
    "scanpy",
    "torch",
    "scikit-learn",
    "leidenalg",
    "igraph",
    "pynndescent",
    "drvi-py",
    "phenograph",
    "harmonypy",
    "novosparc",
    "scace",
    "cytocipher",
)


@dataclass
class Meter:
    """CPU seconds of all threads, and gigabytes by which the peak of the process rose."""

    seconds: float = float("nan")
    peak_gb: float = float("nan")

    def __add__(self, other: Meter) -> Meter:
        return Meter(self.seconds + other.seconds, max(self.peak_gb, other.peak_gb))


@dataclass
class Clusters:
    """One clustering: labels, what they cost, and what the method knows about them.

    ``confidence`` is the probability of each cell's label; ``separation`` the smallest Bhattacharyya distance between
    two components that hold cells.
    """

    labels: np.ndarray
    cost: Meter
    confidence: np.ndarray | None = None
    separation: float = float("nan")

    def __post_init__(self):
        self.labels = np.asarray(self.labels).astype(str)


#: From the data, a seed and a folder for embeddings that several methods share, to named clusterings.
Method = Callable[[Dataset, int, Path], dict[str, Clusters]]


@contextmanager
def measured() -> Iterator[Meter]:
    """CPU time (of all threads and ended child processes) and peak memory of a block, above what was held before it."""
    meter, before = Meter(), _memory("VmRSS", reset=True)
    start = sum(os.times()[:4])
    yield meter
    meter.seconds = sum(os.times()[:4]) - start
    meter.peak_gb = max(_memory("VmHWM") - before, 0.0)


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing that the code of a block prints is shown."""
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def _memory(name: str, reset: bool = False) -> float:
    """A line of Linux's account of this process, in GB (nan elsewhere); ``reset`` forgets the peak."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return float("nan")
    return next(int(line.split()[1]) / 2**20 for line in lines if line.startswith(name))


def memory_gb(peak: bool = False) -> float:
    """What this process holds, or has held at its peak, in GB, its libraries included."""
    return _memory("VmHWM" if peak else "VmRSS")


def cached_embedding(folder: Path, name: str, make: Callable[[], np.ndarray]) -> tuple[np.ndarray, Meter]:
    """An embedding that several ways of clustering share, with what it took to make it the first time."""
    path, notes = folder / f"{name}.npy", folder / f"{name}.json"
    if path.exists() and notes.exists():
        return np.load(path), Meter(**json.loads(notes.read_text()))
    with measured() as meter:
        embedding = make()
    folder.mkdir(parents=True, exist_ok=True)
    np.save(path, embedding)
    notes.write_text(json.dumps(asdict(meter)))
    return embedding, meter


class Table:
    """The rows of one benchmark: ``results/NAME.csv``, with the labels of its runs in ``results/labels/NAME/``.

    The labels are kept so that agreement between seeds, and any other score, can be had without running again.
    """

    def __init__(self, name: str):
        self.name, self.csv, self.labels = name, RESULTS / f"{name}.csv", RESULTS / "labels" / name
        self.labels.mkdir(parents=True, exist_ok=True)
        self.rows = self._read()

    def _read(self) -> pd.DataFrame:
        return pd.read_csv(self.csv) if self.csv.exists() else pd.DataFrame(columns=RUN)

    def _label_file(self, data: str, method: str) -> Path:
        return self.labels / (re.sub(r"[^\w.]+", "-", f"{data}_{method}").strip("-") + ".npz")

    def read_labels(self, data: str, method: str) -> dict[str, np.ndarray]:
        """Labels of all runs of one method on one data set, by ``"CLUSTERS, seed SEED"``."""
        path = self._label_file(data, method)
        if not path.exists():
            return {}
        with np.load(path) as stored:
            return dict(stored)

    def forget(self, data: list[str], methods: list[str], seeds: list[int]) -> None:
        """Take some runs as not done; their rows stay in the file until they are repeated."""
        jobs = set(product(data, methods, seeds))
        done = zip(self.rows["data"], self.rows["method"], self.rows["seed"], strict=True)
        self.rows = self.rows[[job not in jobs for job in done]]

    def missing(self, data: list[str], methods: list[str], seeds: list[int]) -> list[tuple[str, str, int]]:
        """Runs that are asked for and not there."""
        done = set(zip(self.rows["data"], self.rows["method"], self.rows["seed"], strict=True))
        return [job for job in product(data, methods, seeds) if job not in done]

    def run(self, data: str, method: str, seed: int, function: Method) -> None:
        """Run one method once and add a row for each of its clusterings."""
        dataset = load(data)
        rows, labels = [], {}
        for name, clusters in function(dataset, seed, CACHE / data.replace(":", "-")).items():
            labels[f"{name}, seed {seed}"] = pd.factorize(clusters.labels)[0].astype(np.int16)
            rows.append(
                {"data": data, "method": method, "clusters": name, "seed": seed}
                | score(dataset.truth, clusters.labels, clusters.confidence)
                | {"separation": clusters.separation}
                | asdict(clusters.cost)
            )
        np.savez_compressed(self._label_file(data, method), **(self.read_labels(data, method) | labels))
        new, old = pd.DataFrame(rows), self._read()  # another process may have written since
        old = old[~((old["data"] == data) & (old["method"] == method) & (old["seed"] == seed))]
        self.rows = pd.concat([old, new], ignore_index=True) if len(old) else new
        self.rows.round(4).to_csv(self.csv, index=False)

    def labels_of(self, run: pd.Series) -> np.ndarray:
        """Clusters of one row."""
        return self.read_labels(run["data"], run["method"])[f"{run['clusters']}, seed {run['seed']}"]

    def agreement(self, runs: pd.DataFrame) -> float:
        """Mean ARI between any two of some runs on the same data."""
        labels = [self.labels_of(run) for _, run in runs.iterrows()]
        pairs = [adjusted_rand_score(a, b) for a, b in combinations(labels, 2)]
        return float(np.mean(pairs)) if pairs else float("nan")


def prepare() -> None:
    """No warnings and messages of training, and as many threads as ``OMP_NUM_THREADS`` says (1 without it)."""
    warnings.filterwarnings("ignore")
    for name in (
        "lightning.pytorch",
        "lightning.pytorch.utilities.rank_zero",
        "lightning.fabric.utilities.seed",
        "scvi",
    ):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


def run_missing(
    name: str, keys: list[str], jobs: list[tuple], function: Callable[..., list[dict]], types: dict | None = None
) -> pd.DataFrame:
    """Rows of ``results/NAME.csv``, after the jobs that are not there; ``keys`` are the columns that name a job."""
    path = RESULTS / f"{name}.csv"
    rows = pd.read_csv(path, dtype=types) if path.exists() else pd.DataFrame(columns=keys)
    done = set(rows[keys].itertuples(index=False, name=None))
    for job in track([job for job in jobs if job not in done], description=name):
        new = pd.DataFrame(function(*job))
        rows = pd.concat([rows, new], ignore_index=True) if len(rows) else new
        rows.round(4).to_csv(path, index=False)
    return rows


def span(values: pd.Series) -> str:
    """Least and greatest of some numbers, once if they are equal."""
    return "-".join(dict.fromkeys(str(value) for value in (values.min(), values.max())))


def benchmark(
    script: str,
    about: str,
    methods: dict[str, Method],
    summarize: Callable[[Table], pd.DataFrame],
    notes: str,
    data: Iterable[str] = ("pbmc3k",),
    chosen: Iterable[str] = ("rmve", "pca"),
) -> None:
    """The command line of a script: run what is missing, and write the table that ``summarize`` makes of all rows."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", default=",".join(data), help=f"of {', '.join(FILES)}, and others that `data.load` explains"
    )
    parser.add_argument("--methods", default=",".join(chosen), help=f"of {'; '.join(methods)}")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--name", default=script, help="stem of the files in benchmarks/results")
    parser.add_argument(
        "--only-table", action="store_true", help="run nothing, write the table of the runs that are there"
    )
    parser.add_argument("--again", action="store_true", help="repeat runs that are there, and replace them")
    arguments = parser.parse_args()
    prepare()
    table = Table(arguments.name)
    if not arguments.only_table:
        seeds = [int(seed) for seed in arguments.seeds.split(",")]
        jobs = [name for name in arguments.data.split(",") if is_there(name)], arguments.methods.split(","), seeds
        if arguments.again:
            table.forget(*jobs)
        for job in track(table.missing(*jobs), description=arguments.name):
            table.run(*job, methods[job[1]])
    table.rows = table.rows.sort_values(["data", "method", "clusters", "seed"])
    options = f'--data "{arguments.data}" --methods "{arguments.methods}" --seeds {arguments.seeds}'
    command = f"OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 python benchmarks/{script}.py {options} --name {arguments.name}"
    summary = summarize(table)
    write_table(arguments.name, summary, notes, command)
    print(summary.to_string(index=False))


def write_table(name: str, table: pd.DataFrame, notes: str, command: str) -> str:
    """Write ``results/NAME.md``: a table, what its columns mean, and the command and versions that it is from."""
    text = f"{to_markdown(table)}\n\n{notes}\n\nCommand: `{command}`\n\n{versions()}\n"
    (RESULTS / f"{name}.md").write_text(text)
    return text


def versions() -> str:
    """Versions of Python and of the packages that matter, as far as they are installed."""
    found = [f"Python {platform.python_version()}"]
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return f"{', '.join(found)}; {torch.get_num_threads()} thread(s)"


def to_markdown(table: pd.DataFrame) -> str:
    """A data frame as a Markdown table."""
    lines = ["| " + " | ".join(map(str, table.columns)) + " |", "|" + "---|" * table.shape[1]]
    lines += ["| " + " | ".join(str(value) for value in row) + " |" for row in table.itertuples(index=False)]
    return "\n".join(lines)
