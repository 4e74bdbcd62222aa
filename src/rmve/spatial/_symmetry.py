"""Axes of a tissue that look the same on both sides: what a linear map cannot tell apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import pearsonr
from sklearn.linear_model import RidgeCV
from sklearn.metrics import r2_score

from rmve.spatial._affine import PENALTIES

#: Shares of the cells on one side of the middles that are tried.
SHARES = (0.3, 0.4, 0.5, 0.6, 0.7)
#: Least share of the variance of the distance from the middle that is explained, largest p-value of that, and how many times
#: as much it is as the explained share of the position itself.
MIN_R2, MAX_P, RATIO = 0.2, 0.01, 2.0
#: Fewest cells that can say so.
MIN_CELLS = 10


@dataclass(frozen=True)
class Mirror:
    """An axis along which cells know how far from a middle they are, and not on which side.

    Attributes
    ----------
    axis
        Number of the axis.
    middle
        Coordinate of the middle.
    r2_of_distance, r2
        Explained share of the variance of the distance from the middle, and of the position, on cells not seen.
    """

    axis: int
    middle: float
    r2_of_distance: float
    r2: float


def find_mirrors(embedding: np.ndarray, coordinates: np.ndarray, judged: np.ndarray, r2: np.ndarray) -> list[Mirror]:
    """Axes along which the two sides of a tissue look alike, as hemispheres and rings do.

    The distance from the middle is fitted by ridge regression, to all cells but those that judge. The middle is the
    quantile of :data:`SHARES` with the best fit.

    Parameters
    ----------
    embedding
        Shape ``(n, d)``.
    coordinates
        Shape ``(n, n_axes)``, without NaN.
    judged
        Cells that judge, shape ``(n,)``; their positions were not learned.
    r2
        Coefficient of determination of the map on each axis, of cells not seen, shape ``(n_axes,)``.

    Returns
    -------
    One for each such axis. None if fewer than :data:`MIN_CELLS` cells judge, or are left.
    """
    if min(judged.sum(), (~judged).sum()) < MIN_CELLS:
        return []
    found = []
    for axis, s in enumerate(coordinates.T):
        fits = []
        for middle in np.quantile(s, SHARES):
            distance = np.abs(s - middle)
            ridge = RidgeCV(PENALTIES).fit(embedding[~judged], distance[~judged])
            fits.append((r2_score(distance[~judged], ridge.predict(embedding[~judged])), middle, ridge))
        _, middle, ridge = max(fits, key=lambda fit: fit[0])
        true, predicted = np.abs(s - middle)[judged], ridge.predict(embedding[judged])
        if np.ptp(true) == 0 or np.ptp(predicted) == 0:
            continue
        explained, p = r2_score(true, predicted), pearsonr(true, predicted, alternative="greater").pvalue
        if explained >= MIN_R2 and p <= MAX_P and explained >= RATIO * r2[axis]:
            found.append(Mirror(axis, float(middle), float(explained), float(r2[axis])))
    return found
