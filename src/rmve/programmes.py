"""Gene programmes: which genes change as a cell moves along a dimension of the latent space."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from scvi import REGISTRY_KEYS

from rmve.gene_likelihoods import COUNT_LIKELIHOODS

if TYPE_CHECKING:
    from rmve.model import RMVE

#: Most cells that a change is averaged over.
MAX_CELLS = 500


def programme_table(change: np.ndarray, genes: np.ndarray, n: int, weight: np.ndarray | None = None) -> pd.DataFrame:
    """The ``n`` genes that rise most, and the ``n`` that fall most, along each dimension.

    Parameters
    ----------
    change
        Change of each gene over one standard deviation of each dimension, shape ``(d, G)``.
    genes
        Names of the genes.
    n
        Number of genes for each direction.
    weight
        Weight of each gene in the ranking, shape ``(G,)``; ``None`` is 1. With the root of a gene's mean count, genes are
        ranked by the change of the root of their count, whose noise is the same for all.

    Returns
    -------
    Data frame with the columns ``dimension`` (``"0"``, ``"1"``, ...), ``direction`` (``"up"`` or ``"down"``), ``gene`` and
    ``change``, the largest weighted change first; a gene is in the direction of its change only.
    """
    parts = []
    weight = np.ones(change.shape[1]) if weight is None else weight
    for dimension, values in enumerate(change):
        for direction, sign in (("up", 1.0), ("down", -1.0)):
            best = np.argsort(-sign * values * weight, kind="stable")[:n]
            best = best[sign * values[best] > 0]
            columns = {"dimension": str(dimension), "direction": direction, "gene": genes[best], "change": values[best]}
            parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


@torch.inference_mode()
def change_along_dimensions(model: RMVE, seed: int = 0) -> tuple[np.ndarray, np.ndarray | None]:
    """Change of each gene over one standard deviation of each latent dimension, by the decoder.

    Parameters
    ----------
    model
        A trained model with its training data.
    seed
        Of the choice of cells that it is averaged over.

    Returns
    -------
    change
        Shape ``(d, G)``: in log2 units for counts, in the data's unit for a normal likelihood, in log-odds for a
        Bernoulli one. A dimension that cells do not differ in has a change near 0.
    weight
        Root of the mean count of each gene, shape ``(G,)``; ``None`` without counts.
    """
    adata = model._validate_anndata(None)
    rows = np.arange(adata.n_obs)
    if len(rows) > MAX_CELLS:
        rows = np.sort(np.random.default_rng(seed).choice(rows, MAX_CELLS, replace=False))
    _, latent = model._posterior(adata, rows)
    steps = np.diag(latent.std(0))
    change, mean = np.zeros((len(steps), adata.n_vars)), np.zeros(adata.n_vars)
    for tensors in model._make_data_loader(adata=adata, indices=rows, batch_size=512):
        tensors = {k: v.to(model.device) for k, v in tensors.items()}
        encoded = model.module.encode(**model.module._get_inference_input(tensors))
        z = (encoded["log_q"].exp()[..., None] * encoded["z_mean"]).sum(1)
        mean += np.asarray(tensors[REGISTRY_KEYS.X_KEY].cpu()).sum(0) / len(rows)
        for dimension, step in enumerate(steps):
            half = torch.as_tensor(step / 2, dtype=z.dtype, device=z.device)
            up, down = (model._decode(tensors, encoded, z + sign * half) for sign in (1.0, -1.0))
            change[dimension] += (up - down).sum(0).double().cpu().numpy()
    change /= len(rows)
    return (change / np.log(2.0), np.sqrt(mean)) if model.gene_likelihood in COUNT_LIKELIHOODS else (change, None)
