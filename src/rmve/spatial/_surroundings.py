"""Which cells surround a cell in its tissue."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from sklearn.neighbors import NearestNeighbors

#: Neighbours of a cell that lies on no grid: ``benchmarks/results/neighbourhoods.md`` varies the number.
N_NEIGHBORS = 15
#: Spots of the first ring of a grid, how many of them are nearest, and the largest distance within the ring and the least
#: beyond it, in steps of the grid: 1 and 1.73 on a hexagonal grid, 1.41 and 2 on a square one, with room for noise.
RINGS = {6: (6, 1.25, 1.5), 8: (4, 1.6, 1.8)}


def grid_step(distance: np.ndarray, n_nearest: int) -> float:
    """Step of a grid: the median over spots of the mean distance to their nearest ones, from distances of shape ``(n, k)``."""
    return float(np.median(distance[:, :n_nearest].mean(1)))


def ring_size(positions: np.ndarray) -> int | None:
    """Number of spots around a spot, if they lie on a grid.

    Parameters
    ----------
    positions
        Positions of one section, shape ``(n, p)``.

    Returns
    -------
    6 on a hexagonal grid, 8 on a square one, ``None`` where there is none.
    """
    n_near = min(max(RINGS) + 1, len(positions) - 1)
    if positions.shape[1] != 2 or n_near <= min(RINGS):
        return None
    distance = NearestNeighbors(n_neighbors=n_near + 1).fit(positions).kneighbors(positions)[0][:, 1:]
    for size, (n_nearest, within, beyond) in RINGS.items():
        if size >= n_near:
            continue
        steps = np.median(distance, axis=0) / max(grid_step(distance, n_nearest), 1e-300)
        if steps[0] > 0 and steps[size - 1] <= within and steps[size] >= beyond:
            return size
    return None


def surroundings(
    positions: np.ndarray, sections: np.ndarray | None = None, n_neighbors: int | None = None
) -> sp.csr_matrix:
    """Graph of the cells that surround each cell, within its section.

    Parameters
    ----------
    positions
        Positions, shape ``(n, p)``, in one unit.
    sections
        Section of each cell, shape ``(n,)``; ``None`` is one for all.
    n_neighbors
        Number of neighbours. ``None`` is the first ring of a grid, and :data:`N_NEIGHBORS` where there is no grid.

    Returns
    -------
    Matrix of shape ``(n, n)``: 1 for neighbours, 0 for others and for a cell itself; symmetric. On a grid, spots at its edge
    have fewer neighbours.
    """
    sections = np.zeros(len(positions), dtype=int) if sections is None else np.asarray(sections)
    rows, columns = [], []
    for section in np.unique(sections):
        cells = np.flatnonzero(sections == section)
        here = positions[cells]
        ring = None if n_neighbors is not None else ring_size(here)
        wanted = min(n_neighbors or ring or N_NEIGHBORS, len(cells) - 1)
        if wanted < 1:
            continue
        distance, near = NearestNeighbors(n_neighbors=wanted + 1).fit(here).kneighbors(here)
        close = np.ones_like(distance, dtype=bool)
        if ring is not None:  # beyond the edge there is no spot
            n_nearest, within, beyond = RINGS[ring]
            close = distance <= grid_step(distance[:, 1:], n_nearest) * (within + beyond) / 2
        source, target = np.repeat(cells, wanted + 1)[close.ravel()], cells[near.ravel()[close.ravel()]]
        rows.append(source[source != target])
        columns.append(target[source != target])
    row, column = (np.concatenate(part) if part else np.zeros(0, dtype=int) for part in (rows, columns))
    graph = sp.csr_matrix((np.ones(len(row), dtype=np.float32), (row, column)), shape=(len(positions),) * 2)
    return graph.maximum(graph.T).tocsr()
