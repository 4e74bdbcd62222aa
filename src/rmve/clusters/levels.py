"""Levels of a clustering: from the mixture's components down to one cluster, nested.

Two clusters are one if some hundred molecules of a cell cannot tell them apart. Two disjoint samples of a cell's molecules
are assigned separately: their joint distribution says how often one cell falls into two different clusters. A union of
components is a mixture again, so rows and columns of the joint distribution add up, and the whole tree follows from one
``(K, K)`` matrix.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from operator import index

import numpy as np

#: Molecules in each of the two samples of a cell, at most half of what it has. With a fixed number, a level means the same
#: at every sequencing depth: ``benchmarks/results/levels.md`` varies it.
N_MOLECULES = 500
#: Two clusters are merged as one while the halves of a cell fall into both of them at least half as often as those of two
#: different cells do. The ratio is at least 1 within one population, and 0 if no cell is between the two.
MIN_CONFUSION = 0.5
#: Fewer cells than these are no population of their own.
MIN_CELLS = 5


@dataclass(frozen=True)
class MergeTree:
    """Merges of the components that hold cells, down to one cluster.

    Attributes
    ----------
    n_components
        ``K``, with those that hold no cells.
    active
        Components that hold cells, ascending, shape ``(m + 1,)``.
    kept, merged
        The two clusters of each merge, shape ``(m,)``; a union has the number of its component ``kept``.
    confusion
        Confusion of the two, shape ``(m,)``: see :func:`confusion_of`.
    distance
        Increase of the within-cluster sum of squares of the latent means per cell (Ward), shape ``(m,)``.
    n_indistinct
        Number of leading merges of clusters that are one: the default level is what they leave.
    effect, support
        What unseen molecules say for the two clusters, shape ``(m,)``: see :func:`rmve.clusters.support.support_of_merges`. NaN
        for data without molecules.
    """

    n_components: int
    active: np.ndarray
    kept: np.ndarray
    merged: np.ndarray
    confusion: np.ndarray
    distance: np.ndarray
    n_indistinct: int
    effect: np.ndarray
    support: np.ndarray

    @property
    def n_finest(self) -> int:
        """Clusters of the finest level: components that hold cells."""
        return len(self.active)

    @property
    def n_coarsest(self) -> int:
        """Clusters of the coarsest level; 1 unless merges are forbidden."""
        return self.n_finest - len(self.kept)

    @property
    def n_default(self) -> int:
        """Clusters of the default level."""
        return self.n_finest - self.n_indistinct

    def cut(self, n_clusters: int) -> np.ndarray:
        """Cluster of each component at a level.

        Parameters
        ----------
        n_clusters
            Number of clusters, from :attr:`n_coarsest` to :attr:`n_finest`.

        Returns
        -------
        Integers, shape ``(K,)``: the number of the component that a cluster is named by. Components without cells are on
        their own.

        Raises
        ------
        ValueError
            If the tree has no such level.
        """
        if not self.n_coarsest <= n_clusters <= self.n_finest:
            raise ValueError(f"`n_clusters={n_clusters}` is not between {self.n_coarsest} and {self.n_finest}.")
        belongs = np.arange(self.n_components)
        for kept, merged in zip(
            *(side[: self.n_finest - n_clusters] for side in (self.kept, self.merged)), strict=True
        ):
            belongs[belongs == merged] = kept
        return belongs

    def to_dict(self) -> dict:
        """The tree as a dictionary of lists and numbers."""
        return {
            name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: dict) -> MergeTree:
        """The inverse of :meth:`to_dict`.

        Raises
        ------
        ValueError
            If the values are not those of a tree.
        """
        try:
            types = dict.fromkeys(("confusion", "distance", "effect", "support"), float)
            arrays = ("active", "kept", "merged", *types)
            values = {field.name: values[field.name] for field in fields(cls)}
            values |= {name: np.asarray(values[name], dtype=types.get(name, int)).reshape(-1) for name in arrays}
            values |= {name: index(values[name]) for name in ("n_components", "n_indistinct")}
            tree = cls(**values)
            left = tree.active.tolist()
            fits = left == sorted(set(left)) and all(0 <= component < tree.n_components for component in left)
            if {len(values[name]) for name in arrays[1:]} != {len(tree.kept)} or not fits:
                raise ValueError("lengths or numbers do not fit")
            for kept, merged in zip(tree.kept.tolist(), tree.merged.tolist(), strict=True):
                if kept not in left or kept == merged:
                    raise ValueError("a merge names a cluster that is gone")
                left.remove(merged)
            if not 0 <= tree.n_indistinct <= len(tree.kept):
                raise ValueError("the default level is not a level")
        except (KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"no merge tree: {error}") from error
        return tree


def joint_of_halves(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Joint distribution of the components of two halves of one cell.

    Parameters
    ----------
    first, second
        ``q(y|x')`` and ``q(y|x'')``, shape ``(n, K)``.

    Returns
    -------
    Symmetric matrix of shape ``(K, K)`` that sums to ``n``.
    """
    joint = first.T.astype(float) @ second.astype(float)
    return 0.5 * (joint + joint.T)


