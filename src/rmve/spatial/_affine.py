"""Affine maps by ridge regression, one for all cells or one for each cluster, and how far they spread new cells."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from sklearn.linear_model import RidgeCV

PENALTIES = np.logspace(-4, 4, 17)
#: Judged cells that prior knowledge counts for: in the residual variance of one cluster that of all clusters, in the slope
#: of the true on the predicted positions a slope of one.
PRIOR_CELLS = 10.0
#: Standard errors of a slope above one that are taken from it.
STANDARD_ERRORS = 1.0


@dataclass(frozen=True)
class Affine:
    """The numbers of a map, without its quality; see :class:`rmve.SpatialMap`."""

    coef: np.ndarray
    intercept: np.ndarray
    mean: np.ndarray
    leverage: np.ndarray
    cluster_coef: np.ndarray
    cluster_intercept: np.ndarray

    @classmethod
    def fit(cls, z: np.ndarray, s: np.ndarray, w: np.ndarray | None, kind: str) -> Affine:
        """Ridge regression of ``s``, shape ``(n, p)``, on ``z``, shape ``(n, d)``; the penalty is found by leave-one-out.

        ``kind="by_cluster"`` adds a second one of the residuals on ``w_k (z - m, 1)``, with ``w`` of shape ``(n, K)``.
        """
        mean, d = z.mean(0), z.shape[1]
        ridge = RidgeCV(PENALTIES).fit(z - mean, s)
        coef, center = np.atleast_2d(ridge.coef_), np.atleast_1d(ridge.intercept_)
        centered = z - mean
        affine = cls(
            coef=coef,
            intercept=center - coef @ mean,
            mean=mean,
            leverage=np.linalg.inv(centered.T @ centered + ridge.alpha_ * np.eye(d)),
            cluster_coef=np.zeros((0, s.shape[1], d)),
            cluster_intercept=np.zeros((0, s.shape[1])),
        )
        if kind == "linear":
            return affine
        assert w is not None  # each caller has checked it
        k = w.shape[1]
        deviation = RidgeCV(PENALTIES, fit_intercept=False).fit(_by_cluster(centered, w), s - affine.predict(z, None))
        blocks = np.atleast_2d(deviation.coef_).reshape(s.shape[1], k, d + 1).transpose(1, 0, 2)
        return cls(affine.coef, affine.intercept, mean, affine.leverage, blocks[..., :d], blocks[..., d])

    def stretched(self, slope: np.ndarray, center: np.ndarray) -> Affine:
        """The same map with the distance of its predictions from a point multiplied by ``slope``."""
        return replace(
            self,
            coef=slope[:, None] * self.coef,
            intercept=center + slope * (self.intercept - center),
            cluster_coef=slope[:, None] * self.cluster_coef,
            cluster_intercept=slope * self.cluster_intercept,
        )

    def predict(self, z: np.ndarray, w: np.ndarray | None) -> np.ndarray:
        """Positions, shape ``(n, p)``, of cells at ``z``, shape ``(n, d)``; ``w`` is read by a map of clusters only."""
        s = z @ self.coef.T + self.intercept
        if len(self.cluster_coef) == 0:
            return s
        assert w is not None  # the caller of a map of clusters has them
        centered = z - self.mean
        deviation = np.einsum("kad,nd->nka", self.cluster_coef, centered) + self.cluster_intercept
        return s + np.einsum("nk,nka->na", w, deviation)


def _by_cluster(centered: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Features ``w_k (z, 1)`` of each cell, shape ``(n, K (d + 1))``."""
    with_one = np.column_stack([centered, np.ones(len(centered))])
    return (w[:, :, None] * with_one[:, None]).reshape(len(w), -1)


def held_out_slope(
    true: np.ndarray, predicted: np.ndarray, center: np.ndarray, leave_one_out: bool = False
) -> np.ndarray:
    """Slope of the true on the predicted positions of cells that an embedding did not learn, at least 0.

    It is below 1 if the embedding overfits the positions that it learned: new cells are then spread too widely. It is
    above 1 if the embedding pulls new cells to the middle. Chance lifts the slope of few cells, too: a slope above 1 counts
    only as far as it is more than :data:`STANDARD_ERRORS` standard errors above 1.

    The regression goes through ``center`` on each axis, with a slope of one as worth :data:`PRIOR_CELLS` cells.

    Parameters
    ----------
    true, predicted
        Shape ``(n, n_axes)``.
    center
        Point that stays where it is, shape ``(n_axes,)``.
    leave_one_out
        Whether to give each cell the slope of the others: they can then judge what the slope does.

    Returns
    -------
    Shape ``(n_axes,)``, or ``(n, n_axes)`` with ``leave_one_out``.
    """
    x, y = predicted - center, true - center
    products, squares = y * x, x**2
    prior = PRIOR_CELLS * squares.mean(0)

    def total(values: np.ndarray) -> np.ndarray:
        return values.sum(0) - values if leave_one_out else values.sum(0)

    spread = total(squares) + prior
    slope = np.divide(total(products) + prior, spread, out=np.ones_like(spread), where=spread > 0)
    # of each cell the residual times what it is multiplied by, whatever the variance of the residuals
    squared = total(products**2) - 2.0 * slope * total(products * squares) + slope**2 * total(squares**2)
    error = np.divide(np.sqrt(np.maximum(squared, 0.0)), spread, out=np.zeros_like(spread), where=spread > 0)
    return np.where(slope > 1.0, np.maximum(slope - STANDARD_ERRORS * error, 1.0), np.maximum(slope, 0.0))
