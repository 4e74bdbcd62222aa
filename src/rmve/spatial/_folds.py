"""Which cells are left out together when a map is judged."""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.cluster import KMeans
from sklearn.model_selection import GroupKFold, KFold, LeaveOneGroupOut

from rmve._validation import check_positive_int

SCHEMES = ("folds", "blocks", "groups")
#: Blocks of the tissue that make up a fold of ``scheme="blocks"``.
BLOCKS_PER_FOLD = 4


def folds(
    coordinates: np.ndarray, scheme: str, groups: np.ndarray | None, n_folds: int, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Training and test rows of each fold.

    Parameters
    ----------
    coordinates
        Shape ``(n, n_axes)``, without NaN.
    scheme, groups, n_folds, seed
        As in :func:`rmve.spatial.cross_validate`.

    Raises
    ------
    ValueError
        If there are fewer than two groups, folds or places, or a cell has no group.
    """
    n = len(coordinates)
    if scheme == "groups":
        assert groups is not None  # the caller asked for them
        if pd.isna(groups).any():
            raise ValueError("`groups` has missing values for cells with a position. Fill them in.")
        if len(np.unique(groups)) < 2:
            raise ValueError("Leaving groups out needs at least two `groups` with positions.")
        return list(LeaveOneGroupOut().split(coordinates, groups=groups))
    check_positive_int("n_folds", n_folds, minimum=2)
    n_places = len(np.unique(coordinates, axis=0))
    n_folds = min(n_folds, n if scheme == "folds" else n_places)
    if n_folds < 2:
        raise ValueError(f"`scheme={scheme!r}` needs positions at two places or more; there is one.")
    if scheme == "folds":
        return list(KFold(n_folds, shuffle=True, random_state=seed).split(coordinates))
    scaled = coordinates / coordinates.std()
    blocks = KMeans(min(BLOCKS_PER_FOLD * n_folds, n_places), n_init=1, random_state=seed).fit_predict(scaled)
    return list(GroupKFold(n_folds).split(coordinates, groups=blocks))
