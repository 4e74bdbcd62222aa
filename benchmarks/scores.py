"""How clusters are scored against known types; labels are used for nothing else."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

N_BINS = 10


def matched(truth: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Whether each cell is in the cluster that the best one-to-one matching gives to its type (Hungarian method)."""
    types, clusters = pd.factorize(truth)[0], pd.factorize(labels)[0]
    table = np.zeros((types.max() + 1, clusters.max() + 1), dtype=int)
    np.add.at(table, (types, clusters), 1)
    match = dict(zip(*reversed(linear_sum_assignment(-table)), strict=True))
    return np.array([match.get(c, -1) for c in range(table.shape[1])])[clusters] == types


def calibration_error(correct: np.ndarray, confidence: np.ndarray, n_bins: int = N_BINS) -> float:
    """Expected calibration error: mean gap of confidence and accuracy over bins of equal width.

    Guo et al. (2017), "On calibration of modern neural networks", equation 3.
    """
    bins = np.clip((confidence * n_bins).astype(int), 0, n_bins - 1)
    gap = [abs(correct[bins == b].mean() - confidence[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins)]
    return float(np.sum(gap))


def score(truth: np.ndarray, labels: np.ndarray, confidence: np.ndarray | None = None) -> dict[str, float]:
    """Agreement of clusters with types: ARI, NMI, Hungarian accuracy, number of clusters, calibration."""
    correct = matched(truth, labels)
    return {
        "ari": adjusted_rand_score(truth, labels),
        "nmi": normalized_mutual_info_score(truth, labels),
        "accuracy": correct.mean(),
        "n_clusters": len(np.unique(labels)),
        "ece": float("nan") if confidence is None else calibration_error(correct, confidence),
    }
