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
