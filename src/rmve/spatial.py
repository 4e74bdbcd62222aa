"""Linear map from an embedding to physical coordinates."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from sklearn.linear_model import RidgeCV
from sklearn.metrics import r2_score
from sklearn.model_selection import KFold

PENALTIES = np.logspace(-4, 4, 17)


@dataclass(frozen=True)
class SpatialMap:
    """Ridge regression ``s = A z + b`` with its cross-validated quality.

    Attributes
    ----------
    coef_
        ``A``, shape ``(n_axes, d)``, in coordinate units per latent unit.
    intercept_
        ``b``, shape ``(n_axes,)``, in coordinate units.
    r2_
        Cross-validated coefficient of determination of each axis, shape ``(n_axes,)``.
    error_
        Cross-validated median Euclidean error, in coordinate units.
    residual_sd_
        Cross-validated standard deviation of the residual of each axis, shape ``(n_axes,)``.
    n_cells_
        Number of cells with a position.
    """

    coef_: np.ndarray
    intercept_: np.ndarray
    r2_: np.ndarray
    error_: float
    residual_sd_: np.ndarray
    n_cells_: int

    @classmethod
    def fit(cls, embedding: np.ndarray, coordinates: np.ndarray, n_folds: int = 5, seed: int = 0) -> SpatialMap:
        """Fit on the cells that have a position.

        Parameters
        ----------
        embedding
            Shape ``(n, d)``.
        coordinates
            Shape ``(n, n_axes)``; rows of NaN are cells of unknown position.
        n_folds
            Folds of the cross-validation.
        seed
            Of the folds.

        Raises
        ------
        ValueError
            If fewer cells have a position than the embedding has dimensions, plus two.
        """
        known = ~np.isnan(coordinates).any(1)
        n_known, n_latent = int(known.sum()), embedding.shape[1]
        if n_known < n_latent + 2:
            raise ValueError(
                f"A linear map from {n_latent} latent dimensions needs at least {n_latent + 2} cells with a position; "
                f"there are {n_known}."
            )
        z, s = embedding[known], coordinates[known]
        predicted = np.empty_like(s)
        for train, test in KFold(min(n_folds, n_known), shuffle=True, random_state=seed).split(z):
            predicted[test] = RidgeCV(PENALTIES).fit(z[train], s[train]).predict(z[test]).reshape(len(test), -1)
        ridge = RidgeCV(PENALTIES).fit(z, s)
        return cls(
            coef_=np.atleast_2d(ridge.coef_),
            intercept_=np.atleast_1d(ridge.intercept_),
            r2_=np.atleast_1d(r2_score(s, predicted, multioutput="raw_values")),
            error_=float(np.median(np.linalg.norm(s - predicted, axis=1))),
            residual_sd_=(s - predicted).std(0),
            n_cells_=n_known,
        )

    def to_dict(self) -> dict[str, object]:
        """The map as plain arrays and numbers, as they are written to ``uns`` and to disk."""
        return asdict(self)

    def predict(self, embedding: np.ndarray) -> np.ndarray:
        """Coordinates of cells from their embedding, shape ``(n, d)`` to ``(n, n_axes)``."""
        return embedding @ self.coef_.T + self.intercept_
