"""What supports a division into two clusters: molecules that neither the assignment nor the profiles have seen."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from rmve.clusters.levels import MergeTree

#: Molecules of the union's profile, for each gene, that are added to each of the two profiles: few molecules say little of
#: a profile. The best of these numbers is taken, for the two clusters of a merge together.
PSEUDOCOUNTS = (1.0, 10.0, 100.0)
N_FOLDS = 2


def support_of_merges(
    first: sp.csr_matrix, second: sp.csr_matrix, assigned: np.ndarray, tree: MergeTree, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """How much better two profiles predict unseen molecules than the profile of their union, for each merge of a tree.

    The molecules of each cell are split in two. The first half assigns the cell and gives the profiles of the clusters;
    the second half is scored. A cell is scored with the profiles of the cells of the other fold. So neither the molecules
    that are scored nor the cells that they are of have been used for a profile, and a division of noise predicts worse
    than no division.

    Parameters
    ----------
    first, second
        Counts of the two halves, shape ``(n, G)``.
    assigned
        Component of each cell by its first half, shape ``(n,)``.
    tree
        Merges of the components.
    seed
        Of the division of the cells into folds.

    Returns
    -------
    effect
        Gain in nats per molecule, shape ``(m,)``: an estimate of the Jensen-Shannon divergence of the two profiles,
        biased towards zero.
    support
        Mean gain per cell over its standard error, shape ``(m,)``; 0 if one of the two has no cell.
    """
    n_cells, n_genes = first.shape
    fold = np.random.default_rng(seed).permutation(n_cells) % N_FOLDS
    member = sp.csr_matrix((np.ones(n_cells), (assigned, np.arange(n_cells))), shape=(tree.n_components, n_cells))
    sums = np.stack([(member[:, fold != f] @ first[fold != f]).toarray() for f in range(N_FOLDS)])  # of the other folds
    belongs, effect, support = np.arange(tree.n_components), [], []
    for kept, merged in zip(tree.kept, tree.merged, strict=True):
        cluster = belongs[assigned]
        scored = [
            (sums[f][[side, merged if side == kept else kept]], second[(cluster == side) & (fold == f)])
            for f in range(N_FOLDS)
            for side in (kept, merged)
        ]
        molecules = sum(counts.sum() for _, counts in scored)
        gains = [
            np.concatenate([_gain(pair, counts, n_genes * extra) for pair, counts in scored]) for extra in PSEUDOCOUNTS
        ]
        gain = max(gains, key=np.sum)
        error = gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else 0.0
        known = error > 0 and all((cluster == side).any() for side in (kept, merged))
        effect.append(gain.sum() / molecules if known else 0.0)
        support.append(gain.mean() / error if known else 0.0)
        sums[:, kept] += sums[:, merged]
        belongs[belongs == merged] = kept
    return np.array(effect), np.array(support)


def _gain(pair: np.ndarray, counts: sp.csr_matrix, pseudocount: float) -> np.ndarray:
    """Gain of each cell from the first profile of a pair over that of their union, in nats, shape ``(n,)``."""
    union = pair.sum(0) + 1.0 / pair.shape[1]  # no gene is impossible
    union /= union.sum()
    profile = (pair[0] + pseudocount * union) / (pair[0].sum() + pseudocount)
    return counts @ np.log(profile / union)
