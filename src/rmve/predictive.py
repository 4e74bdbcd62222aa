"""The predictive bound: a mini-batch is split into what the encoder reads and what the decoder is scored on."""

from __future__ import annotations

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
    x = cast("Tensor | SparseRows", batch[REGISTRY_KEYS.X_KEY])
    with torch.no_grad():
        total = x.row_sums() if isinstance(x, SparseRows) else x.sum(-1)
        most = (total / min_molecules).clamp(min=1.0).log2().floor()
        times = torch.minimum(((most + 1.0) * torch.rand_like(most)).floor(), most)
        if not times.any():
            return batch
        read = (
            x.with_values(halve(x.values, times.index_select(0, x.rows)))
            if isinstance(x, SparseRows)
            else halve(x, times[:, None].expand_as(x))
        )
    less: dict[str, Any] = {**batch, REGISTRY_KEYS.X_KEY: read}
    if REGISTRY_KEYS.SIZE_FACTOR_KEY in batch:
        less[REGISTRY_KEYS.SIZE_FACTOR_KEY] = batch[REGISTRY_KEYS.SIZE_FACTOR_KEY] * 0.5 ** times[:, None]
    return less


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
    x = cast("Tensor | SparseRows", batch[REGISTRY_KEYS.X_KEY])
    total = x.row_sums() if isinstance(x, SparseRows) else x.sum(-1)
    share = (n_molecules / total).clamp(max=1.0)
    if isinstance(x, SparseRows):
        x = x.with_values(thin(x.values, share.index_select(0, x.rows)))
    else:
        x = thin(x, share[:, None].expand_as(x))
    thinned: dict[str, Any] = {**batch, REGISTRY_KEYS.X_KEY: x}
    if REGISTRY_KEYS.SIZE_FACTOR_KEY in batch:
        thinned[REGISTRY_KEYS.SIZE_FACTOR_KEY] = share[:, None] * batch[REGISTRY_KEYS.SIZE_FACTOR_KEY]
    return thinned
