"""What the decoder says of genes as cells move in the latent space."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from rmve.module import RMVEModule


@torch.inference_mode()
def change_along(module: RMVEModule, loader: Iterable[dict], steps: np.ndarray) -> np.ndarray:
    """Mean change of each gene as cells go a step, half of it to each side.

    Parameters
    ----------
    module
        Trained networks.
    loader
        Mini-batches of the cells.
    steps
        Steps in the latent space, shape ``(m, d)``.

    Returns
    -------
    Shape ``(m, G)``: in log2 units for counts, in the data's unit for a normal likelihood, in log-odds for a Bernoulli one.
    """
    change: np.ndarray = np.zeros(())
    n_cells = 0
    for tensors in loader:
        tensors = {k: v.to(module.device) for k, v in tensors.items()}
        encoded = module.encode(**module._get_inference_input(tensors))
        z = (encoded["log_q"].exp()[..., None] * encoded["z_mean"]).sum(1)
        rows = []
        for step in steps:
            half = torch.as_tensor(step / 2, dtype=z.dtype, device=z.device)
            up, down = (_decode(module, tensors, encoded, z + sign * half) for sign in (1.0, -1.0))
            rows.append((up - down).sum(0).double().cpu().numpy())
        change, n_cells = change + np.stack(rows), n_cells + len(z)
    return change / n_cells


def _decode(module: RMVEModule, tensors: dict, encoded: dict, z: torch.Tensor) -> torch.Tensor:
    """What the decoder says of each gene (:meth:`rmve.likelihoods.Likelihood.effect`), shape ``(B, G)``."""
    inputs = module._get_generative_input(tensors, {**encoded, "z": z})
    values = module.generative(**inputs, with_distribution=False)["parameters"]
    return module.likelihood.effect(values)
