"""From cells to their posterior, in one pass."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scvi.data import AnnDataManager
from torch import Tensor
from torch.utils.data import default_convert

from rmve.data.loading import IndexedDataset
from rmve.module import RMVEModule

#: Default number of cells that are encoded at once.
INFERENCE_BATCH = 1024


@dataclass(frozen=True)
class Posterior:
    """What a trained model says of cells.

    Attributes
    ----------
    assignment
        ``q(y|x)`` over components, shape ``(n, K)``.
    latent
        Latent means, shape ``(n, d)``.
    """

    assignment: np.ndarray
    latent: np.ndarray

    @cached_property
    def assigned(self) -> np.ndarray:
        """Most probable component of each cell, shape ``(n,)``."""
        return self.assignment.argmax(1)

    def __getitem__(self, rows: np.ndarray) -> Posterior:
        """Posterior of some of the cells."""
        return Posterior(self.assignment[rows], self.latent[rows])


def batches(
    module: RMVEModule, manager: AnnDataManager, rows: np.ndarray | None = None, batch_size: int | None = None
) -> Iterator[tuple[np.ndarray, dict[str, Tensor]]]:
    """Mini-batches of cells, each with its places among the rows asked for; data on disk is read in order.

    Parameters
    ----------
    module
        Networks.
    manager
        Manager of the cells.
    rows
        Rows to read, or a mask; ``None`` is all.
    batch_size
        Cells in a mini-batch; ``None`` is :data:`INFERENCE_BATCH`.
    """
    # Apple's GPUs lack the sparse product
    as_counts = module.likelihood.takes_counts and module.device.type != "mps"
    cells = IndexedDataset(manager, as_counts)
    wanted = _rows(manager, rows)
    order, size = np.argsort(wanted, kind="stable"), batch_size or INFERENCE_BATCH
    for at in (order[start : start + size] for start in range(0, len(wanted), size)):
        yield at, default_convert(cells[wanted[at]])


def encode_batch(module: RMVEModule, tensors: dict[str, Tensor]) -> Posterior:
    """Posterior of a mini-batch."""
    inputs = module._get_inference_input(tensors)
    inputs = {k: v if v is None else v.to(module.device) for k, v in inputs.items()}
    outputs = module.encode(**inputs)
    q = outputs["log_q"].exp()
    return Posterior(q.cpu().numpy(), (q[..., None] * outputs["z_mean"]).sum(1).cpu().numpy())


@torch.inference_mode()
def encode(
    module: RMVEModule, manager: AnnDataManager, rows: np.ndarray | None = None, batch_size: int | None = None
) -> Posterior:
    """Posterior of cells, in the order of ``rows``; the parameters are those of :func:`batches`."""
    n_cells = len(_rows(manager, rows))
    assignment = np.empty((n_cells, module.n_components), dtype=np.float32)
    latent = np.empty((n_cells, module.n_latent), dtype=np.float32)
    for at, tensors in batches(module, manager, rows, batch_size):
        part = encode_batch(module, tensors)
        assignment[at], latent[at] = part.assignment, part.latent
    return Posterior(assignment, latent)


def _rows(manager: AnnDataManager, rows: np.ndarray | None) -> np.ndarray:
    all_rows = np.arange(manager.adata.n_obs)
    return all_rows if rows is None else all_rows[rows]