def confusion_of(joint: np.ndarray) -> np.ndarray:
    """How often two clusters share a cell, relative to chance: ``c_ab = P(a, b) / (P(a) P(b))``.

    ``P(a, b)`` is the probability that one half of a cell's molecules falls into ``a`` and the other into ``b``; ``P(a)
    P(b)`` is that of the halves of two different cells. The confusion of two unions is the mean of those of their parts,
    weighted by their sizes.

    Parameters
    ----------
    joint
        From :func:`joint_of_halves`, shape ``(K, K)``.

    Returns
    -------
    Symmetric matrix of shape ``(K, K)``; 0 for clusters without cells.
    """
    size = joint.sum(0)
    by_chance = size[:, None] * size[None] / max(size.sum(), 1e-300)
    return np.divide(joint, by_chance, out=np.zeros_like(joint), where=by_chance > 0)


def merge_tree(
    joint: np.ndarray,
    assigned: np.ndarray,
    latent: np.ndarray,
    n_known: int = 0,
    min_confusion: float = MIN_CONFUSION,
    min_cells: int = MIN_CELLS,
) -> MergeTree:
    """Merge clusters one pair at a time: the most confused first, then those of the least distance (Ward).

    Clusters of fewer than :data:`MIN_CELLS` cells join the nearest first. While two clusters are one population
    (``confusion >= min_confusion``), size must not matter: the most confused pair is merged. Those that are left are
    different, and a coarser level is one that loses little: Ward's criterion.

    Parameters
    ----------
    joint
        From :func:`joint_of_halves`, shape ``(K, K)``.
    assigned
        Component of each cell, integers in ``[0, K)``, shape ``(n,)``.
    latent
        Latent means, shape ``(n, d)``.
    n_known
        Components of known types, the first ones. No two of them are one population, and they are merged last.
    min_confusion
        Least confusion of clusters that are one population.
    min_cells
        Fewest cells of a population.
    """
    n_components = len(joint)
    size = np.bincount(assigned, minlength=n_components).astype(float)
    sums = np.zeros((n_components, latent.shape[1]))
    np.add.at(sums, assigned, latent)
    active = np.flatnonzero(size > 0)
    keep = np.zeros_like(joint)
    keep[np.ix_(active, active)] = joint[np.ix_(active, active)]
    joint = keep
    known = np.arange(n_components) < n_known
    alive, rows, n_indistinct, indistinct = active.tolist(), [], 0, True
    while len(alive) > 1:
        at = np.array(alive)
        pairs = np.triu(np.ones((len(at), len(at)), dtype=bool), 1)
        confusion = confusion_of(joint)[np.ix_(at, at)]
        center = sums[at] / size[at, None]
        squared = ((center[:, None] - center[None]) ** 2).sum(-1)
        ward = size[at, None] * size[at] / (size[at, None] + size[at]) * squared / len(assigned)
        allowed = pairs & ~(known[at, None] & known[at])
        small = size[at] < min_cells
        small = allowed & (small[:, None] | small)
        indistinct = indistinct and bool((small | (confusion >= min_confusion))[allowed].any())
        if small.any() and indistinct:
            allowed, score = small, -ward
        else:
            allowed = allowed if allowed.any() else pairs
            score = confusion if indistinct else -ward
        score = np.where(allowed, score, -np.inf)
        i, j = np.unravel_index(score.argmax(), score.shape)
        kept, merged = at[i], at[j]
        rows.append((kept, merged, confusion[i, j], ward[i, j]))
        n_indistinct += indistinct
        joint[kept] += joint[merged]
        joint[:, kept] += joint[:, merged]
        joint[merged] = joint[:, merged] = 0.0
        sums[kept] += sums[merged]
        size[kept] += size[merged]
        known[kept] |= known[merged]
        alive.remove(merged)
    kept, merged, confusion, distance = np.array(rows).reshape(-1, 4).T
    unknown = np.full(len(kept), np.nan)
    kept, merged = kept.astype(int), merged.astype(int)
    return MergeTree(n_components, active, kept, merged, confusion, distance, int(n_indistinct), unknown, unknown)
