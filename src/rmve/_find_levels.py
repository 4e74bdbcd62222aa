"""The levels of a trained model: what its components confuse on the training data, and what supports them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
import torch
from scvi import REGISTRY_KEYS

from rmve._keys import TARGET_KEY
from rmve.levels import N_MOLECULES, MergeTree, joint_of_halves, merge_tree
from rmve.maths.sparse_rows import SparseRows
from rmve.predictive import split_batch, thin_batch
from rmve.support import support_of_merges

if TYPE_CHECKING:
    from rmve.model import RMVE

#: Latent points whose density under each component is computed at once.
MIXTURE_BATCH = 65_536
#: Random splits of each cell that the levels are found from, and most cells that are split.
N_SPLITS, MAX_SPLIT_CELLS = 4, 20_000
#: Most cells whose molecules are scored for the support of a division.
MAX_SUPPORT_CELLS = 5_000


@torch.inference_mode()
def find_levels(model: RMVE, assignment: np.ndarray, latent: np.ndarray) -> MergeTree:
    """Tree of the components on the training data, from their posterior.

    The two halves of a cell's molecules are assigned on their own. Data without molecules have two opinions of a
    cell instead: ``q(y|x)`` and ``p(y|z)``.

    Parameters
    ----------
    model
        A trained model with its training data.
    assignment, latent
        ``q(y|x)``, shape ``(n, K)``, and latent means, shape ``(n, d)``, of the training cells.
    """
    assigned, n_known = assignment.argmax(1), len(model.label_names_)
    if not model.module.likelihood.takes_counts:
        mixture, blocks = model.module.mixture, torch.from_numpy(latent).split(MIXTURE_BATCH)
        r = torch.cat([mixture.log_responsibilities(block.to(model.device)).exp().cpu() for block in blocks])
        return merge_tree(joint_of_halves(assignment, r.numpy()), assigned, latent, n_known)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # a model has one tree, whenever it is asked for
        tree = merge_tree(joint_on_training_data(model), assigned, latent, n_known)
        effect, support = support_of_merges(*_halves(model), tree)
    return replace(tree, effect=effect, support=support)


def _halves(model: RMVE) -> tuple[sp.csr_matrix, sp.csr_matrix, np.ndarray]:
    """Two halves of the molecules of at most :data:`MAX_SUPPORT_CELLS` cells, and each one's component by the first."""
    first, second, assigned = [], [], []
    for _, tensors in model._batches(model.adata, _sample_of_cells(model, MAX_SUPPORT_CELLS)):
        halves = split_batch(tensors, "binomial")
        parts = (halves[REGISTRY_KEYS.X_KEY], halves[TARGET_KEY])
        for part, block in zip((first, second), parts, strict=True):
            part.append(block.to_scipy() if isinstance(block, SparseRows) else sp.csr_matrix(block.numpy()))
        assigned.append(model._encode(halves)[0].argmax(1))
    return sp.vstack(first, format="csr"), sp.vstack(second, format="csr"), np.concatenate(assigned)


def _sample_of_cells(model: RMVE, max_cells: int) -> np.ndarray:
    """Rows of at most so many training cells, ascending."""
    n_cells = model.adata.n_obs
    if n_cells <= max_cells:
        return np.arange(n_cells)
    return np.sort(np.random.default_rng(0).choice(n_cells, max_cells, replace=False))


@torch.inference_mode()
def joint_on_training_data(model: RMVE, n_molecules: int = N_MOLECULES) -> np.ndarray:
    """:func:`rmve.levels.joint_of_halves` of the training data, summed over :data:`N_SPLITS` random splits.

    Parameters
    ----------
    model
        A trained model of counts with its training data.
    n_molecules
        Molecules in each of the two samples of a cell, at most half of what it has.
    """
    joint = np.zeros((model.module.n_components,) * 2)
    for _, tensors in model._batches(model.adata, _sample_of_cells(model, MAX_SPLIT_CELLS)):
        for _ in range(N_SPLITS):
            halves = split_batch(thin_batch(tensors, 2 * n_molecules), "binomial")
            first, _ = model._encode(halves)
            second, _ = model._encode({**halves, REGISTRY_KEYS.X_KEY: halves[TARGET_KEY]})
            joint += joint_of_halves(first, second)
    return joint
