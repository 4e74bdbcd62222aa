"""Types of unlabelled cells, from few labels: RMVE, scANVI and classifiers on principal components.

    python benchmarks/semi_supervised.py --data pbmc3k,zeisel --fractions 0.01,0.05,0.2 --seeds 0

For each fraction, that share of the cells of each type keeps its label (at least three cells of each), the others are
"Unknown" to all methods, and only those are scored. In the scenario "new types" no cell of two types has a label, one
drawn from the largest third of the types and one from the middle third; a fifth of the cells of the other types has.

Every run is a row of ``benchmarks/results/NAME.csv``; runs that are there already are not repeated, so an interrupted
benchmark goes on where it stopped. ``NAME.md`` are the tables made from the rows.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from data import RESULTS, load
from methods import train_rmve
from peers import QUIET, pca_embedding
from runs import RUN, Meter, cached_embedding, measured, prepare, run_missing, to_markdown, versions
from scores import calibration_error
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score, f1_score, roc_auc_score
from sklearn.neighbors import KNeighborsClassifier

UNKNOWN, NEW_TYPES = "Unknown", "new types"
#: Least number of labelled cells of a known type.
MIN_LABELLED = 3
#: Share of the cells of known types that have labels in the scenario of new types.
NEW_TYPES_FRACTION = 0.2
SCORES = {
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "ece": "ECE",
    "n_new": "new clusters",
}
NEW_SCORES = {
    "ari": "ARI",
    "known_accuracy": "accuracy, known types",
    "recall": "new types found",
    "purity": "purity",
    "false_new": "known called new",
    "auc": "AUC",
    "n_new": "new clusters",
}
NOTES = (
    "Scores of unlabelled cells only, mean over seeds (± standard deviation, if there are several). *ECE*: expected "
    "calibration error of the probability of the called type; a cell in a new cluster counts as wrong. *New types found*: "
    "share of the cells of the hidden types that are in a new cluster; *purity*: share of the cells of new clusters that "
    "are of their cluster's commonest type; *known called new*: share of the unlabelled cells of known types that are in a "
    "new cluster; *AUC*: area under the ROC curve for telling cells of hidden types from the others, by the probability of "
    "the new clusters, or of not being of the called type for methods that know no new types; *ARI*: of all unlabelled "
    "cells. *Seconds*: CPU time from counts to labels. Rows that the last command does not name come from earlier ones."
)


@dataclass
class Called:
    """Types called by a method: the probability of each, shape ``(n, types)``, and what they cost."""

    probabilities: pd.DataFrame
    cost: Meter


#: From the data with the column ``obs["label"]``, a seed and a folder for what scenarios share, to called types.
Classifier = Callable[[ad.AnnData, int, Path], Called]


# ------------------------------------------------------------------ scenarios


def keep_labels(truth: np.ndarray, fraction: float, rng: np.random.Generator) -> np.ndarray:
    """Labels of which a share of each type is left, and at least three cells; the others are unknown."""
    labels = np.full(len(truth), UNKNOWN, dtype=object)
    for name in np.unique(truth):
        cells = np.flatnonzero(truth == name)
        n_labelled = min(len(cells), max(MIN_LABELLED, round(fraction * len(cells))))
        labels[rng.choice(cells, n_labelled, replace=False)] = name
    return labels


def draw_hidden(truth: np.ndarray, rng: np.random.Generator) -> list[str]:
    """One type of the largest third and one of the middle third."""
    names, sizes = np.unique(truth, return_counts=True)
    large, middle, _ = np.array_split(names[np.argsort(-sizes, kind="stable")], 3)
    return [rng.choice(large), rng.choice(middle)]


def hide(truth: np.ndarray, scenario: str, seed: int) -> tuple[np.ndarray, list[str]]:
    """Labels as the methods see them, and the types that have none."""
    rng = np.random.default_rng(seed)
    if scenario != NEW_TYPES:
        return keep_labels(truth, float(scenario), rng), []
    hidden = draw_hidden(truth, rng)
    labels = keep_labels(truth, NEW_TYPES_FRACTION, rng)
    labels[np.isin(truth, hidden)] = UNKNOWN
    return labels, hidden


# -------------------------------------------------------------------- methods


def rmve_labels(adata: ad.AnnData, seed: int, shared: Path) -> Called:
    """RMVE with its defaults."""
    with measured() as cost:
        model = train_rmve(adata, None, seed, setup={"labels_key": "label"})
        soft = model.predict(soft=True)
    return Called(soft, cost)


def scanvi_labels(adata: ad.AnnData, seed: int, shared: Path) -> Called:
    """scANVI with its defaults, from an SCVI model that all scenarios of a data set and seed share."""
    import scvi

    folder = shared / f"scvi-{seed}"
    plain = ad.AnnData(adata.X, adata.obs, adata.var)
    scvi.settings.seed = seed
    scvi.model.SCVI.setup_anndata(plain)

    def train() -> np.ndarray:
        model = scvi.model.SCVI(plain)
        model.train(**QUIET)
        model.save(folder, overwrite=True)
        return model.get_latent_representation()

    _, earlier = cached_embedding(shared, f"scvi-{seed}", train)
    pretrained = scvi.model.SCVI.load(folder, adata=plain)
    with measured() as cost:
        model = scvi.model.SCANVI.from_scvi_model(pretrained, UNKNOWN, labels_key="label", adata=plain)
        model.train(**QUIET)
        soft = model.predict(soft=True)
    scvi.settings.seed = None
    return Called(soft, earlier + cost)


def classifier(make: Callable[[], LogisticRegression | KNeighborsClassifier]) -> Classifier:
    """A classifier of scikit-learn on principal components, trained on the labelled cells."""

    def method(adata: ad.AnnData, seed: int, shared: Path) -> Called:
        points, earlier = cached_embedding(shared, f"pca-{seed}", lambda: pca_embedding(adata, seed))
        labelled = (adata.obs["label"] != UNKNOWN).to_numpy()
        with measured() as cost:
            fitted = make().fit(points[labelled], adata.obs["label"][labelled].astype(str))
            soft = fitted.predict_proba(points)
        return Called(pd.DataFrame(soft, index=adata.obs_names, columns=fitted.classes_), earlier + cost)

    return method


METHODS: dict[str, Classifier] = {
    "rmve": rmve_labels,
    "scanvi": scanvi_labels,
    "logistic regression": classifier(lambda: LogisticRegression(max_iter=1000)),
    "kNN": classifier(KNeighborsClassifier),
}


# --------------------------------------------------------------------- scores


def score(truth: np.ndarray, probabilities: pd.DataFrame, hidden: list[str]) -> dict[str, float]:
    """How well the types of some cells are called."""
    names = probabilities.columns.to_numpy().astype(str)
    soft = probabilities.to_numpy()
    called, confidence = names[soft.argmax(1)], soft.max(1)
    is_new = np.isin(called, names[_new(names)])
    correct = called == truth
    known = ~np.isin(truth, hidden)
    scores = {
        "accuracy": correct.mean(),
        "macro_f1": f1_score(truth, called, labels=np.unique(truth), average="macro", zero_division=0),
        "ece": calibration_error(correct, confidence),
        "n_new": len(np.unique(called[is_new])),
        "false_new": is_new[known].mean(),
    }
    if not hidden:
        return scores
    commonest = [np.unique(truth[called == name], return_counts=True)[1].max() for name in np.unique(called[is_new])]
    novelty = soft[:, _new(names)].sum(1) if _new(names).any() else 1.0 - confidence
    # no cell of a hidden type can be called by its name
    return scores | {
        "accuracy": np.nan,
        "macro_f1": np.nan,
        "ece": np.nan,
        "ari": adjusted_rand_score(truth, called),
        "known_accuracy": correct[known].mean(),
        "recall": is_new[~known].mean(),
        "purity": np.sum(commonest) / is_new.sum() if is_new.any() else np.nan,
        "auc": roc_auc_score(~known, novelty),
    }


def _new(names: np.ndarray) -> np.ndarray:
    return np.char.startswith(names, "new_")


# ----------------------------------------------------------------------- runs

COLUMNS = [name if name != "clusters" else "scenario" for name in RUN]


def run(data: str, method: str, scenario: str, seed: int, shared: Path) -> dict[str, object]:
    """One row of the benchmark."""
    dataset = load(data)
    has_type = dataset.truth != UNKNOWN
    adata, truth = dataset.adata[has_type].copy(), dataset.truth[has_type]
    labels, hidden = hide(truth, scenario, seed)
    adata.obs["label"] = pd.Categorical(labels.astype(str))
    called = METHODS[method](adata, seed, shared / data.replace(":", "-"))
    free = labels == UNKNOWN
    return (
        dict(zip(COLUMNS, (data, method, scenario, seed), strict=True))
        | {"hidden": " + ".join(hidden)}
        | score(truth[free], called.probabilities[free], hidden)
        | asdict(called.cost)
    )


# -------------------------------------------------------------------- summary


def summarize(rows: pd.DataFrame, columns: dict[str, str]) -> pd.DataFrame:
    """Mean and spread over seeds of some scores."""
    lines = []
    for (data, scenario, method), group in rows.groupby(["data", "scenario", "method"], sort=False):
        labelled = {} if scenario == NEW_TYPES else {"labelled": f"{100 * float(scenario):g} %"}
        lines.append(
            {"data": data}
            | labelled
            | {"method": method}
            | {title: _mean(group[column], 1 if column == "n_new" else 3) for column, title in columns.items()}
            | {"seconds": f"{group['seconds'].mean():.0f}", "runs": len(group)}
        )
    return pd.DataFrame(lines)


def _mean(values: pd.Series, digits: int) -> str:
    if values.isna().all():
        return ""
    spread = f" ± {values.std(ddof=0):.{digits}f}" if len(values) > 1 else ""
    return f"{values.mean():.{digits}f}{spread}"


def report(rows: pd.DataFrame) -> str:
    """The tables in Markdown."""
    order = {name: number for number, name in enumerate(METHODS)}
    rows = rows.sort_values("method", key=lambda column: column.map(order), kind="stable")
    rows = rows.sort_values(["data", "scenario"], kind="stable")
    new = rows["scenario"] == NEW_TYPES
    parts = [summarize(rows[~new], SCORES), summarize(rows[new], NEW_SCORES)]
    titles = ["Some cells of all types labelled", "Two types without a labelled cell"]
    return "\n\n".join(
        f"**{title}**\n\n{to_markdown(part)}" for title, part in zip(titles, parts, strict=True) if len(part)
    )


def main() -> None:
    """Run what is missing and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="pbmc3k,zeisel,scmix", help="names as in benchmarks/clustering.py")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--fractions", default="0.01,0.05,0.2", help="shares of cells with labels")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--without-new-types", action="store_true", help="leave out the scenario with new types")
    parser.add_argument("--name", default="semi_supervised", help="stem of the files in benchmarks/results")
    arguments = parser.parse_args()
    prepare()
    scenarios = [f"{float(fraction):g}" for fraction in arguments.fractions.split(",") if fraction]
    scenarios += [] if arguments.without_new_types else [NEW_TYPES]
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    jobs = product(arguments.data.split(","), arguments.methods.split(","), scenarios, seeds)
    folder = RESULTS / f".{arguments.name}"
    types = {"scenario": str, "hidden": str}
    text = report(run_missing(arguments.name, COLUMNS, list(jobs), lambda *job: [run(*job, folder)], types))
    command = (
        f"OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 python benchmarks/semi_supervised.py --data {arguments.data} "
        f'--methods "{arguments.methods}" --fractions {arguments.fractions} --seeds {arguments.seeds} '
        f"--name {arguments.name}"
    )
    (RESULTS / f"{arguments.name}.md").write_text(f"{text}\n\n{NOTES}\n\nLast command: `{command}`\n\n{versions()}\n")
    print(text)


if __name__ == "__main__":
    main()
