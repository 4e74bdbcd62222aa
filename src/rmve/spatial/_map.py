"""Linear map from an embedding to physical coordinates, by itself: NumPy and scikit-learn, no AnnData, no model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from rmve._validation import check_choice
from rmve.spatial._affine import PRIOR_CELLS, Affine, held_out_slope
from rmve.spatial._folds import SCHEMES, folds
from rmve.spatial._quality import NO_SIGNAL, Quality, quality

KINDS = ("linear", "by_cluster")


@dataclass(frozen=True)
class SpatialMap:
    """Ridge regression ``s = A z + b`` with its quality on cells it did not see.

    ``kind="by_cluster"`` adds to ``A`` and ``b`` a deviation of each cluster, ``s = A z + b + sum_k w_k (A_k (z - m) + b_k)``
    for a cell that belongs to cluster ``k`` with probability ``w_k``; the deviations are shrunk towards zero.

    An embedding that learned positions knows those of its own cells better than others'. A map fitted to them spreads
    other cells too widely, or pulls them to the middle. Held-out cells tell by how much: the distances of all predictions
    from the mean position are multiplied by the slope of true on predicted positions there.

    Attributes
    ----------
    kind
        ``"linear"`` or ``"by_cluster"``.
    coef_
        ``A``, shape ``(n_axes, d)``, in coordinate units per latent unit.
    intercept_
        ``b``, shape ``(n_axes,)``, in coordinate units.
    mean_
        ``m``, mean of the embedding, shape ``(d,)``.
    leverage_
        ``(Z'Z + penalty)^{-1}`` of the centred embedding, shape ``(d, d)``: how far outside the known cells one is.
    slope_
        The factor of each axis that held-out cells asked for, at least 0, shape ``(n_axes,)``; ``A``, ``b``, ``A_k`` and
        ``b_k`` have it in them. 1 without held-out cells.
    residual_sd_
        Standard deviation of the residual of each axis on cells not seen, shape ``(n_axes,)``, in coordinate units.
    cluster_sd_
        The same for each cluster, shape ``(K, n_axes)``; ``(0, n_axes)`` without clusters.
    cluster_coef_, cluster_intercept_
        ``A_k`` and ``b_k``, shapes ``(K, n_axes, d)`` and ``(K, n_axes)``; ``K`` is 0 for ``kind="linear"``.
    r2_, error_, error_fraction_, distance_correlation_, p_value_, n_judged_
        See :class:`Quality`.
    n_cells_
        Number of cells with a position.
    """

    kind: str
    coef_: np.ndarray
    intercept_: np.ndarray
    mean_: np.ndarray
    leverage_: np.ndarray
    slope_: np.ndarray
    residual_sd_: np.ndarray
    cluster_sd_: np.ndarray
    cluster_coef_: np.ndarray
    cluster_intercept_: np.ndarray
    r2_: np.ndarray
    error_: float
    error_fraction_: float
    distance_correlation_: float
    p_value_: float
    n_judged_: int
    n_cells_: int

    def __repr__(self) -> str:
        kind = "linear map" if self.kind == "linear" else "linear map of each cluster"
        fit = "/".join(f"{value:.2f}" for value in np.atleast_1d(self.r2_))
        error = f"median error {self.error_:.4g} ({100 * self.error_fraction_:.1f} % of the diameter)"
        return f"SpatialMap: {kind}, R² {fit}, {error}, judged by {self.n_judged_} cells"

    @classmethod
    def fit(
        cls,
        embedding: np.ndarray,
        coordinates: np.ndarray,
        clusters: np.ndarray | None = None,
        kind: str = "linear",
        held_out: np.ndarray | None = None,
        scheme: str = "folds",
        groups: np.ndarray | None = None,
        n_folds: int = 5,
        seed: int = 0,
    ) -> SpatialMap:
        """Fit on the cells that have a position.

        Parameters
        ----------
        embedding
            Shape ``(n, d)``.
        coordinates
            Shape ``(n, n_axes)``; rows of NaN are cells of unknown position.
        clusters
            Probability of each cluster, shape ``(n, K)``; gives each cell a standard deviation of its own.
        kind
            ``"linear"``, or ``"by_cluster"``, which needs ``clusters``.
        held_out
            Cells that the embedding did not learn the position of, shape ``(n,)``: they set the slope of a map that is
            fitted to the others, and judge it, before the final one is fitted to all. ``None`` judges by
            cross-validation, which is right only if the embedding knows no positions.
        scheme, groups, n_folds
            Of the cross-validation, see :func:`cross_validate`.
        seed
            Of the folds.

        Raises
        ------
        ValueError
            If an option is unknown, ``clusters`` is missing, or fewer cells have a position than the embedding has
            dimensions, plus two.
        """
        _check_options(kind, clusters, scheme, groups)
        known = _known(embedding, coordinates)
        z, s = embedding[known], coordinates[known]
        w = None if clusters is None else clusters[known]
        if held_out is None:
            predicted = cross_validate(z, s, w, kind, scheme, None if groups is None else groups[known], n_folds, seed)
            judged, slope = np.ones(len(z), dtype=bool), np.ones(s.shape[1])
        else:
            judged = held_out[known]
            predicted = np.full_like(s, np.nan)
            rest = Affine.fit(z[~judged], s[~judged], None if w is None else w[~judged], kind)
            placed, center = rest.predict(z[judged], None if w is None else w[judged]), s[~judged].mean(0)
            slope = held_out_slope(s[judged], placed, center)
            of_others = held_out_slope(s[judged], placed, center, leave_one_out=True)
            predicted[judged] = center + of_others * (placed - center)
        residual = (s - predicted)[judged]
        variance = (residual**2).mean(0)
        cluster_sd = np.zeros((0, s.shape[1]))
        if w is not None:
            weight = w[judged]
            sums = PRIOR_CELLS * variance + weight.T @ residual**2
            cluster_sd = np.sqrt(sums / (PRIOR_CELLS + weight.sum(0)[:, None]))
        measured = quality(s[judged], predicted[judged], seed)
        fitted = Affine.fit(z, s, w, kind).stretched(slope, s.mean(0))
        return cls(
            kind=kind,
            coef_=fitted.coef,
            intercept_=fitted.intercept,
            mean_=fitted.mean,
            leverage_=fitted.leverage,
            slope_=slope,
            residual_sd_=np.sqrt(variance),
            cluster_sd_=cluster_sd,
            cluster_coef_=fitted.cluster_coef,
            cluster_intercept_=fitted.cluster_intercept,
            n_cells_=len(z),
            **{field.name: getattr(measured, field.name) for field in fields(Quality)},
        )

    @property
    def has_signal_(self) -> bool:
        """Whether the positions are predicted better than by chance, see :class:`Quality`."""
        return self.p_value_ <= NO_SIGNAL

    def to_dict(self) -> dict[str, Any]:
        """The map as plain arrays and numbers, as they are written to ``uns`` and to disk."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SpatialMap:
        """The map that :meth:`to_dict` wrote, also when it was read back from an h5ad file."""
        return cls(**{field.name: values[field.name] for field in fields(cls)})

    def predict(self, embedding: np.ndarray, clusters: np.ndarray | None = None) -> np.ndarray:
        """Coordinates of cells.

        Parameters
        ----------
        embedding
            Shape ``(n, d)``.
        clusters
            Probability of each cluster, shape ``(n, K)``; needed for ``kind="by_cluster"``.

        Returns
        -------
        Array of shape ``(n, n_axes)``, in coordinate units.

        Raises
        ------
        ValueError
            If ``clusters`` is needed and missing.
        """
        if self.kind == "by_cluster" and clusters is None:
            raise ValueError('A map of `kind="by_cluster"` needs `clusters`, the probability of each.')
        parts = (self.coef_, self.intercept_, self.mean_, self.leverage_, self.cluster_coef_, self.cluster_intercept_)
        return Affine(*parts).predict(embedding, clusters)

    def predict_sd(self, embedding: np.ndarray, clusters: np.ndarray | None = None) -> np.ndarray:
        """Standard deviation of each predicted coordinate.

        The residual's, of the cells' clusters if they are given, times ``sqrt(1 + h)`` with the leverage ``h``: cells far
        from those that the map was fitted to are less certain.

        Parameters
        ----------
        embedding, clusters
            As in :meth:`predict`.

        Returns
        -------
        Array of shape ``(n, n_axes)``, in coordinate units.
        """
        variance = self.residual_sd_[None] ** 2
        if clusters is not None and len(self.cluster_sd_):
            variance = clusters @ self.cluster_sd_**2
        centered = embedding - self.mean_
        leverage = np.einsum("nd,de,ne->n", centered, self.leverage_, centered)
        return np.sqrt(variance * (1.0 + leverage[:, None]))


def cross_validate(
    embedding: np.ndarray,
    coordinates: np.ndarray,
    clusters: np.ndarray | None = None,
    kind: str = "linear",
    scheme: str = "folds",
    groups: np.ndarray | None = None,
    n_folds: int = 5,
    seed: int = 0,
) -> np.ndarray:
    """Position of each cell, predicted by a map that was fitted without it.

    Parameters
    ----------
    embedding, coordinates, clusters, kind
        As in :meth:`SpatialMap.fit`.
    scheme
        ``"folds"``: random cells are left out. ``"blocks"``: whole regions of the tissue, so that no cell's neighbours
        help. ``"groups"``: one group after the other, such as a donor or a section.
    groups
        Group of each cell, shape ``(n,)``, for ``scheme="groups"``.
    n_folds
        Number of folds, for the first two.
    seed
        Of folds and blocks.

    Returns
    -------
    Array of shape ``(n, n_axes)``, rows of NaN where the position is unknown; :func:`quality` judges it.

    Raises
    ------
    ValueError
        As :meth:`SpatialMap.fit`, and if there are fewer than two groups.
    """
    _check_options(kind, clusters, scheme, groups)
    known = _known(embedding, coordinates)
    z, s = embedding[known], coordinates[known]
    w = None if clusters is None else clusters[known]
    predicted = np.empty_like(s)
    for train, test in folds(s, scheme, None if groups is None else np.asarray(groups)[known], n_folds, seed):
        affine = Affine.fit(z[train], s[train], None if w is None else w[train], kind)
        predicted[test] = affine.predict(z[test], None if w is None else w[test])
    full = np.full(coordinates.shape, np.nan)
    full[known] = predicted
    return full


def _check_options(kind: str, clusters: np.ndarray | None, scheme: str, groups: np.ndarray | None) -> None:
    check_choice("kind", kind, KINDS)
    check_choice("scheme", scheme, SCHEMES)
    if kind == "by_cluster" and clusters is None:
        raise ValueError('`kind="by_cluster"` needs `clusters`, the probability of each cluster.')
    if scheme == "groups" and groups is None:
        raise ValueError('`scheme="groups"` needs `groups`, the group of each cell.')


def _known(embedding: np.ndarray, coordinates: np.ndarray) -> np.ndarray:
    """Cells with a position; raises ValueError if they are too few for a map."""
    known = ~np.isnan(coordinates).any(1)
    n_known, d = int(known.sum()), embedding.shape[1]
    if n_known < d + 2:
        raise ValueError(
            f"A linear map from {d} latent dimensions needs at least {d + 2} cells with a position; there are {n_known}."
        )
    return known
