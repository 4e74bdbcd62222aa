"""Runs of methods on data: measured, kept on disk, not repeated, summarised."""

from __future__ import annotations

import json
import platform
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from data import RESULTS, Dataset, load
from rich.progress import track
from scores import score
from sklearn.metrics import adjusted_rand_score

#: Columns that name a run.
RUN = ["data", "method", "clusters", "seed"]
PACKAGES = ("rmve", "scvi-tools", "scanpy", "torch", "scikit-learn", "leidenalg", "igraph", "drvi-py", "antipode")


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
    """CPU time (of all threads) and peak memory of a block, above what the process held before it."""
    meter, before = Meter(), _memory("VmRSS", reset=True)
    start = time.process_time()
    yield meter
    meter.seconds = time.process_time() - start
    meter.peak_gb = max(_memory("VmHWM") - before, 0.0)


def _memory(name: str, reset: bool = False) -> float:
    """A line of Linux's account of this process, in GB (nan elsewhere); ``reset`` forgets the peak."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return float("nan")
    return next(int(line.split()[1]) / 2**20 for line in lines if line.startswith(name))


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
    """The rows of one benchmark: ``results/NAME.csv``, with the labels of each run in ``results/.NAME/``."""

    def __init__(self, name: str):
        self.name, self.csv, self.folder = name, RESULTS / f"{name}.csv", RESULTS / f".{name}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.rows = self._read()

    def _read(self) -> pd.DataFrame:
        rows = pd.read_csv(self.csv) if self.csv.exists() else pd.DataFrame(columns=RUN)
        # a run counts as done while its clusters are there: in a fresh checkout all are repeated
        there = [self.label_file(*run).exists() for run in rows[RUN].itertuples(index=False)]
        return rows[np.array(there, dtype=bool)]

    def label_file(self, data: str, method: str, clusters: str, seed: int) -> Path:
        """Where the clusters of a run are kept."""
        return self.folder / f"{data.replace(':', '-')}_{method}_{clusters}_{seed}.npy".replace(" ", "-")

    def missing(self, data: list[str], methods: list[str], seeds: list[int]) -> list[tuple[str, str, int]]:
        """Runs that are asked for and not there."""
        done = set(zip(self.rows["data"], self.rows["method"], self.rows["seed"], strict=True))
        return [job for job in product(data, methods, seeds) if job not in done]

    def run(self, data: str, method: str, seed: int, function: Method) -> None:
        """Run one method once and add a row for each of its clusterings."""
        dataset = load(data)
        shared = self.folder / "embeddings" / data.replace(":", "-")
        rows = []
        for name, clusters in function(dataset, seed, shared).items():
            np.save(self.label_file(data, method, name, seed), pd.factorize(clusters.labels)[0].astype(np.int16))
            rows.append(
                {"data": data, "method": method, "clusters": name, "seed": seed}
                | score(dataset.truth, clusters.labels, clusters.confidence)
                | {"separation": clusters.separation}
                | asdict(clusters.cost)
            )
        new, old = pd.DataFrame(rows), self._read()  # another process may have written since
        self.rows = pd.concat([old, new], ignore_index=True) if len(old) else new
        self.rows.round(4).to_csv(self.csv, index=False)

    def agreement(self, runs: pd.DataFrame) -> float:
        """Mean ARI between the seeds of one method on one data set."""
        labels = [np.load(self.label_file(*run)) for run in runs[RUN].itertuples(index=False)]
        pairs = [adjusted_rand_score(a, b) for a, b in combinations(labels, 2)]
        return float(np.mean(pairs)) if pairs else float("nan")


def run_all(name: str, methods: dict[str, Method], data: list[str], chosen: list[str], seeds: list[int]) -> Table:
    """Run what is missing of a benchmark."""
    warnings.filterwarnings("ignore")
    table = Table(name)
    for job in track(table.missing(data, chosen, seeds), description=name):
        table.run(*job, methods[job[1]])
    return table


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
