"""The levels of a trained model: what its components confuse on the training data, and what supports them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import scipy.sparse as sp
import torch
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager

from rmve import _validation as check
from rmve._keys import TARGET_KEY
from rmve.clusters._clusters import Clusters
from rmve.clusters.initialization import sample_rows
from rmve.clusters.levels import N_MOLECULES, MergeTree, joint_of_halves, merge_tree
from rmve.clusters.support import support_of_merges
from rmve.maths.sparse_rows import SparseRows
from rmve.model._encode import Posterior, batches, encode_batch
from rmve.module import RMVEModule
from rmve.predictive import split_batch, thin_batch

#: Latent points whose density under each component is computed at once.
MIXTURE_BATCH = 65_536
#: Random splits of each cell that the levels are found from, and most cells that are split.
N_SPLITS, MAX_SPLIT_CELLS = 4, 20_000
#: Most cells whose molecules are scored for the support of a division.
MAX_SUPPORT_CELLS = 5_000


@torch.inference_mode()
def find_levels(module: RMVEModule, manager: AnnDataManager, posterior: Posterior, n_known: int) -> MergeTree:
    """Tree of the components on the training data, from their posterior.

    The two halves of a cell's molecules are assigned separately. Data without molecules have two assignments of
    a cell instead: ``q(y|x)`` and ``p(y|z)``.

    Parameters
    ----------
    module
        Trained networks.
    manager
        Manager of the training data.
    posterior
        Posterior of the training cells.
    n_known
        Number of known types; their components are the first ones.
    """
    assigned, latent = posterior.assigned, posterior.latent
    if not module.likelihood.takes_counts:
        blocks = torch.from_numpy(latent).split(MIXTURE_BATCH)
        r = torch.cat([module.mixture.log_responsibilities(block.to(module.device)).exp().cpu() for block in blocks])
        return merge_tree(joint_of_halves(posterior.assignment, r.numpy()), assigned, latent, n_known)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # a model has one tree, whenever it is asked for
        tree = merge_tree(joint_of_cells(module, manager), assigned, latent, n_known)
        effect, support = support_of_merges(*_halves(module, manager), tree)
    return replace(tree, effect=effect, support=support)


def _halves(module: RMVEModule, manager: AnnDataManager) -> tuple[sp.csr_matrix, sp.csr_matrix, np.ndarray]:
    """Two halves of the molecules of at most :data:`MAX_SUPPORT_CELLS` cells, and each one's component by the first."""
    first: list[sp.csr_matrix] = []
    second: list[sp.csr_matrix] = []
    assigned = []
    for _, tensors in batches(module, manager, sample_rows(manager.adata.n_obs, MAX_SUPPORT_CELLS)):
        halves = split_batch(tensors, "binomial")
        parts = (halves[REGISTRY_KEYS.X_KEY], halves[TARGET_KEY])
        for part, block in zip((first, second), parts, strict=True):
            part.append(block.to_scipy() if isinstance(block, SparseRows) else sp.csr_matrix(block.numpy()))
        assigned.append(encode_batch(module, halves).assigned)
    return sp.vstack(first, format="csr"), sp.vstack(second, format="csr"), np.concatenate(assigned)


@torch.inference_mode()
def joint_of_cells(module: RMVEModule, manager: AnnDataManager, n_molecules: int = N_MOLECULES) -> np.ndarray:
    """:func:`rmve.levels.joint_of_halves` of counts, summed over :data:`N_SPLITS` random splits of each cell.

    Parameters
    ----------
    module
        Trained networks.
    manager
        Manager of the cells.
    n_molecules
        Molecules in each of the two samples of a cell, at most half of what it has.

    Returns
    -------
    Symmetric matrix of shape ``(K, K)``.
    """
    joint = np.zeros((module.n_components,) * 2)
    for _, tensors in batches(module, manager, sample_rows(manager.adata.n_obs, MAX_SPLIT_CELLS)):
        for _ in range(N_SPLITS):
            halves = split_batch(thin_batch(tensors, 2 * n_molecules), "binomial")
            first = encode_batch(module, halves)
            second = encode_batch(module, {**halves, REGISTRY_KEYS.X_KEY: halves[TARGET_KEY]})
            joint += joint_of_halves(first.assignment, second.assignment)
    return joint


def number_of_clusters(tree: MergeTree, wanted: int | Literal["auto"] | None) -> int:
    """Number of clusters of a level; see :meth:`rmve.RMVE.merge_components`.

    Parameters
    ----------
    tree
        Merges of the components.
    wanted
        Number that a user asks for; ``"auto"`` is the default level, ``None`` the finest.

    Raises
    ------
    ValueError
        If there is no such level.
    """
    if wanted is None or wanted == "auto":
        return tree.n_finest if wanted is None else tree.n_default
    check.check_positive_int("n_clusters", wanted)
    if wanted > tree.n_finest:
        raise ValueError(
            f"`n_clusters={wanted}` is more than the {tree.n_finest} clusters of the finest level. Train with "
            f"`n_components={wanted}`, or divide clusters with `model.subcluster()`."
        )
    return wanted


def number_after_training(tree: MergeTree, wanted: int | None) -> int:
    """Number of clusters of a model that was just trained: the default, or the nearest to what was asked for.

    Parameters
    ----------
    tree
        Merges of the components.
    wanted
        ``n_components`` of the model.

    Warns
    -----
    UserWarning
        If the cells support fewer.
    """
    wanted = wanted or tree.n_default
    if wanted > tree.n_finest:
        warnings.warn(
            f"`n_components={wanted}` clusters were asked for, and the cells support {tree.n_finest}. Lower "
            "`plan_kwargs={'repulsion_weight': ...}` for finer clusters.",
            stacklevel=3,
        )
    return min(max(wanted, tree.n_coarsest), tree.n_finest)


def clusters_at(
    n_clusters: int,
    tree: MergeTree,
    assigned: np.ndarray,
    distance: np.ndarray,
    labels: Sequence[str],
    given_names: Mapping[str, Sequence[int]],
) -> Clusters:
    """Clusters of a level, numbered by size on the training data.

    Parameters
    ----------
    n_clusters
        Number of clusters of the level.
    tree
        Merges of the components.
    assigned
        Component of each training cell, shape ``(n,)``.
    distance
        Distance of each pair of components, shape ``(K, K)``.
    labels
        Known types, those of the first components.
    given_names
        Components of each name that a user gave.
    """
    clusters = Clusters.by_size(assigned, tree.cut(n_clusters), distance, labels)
    return clusters.named(given_names, tree.active)
