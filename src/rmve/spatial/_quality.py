"""How well predicted positions fit true ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.metrics import r2_score

#: Pairs of cells that the correlation of distances is computed from, and shuffles of the test of no signal.
MAX_PAIRS, N_PERMUTATIONS = 100_000, 199
#: Above this p-value there is no sign that the embedding knows where a cell is.
NO_SIGNAL = 0.05
#: Below this share of explained variance an axis is predicted, if at all, little better than by the mean.
LITTLE = 0.1


@dataclass(frozen=True)
class Quality:
    """How well predicted positions fit true ones, cells that the map did not see.

    Attributes
    ----------
    r2_
        Coefficient of determination of each axis, shape ``(n_axes,)``.
    error_
        Median Euclidean error, in coordinate units.
    error_fraction_
        The same as a fraction of the tissue's diameter, the diagonal of the true positions' bounding box; infinite if
        all of them are at one place.
    distance_correlation_
        Pearson correlation of the distances between cells, true and predicted (CeLEry, Nature Communications 2023).
    p_value_
        Share of random pairings of true and predicted positions with an error as small: small if there is a signal.
    n_judged_
        Number of cells.
    """

    r2_: np.ndarray
    error_: float
    error_fraction_: float
    distance_correlation_: float
    p_value_: float
    n_judged_: int

    @property
    def has_signal_(self) -> bool:
        """Whether the positions are predicted better than by chance, at the level :data:`NO_SIGNAL`."""
        return self.p_value_ <= NO_SIGNAL


def quality(true: np.ndarray, predicted: np.ndarray, seed: int = 0) -> Quality:
    """Compare predicted with true positions.

    Parameters
    ----------
    true, predicted
        Shape ``(n, n_axes)``, without NaN, ``n >= 2``.
    seed
        Of the pairs and shuffles.
    """
    rng = np.random.default_rng(seed)
    n = len(true)
    error = float(np.median(np.linalg.norm(true - predicted, axis=1)))
    if n * (n - 1) // 2 <= MAX_PAIRS:
        a, b = np.triu_indices(n, 1)
    else:
        a, b = rng.integers(n, size=(2, MAX_PAIRS))
        a, b = a[a != b], b[a != b]
    distances = [np.linalg.norm(s[a] - s[b], axis=1) for s in (true, predicted)]
    varies = all(d.std() > 0 for d in distances)
    scale = true.std(0) + np.finfo(float).tiny

    def misfit(order: np.ndarray) -> float:
        return float((((true[order] - predicted) / scale) ** 2).sum())

    diameter = float(np.linalg.norm(np.ptp(true, axis=0)))
    actual = misfit(np.arange(n))
    as_good = sum(misfit(rng.permutation(n)) <= (1 + 1e-9) * actual for _ in range(N_PERMUTATIONS))
    return Quality(
        r2_=np.atleast_1d(r2_score(true, predicted, multioutput="raw_values")),
        error_=error,
        error_fraction_=error / diameter if diameter > 0 else np.inf,
        distance_correlation_=float(np.corrcoef(*distances)[0, 1]) if varies else 0.0,
        p_value_=(1 + as_good) / (1 + N_PERMUTATIONS),
        n_judged_=n,
    )
