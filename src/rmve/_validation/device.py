"""Check of the device that training or a model is to use, before the work begins."""

from __future__ import annotations

import warnings

import torch

from rmve._compat import parse_device_args


def check_device(accelerator: object, devices: object, single: bool = False) -> torch.device:
    """Device that training or a model is to use.

    Parameters
    ----------
    accelerator, devices
        As in PyTorch Lightning.
    single
        Whether a model is to be put there, which has one device.

    Raises
    ------
    ValueError
        If there is no such device here.
    """
    what = f"`accelerator={accelerator!r}` with {'device' if single else 'devices'} {devices!r}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _, _, device = parse_device_args(accelerator, devices, return_device="torch", validate_single_device=single)
    except Exception as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(f"{what} cannot be used here: {reason}. Use `accelerator='auto'`.") from error
    if single and device.type == "cpu" and devices not in ("auto", 0, 1, "0", "1", "cpu"):
        raise ValueError(f"{what} cannot be used here: there is one CPU. Use `device='auto'`.")
    return device


def check_processes(accelerator: str, devices: int | list[int] | str, distributed: bool, n_nodes: int = 1) -> None:
    """Raise ValueError if several devices or machines are to train without a strategy by which they share the cells.

    PyTorch Lightning would choose one, start the script again for each device, and give all cells to each.
    """
    _, chosen, _ = parse_device_args(accelerator, devices, return_device="torch")
    n = len(chosen) if isinstance(chosen, list | tuple) else chosen if isinstance(chosen, int) else 1
    if not distributed and max(n, n_nodes) > 1:
        what = f"devices={devices!r}" if n > 1 else f"num_nodes={n_nodes}"
        raise ValueError(
            f"`{what}` needs `strategy='ddp'`, and `scvi.settings.seed` to be set. Or train on one device."
        )
