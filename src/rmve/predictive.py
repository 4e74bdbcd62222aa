"""The predictive bound: a mini-batch is split into what the encoder reads and what the decoder is scored on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from scvi import REGISTRY_KEYS
from torch import Tensor

from rmve._keys import TARGET_KEY, TARGET_SIZE_KEY
from rmve.maths.sparse_rows import SparseRows
from rmve.maths.splitting import halve, split_binomial, split_negative_binomial, split_normal, thin

#: Ways to split a cell; each likelihood says which of them it can have. ``None`` is the plain bound.
SPLITS = ("binomial", "negative_binomial", "normal", None)


def split_batch(batch: dict[str, Tensor], kind: str | None, log_dispersion: Tensor | None = None) -> dict[str, Tensor]:
    """Split each cell of a mini-batch into two parts that are independent given its mean.

    Parameters
    ----------
    batch
        A mini-batch with the data ``x``, shape ``(B, G)``.
    kind
        One of :data:`SPLITS`; ``None`` leaves the mini-batch as it is.
    log_dispersion
        Log inverse dispersion of each gene (counts) or log variance (normals) of a *part*, as a model that is scored on
        parts learns it, shape ``(G,)``; not used by ``"binomial"``.

    Returns
    -------
    The mini-batch with one part as ``x`` and the other as target. Size factors are halved with the molecules.
    """
    if kind is None:
        return batch
    x = cast("Tensor | SparseRows", batch[REGISTRY_KEYS.X_KEY])
    with torch.no_grad():
        if kind == "normal":  # a copy has twice the variance of the value
            assert log_dispersion is not None  # it is the log variance
            assert not isinstance(x, SparseRows)  # only counts are loaded sparse
            part = split_normal(x, (0.5 * log_dispersion.exp()).sqrt())
            return {**batch, REGISTRY_KEYS.X_KEY: part, TARGET_KEY: 2.0 * x - part}
        values = x.values if isinstance(x, SparseRows) else x
        if kind == "negative_binomial":
            assert log_dispersion is not None  # as with every negative binomial
            theta = 2.0 * log_dispersion.exp()  # a part has half of it
            theta = theta.index_select(0, x.cols) if isinstance(x, SparseRows) else theta.expand_as(x)
            part = split_negative_binomial(values, theta)
        else:
            part = split_binomial(values)
        parts: tuple[Tensor | SparseRows, ...] = (part, values - part)
        if isinstance(x, SparseRows):
            parts = tuple(x.with_values(half) for half in (part, values - part))
    split: dict[str, Any] = {**batch, REGISTRY_KEYS.X_KEY: parts[0], TARGET_KEY: parts[1]}
    if REGISTRY_KEYS.SIZE_FACTOR_KEY in batch:
        half = 0.5 * batch[REGISTRY_KEYS.SIZE_FACTOR_KEY]
        split |= {REGISTRY_KEYS.SIZE_FACTOR_KEY: half, TARGET_SIZE_KEY: half}
    return split


def read_less(batch: dict[str, Tensor], min_molecules: float) -> dict[str, Tensor]:
    """Let the encoder read a half, a quarter, an eighth, ... of what it would, down to ``min_molecules``.

    For each cell one of these shares is drawn, all with the same probability. The encoder so learns to assign a cell by
    few molecules as well as by many. The target stays, and the bound is one on it whatever the encoder reads.

    Parameters
    ----------
    batch
        A mini-batch of counts that :func:`split_batch` has split.
    min_molecules
        Molecules of which no share is read: cells that have less than twice as many are read as they are.

    Returns
    -------
    The mini-batch with fewer molecules as ``x``, and size factors that are as much smaller; the same one if no cell has enough.
    """
    with torch.no_grad():
        most = (_totals(batch) / min_molecules).clamp(min=1.0).log2().floor()
        times = torch.minimum(((most + 1.0) * torch.rand_like(most)).floor(), most)
        return _with_fewer(batch, halve, times, 0.5**times) if times.any() else batch


def thin_batch(batch: dict[str, Tensor], n_molecules: int) -> dict[str, Tensor]:
    """Keep about ``n_molecules`` of each cell that has more, drawn at random.

    Parameters
    ----------
    batch
        A mini-batch of counts, shape ``(B, G)``.
    n_molecules
        Expected number of molecules that a cell keeps.

    Returns
    -------
    The mini-batch with thinned counts, and size factors that are as much smaller.
    """
    share = (n_molecules / _totals(batch)).clamp(max=1.0)
    return _with_fewer(batch, thin, share, share)


def _totals(batch: dict[str, Tensor]) -> Tensor:
    """Molecules of each cell, shape ``(B,)``."""
    x = cast("Tensor | SparseRows", batch[REGISTRY_KEYS.X_KEY])
    return x.row_sums() if isinstance(x, SparseRows) else x.sum(-1)


def _with_fewer(
    batch: dict[str, Tensor], draw: Callable[[Tensor, Tensor], Tensor], of_cell: Tensor, share: Tensor
) -> dict[str, Tensor]:
    """A mini-batch with a random part of the molecules of each cell.

    Parameters
    ----------
    batch
        A mini-batch of counts, shape ``(B, G)``.
    draw
        Draws molecules of entries by a number for each entry.
    of_cell
        That number for each cell, shape ``(B,)``.
    share
        Expected share of the molecules that a cell keeps, and of its size factor, shape ``(B,)``.
    """
    x = cast("Tensor | SparseRows", batch[REGISTRY_KEYS.X_KEY])
    fewer: dict[str, Any] = dict(batch)
    if isinstance(x, SparseRows):
        fewer[REGISTRY_KEYS.X_KEY] = x.with_values(draw(x.values, of_cell.index_select(0, x.rows)))
    else:
        fewer[REGISTRY_KEYS.X_KEY] = draw(x, of_cell[:, None].expand_as(x))
    if REGISTRY_KEYS.SIZE_FACTOR_KEY in batch:
        fewer[REGISTRY_KEYS.SIZE_FACTOR_KEY] = share[:, None] * batch[REGISTRY_KEYS.SIZE_FACTOR_KEY]
    return fewer
