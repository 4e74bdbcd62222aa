"""Checks of options of PyTorch Lightning's trainer, and of the device, before the work begins."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from numbers import Real
from pathlib import Path

import torch
from lightning.pytorch import Callback

from rmve._compat import parse_device_args
from rmve._validation.arguments import check_names

#: Options of the trainer that a model of scvi-tools, or RMVE, cannot honour, and what to do instead.
REFUSED = {
    "fast_dev_run": "Give a small `max_epochs`",
    "overfit_batches": "Train on fewer cells",
    "num_sanity_val_steps": "Leave it out",
    "learning_rate_monitor": "Leave it out, or log with a callback",
    "datamodule": "RMVE loads the cells of `adata` itself",
    "model": "Leave it out",
    "enable_checkpointing": "Give `checkpoint_dir`",
    "barebones": "Leave it out",
    "fit": "Leave it out",
    "resumed": "Use `RMVE.resume`",
    "folder": "Give `checkpoint_dir`",
    "with_positions": "Leave it out",
}
#: Options that limit a run, which zero would make empty.
POSITIVE = ("limit_train_batches", "accumulate_grad_batches", "check_val_every_n_epoch", "val_check_interval")
POSITIVE += ("log_every_n_steps", "max_steps", "num_nodes")
#: Options of the data splitter that RMVE's loader honours.
SPLITTER_OPTIONS = ("external_indexing", "num_workers", "pin_memory", "as_counts", "distributed_sampler")


def check_trainer_options(options: Mapping[str, object]) -> None:
    """Raise for an option of the trainer that cannot work.

    Parameters
    ----------
    options
        Further keyword arguments of :meth:`rmve.RMVE.train`.

    Raises
    ------
    TypeError
        If callbacks are none.
    ValueError
        If RMVE cannot honour an option, or its value is out of range.
    FileNotFoundError
        If ``ckpt_path`` does not exist.
    """
    for name, value in options.items():
        if name in REFUSED and value not in (None, False) and not (name == "num_sanity_val_steps" and value == 0):
            raise ValueError(f"`{name}={value!r}` is not supported. {REFUSED[name]}.")
        if name in POSITIVE and value is not None:
            number = isinstance(value, Real) and not isinstance(value, bool)
            if not number or not (value > 0 or (name == "max_steps" and value == -1)):
                raise ValueError(f"`{name}` must be a number above 0; got {value!r}.")
    clip = options.get("gradient_clip_val")
    if clip is not None and not (isinstance(clip, Real) and not isinstance(clip, bool) and clip >= 0):
        raise ValueError(f"`gradient_clip_val` must be a number of at least 0; got {clip!r}.")
    callbacks = options.get("callbacks") or []
    if not isinstance(callbacks, list | tuple) or any(not isinstance(callback, Callback) for callback in callbacks):
        raise TypeError(f"`callbacks` must be a list of Lightning's callbacks, not {callbacks!r}.")
    path = options.get("ckpt_path")
    if path is not None and not Path(path).exists():
        raise FileNotFoundError(f"`ckpt_path={str(path)!r}` does not exist.")


def check_splitter_options(options: Mapping[str, object] | None) -> None:
    """Raise for an option of the data splitter that would be ignored.

    Raises
    ------
    TypeError
        If there is no such option, or the options are no dictionary.
    """
    if not isinstance(options, dict | None):
        raise TypeError(f"`datasplitter_kwargs` must be a dictionary, not {options!r}.")
    check_names("`datasplitter_kwargs`", options or {}, SPLITTER_OPTIONS)


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
