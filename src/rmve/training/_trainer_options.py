"""Options of a run: which there are, which values they may have, and which of them a file may set.

An option that RMVE cannot honour raises an error, also if PyTorch Lightning has it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

import numpy as np
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, Timer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins import CheckpointIO, ClusterEnvironment, LayerSync, Precision
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.strategies import Strategy, StrategyRegistry

from rmve import _validation as check
from rmve.training._options import NAMES, TrainingOptions, translated
from rmve.training._plan import RMVETrainingPlan

#: What is measured on validation cells.
MONITORS = ("elbo_validation", "reconstruction_loss_validation", "kl_local_validation", "validation_loss")

Check = Callable[[str, object], None]


def _positive(name: str, value: object) -> None:
    check.check_positive_int(name, value)


def _not_negative(name: str, value: object) -> None:
    check.check_positive_int(name, value, minimum=0)


def _or_none(condition: Check) -> Check:
    return lambda name, value: None if value is None else condition(name, value)


def _one_of(*choices: object) -> Check:
    return lambda name, value: check.check_choice(name, value, choices)


def _instance(*kinds: type) -> Check:
    def condition(name: str, value: object) -> None:
        if not isinstance(value, kinds):
            raise TypeError(f"`{name}` must be a {' or '.join(kind.__name__ for kind in kinds)}, not {value!r}.")

    return condition


def _share_or_number(name: str, value: object) -> None:
    """A number of mini-batches, or a share of them."""
    if isinstance(value, float):
        check.check_number(name, value, 0.0, 1.0, with_low=False)
    else:
        _positive(name, value)


def _callbacks(name: str, value: object) -> None:
    if not isinstance(value, list | tuple) or not all(isinstance(callback, Callback) for callback in value):
        raise TypeError(f"`{name}` must be a list of callbacks of PyTorch Lightning, not {value!r}.")
    for kind, instead in ((EarlyStopping, "early_stopping=True"), (ModelCheckpoint, "checkpoint_dir")):
        if any(isinstance(callback, kind) for callback in value):
            raise ValueError(f"`{name}` must not hold a {kind.__name__}, which RMVE makes itself. Give `{instead}`.")


def _strategy(name: str, value: object) -> None:
    if isinstance(value, str):
        check.check_choice(name, value, ("auto", *StrategyRegistry.available_strategies()))
    else:
        _instance(str, Strategy)(name, value)


def _max_time(name: str, value: Any) -> None:
    try:
        seconds = None if value is None else Timer(value).time_remaining()
    except Exception as error:
        raise ValueError(f"`{name}={value!r}` is no time. Give it as '00:12:00:00' (days to seconds).") from error
    if seconds is not None and seconds <= 0:
        raise ValueError(f"`{name}={value!r}` leaves no time. Leave it out, or raise it.")


def _plugins(name: str, value: object) -> None:
    for plugin in value if isinstance(value, list | tuple) else [value]:
        _instance(Precision, CheckpointIO, ClusterEnvironment, LayerSync)(name, plugin)


def _profiler(name: str, value: object) -> None:
    if isinstance(value, str):
        check.check_choice(name, value, ("simple", "advanced", "pytorch", "xla"))
    else:
        _instance(Profiler)(name, value)


def _any(name: str, value: object) -> None:
    """Checked elsewhere."""


def _flag(name: str, value: object) -> None:
    check.check_flag(name, value)


def _precision(name: str, value: object) -> None:
    check.check_training_options(value, None)


#: Options of the trainer that a checkpoint repeats.
REPEATED: dict[str, Check] = {
    "enable_progress_bar": _flag,
    "simple_progress_bar": _flag,
    "progress_bar_refresh_rate": _not_negative,
    "precision": _precision,
    "gradient_clip_val": _or_none(lambda name, value: check.check_number(name, value)),
    "gradient_clip_algorithm": _one_of(None, "norm", "value"),
    "accumulate_grad_batches": _positive,
    "check_val_every_n_epoch": _or_none(_positive),
    "early_stopping_monitor": _one_of(*MONITORS),
    "early_stopping_min_delta": lambda name, value: check.check_number(name, value),
    "early_stopping_patience": _positive,
    "early_stopping_warmup_epochs": _not_negative,
    "early_stopping_mode": _one_of("min", "max"),
    "min_epochs": _or_none(_positive),
    "limit_train_batches": _or_none(_share_or_number),
    "limit_val_batches": _or_none(_share_or_number),
    "deterministic": _one_of(None, True, False, "warn"),
    "benchmark": _one_of(None, True, False),
    "detect_anomaly": _flag,
    "log_every_n_steps": _not_negative,
    "sync_batchnorm": _flag,
}
#: Options that belong to a machine, or to a process.
OWN: dict[str, Check] = {
    "callbacks": _or_none(_callbacks),
    "logger": _or_none(_instance(Logger, bool)),
    "strategy": _strategy,
    "num_nodes": _positive,
    "plugins": _or_none(_plugins),
    "profiler": _or_none(_profiler),
    "max_time": _max_time,
    "default_root_dir": _or_none(_instance(str, os.PathLike)),
    "enable_model_summary": _flag,
}
#: Options that scvi-tools and PyTorch Lightning have, or their names for what RMVE sets, and what to do instead.
REFUSED = {
    "barebones": "Leave it out",
    "ckpt_path": "Use `RMVE.resume`",
    "datamodule": "RMVE loads the cells of `adata` itself",
    "enable_checkpointing": "Give `checkpoint_dir`",
    "fast_dev_run": "Give a small `max_epochs`",
    "fit": "Leave it out",
    "folder": "Give `checkpoint_dir`",
    "learning_rate_monitor": "Leave it out, or log with a callback",
    "max_steps": "Give `max_epochs`",
    "model": "Leave it out",
    "num_sanity_val_steps": "Leave it out",
    "overfit_batches": "Train on fewer cells",
    "resumed": "Use `RMVE.resume`",
    "val_check_interval": "Give `check_val_every_n_epoch`",
    "with_positions": "Leave it out",
}
#: Arguments of `train` that a checkpoint repeats.
OF_THE_RUN: dict[str, Check] = {
    "max_epochs": _positive,
    "batch_size": lambda name, value: check.check_positive_int(name, value, minimum=2),
    "early_stopping": _flag,
    "checkpoint_every": _positive,
}
#: Options of the data splitter, of which a checkpoint repeats none but `as_counts`, which RMVE sets.
SPLITTER: dict[str, Check] = {
    "external_indexing": _any,  # see check_split_of_rows
    "num_workers": _not_negative,
    "pin_memory": _flag,
}


def check_options(
    plan: type,
    plan_kwargs: dict | None,
    trainer_kwargs: dict,
    datasplitter_kwargs: dict | None = None,
    early_stopping: bool = True,
    of_the_run: bool = False,
    warn: bool = True,
) -> dict[str, object]:
    """Raise unless options exist and have a sensible value, before the work begins.

    Parameters
    ----------
    plan
        Class of the training plan.
    plan_kwargs, trainer_kwargs, datasplitter_kwargs, early_stopping
        As given to :meth:`rmve.RMVE.train`.
    of_the_run
        Whether its other arguments are among ``trainer_kwargs``, too.
    warn
        Whether to warn of an old name of an option of the plan.

    Returns
    -------
    Options of the plan, under their present names.

    Raises
    ------
    TypeError
        If an option does not exist or is of the wrong kind.
    ValueError
        If a value is out of range, or RMVE cannot honour an option.
    """
    for name, value in (("plan_kwargs", plan_kwargs), ("datasplitter_kwargs", datasplitter_kwargs)):
        if not isinstance(value, dict | None):
            raise TypeError(f"`{name}` must be a dictionary, not {value!r}.")
    plan_kwargs = translated(plan_kwargs or {}, warn)
    check.check_names("`plan_kwargs`", plan_kwargs, NAMES | _own_options(plan))
    TrainingOptions.of(plan_kwargs)
    for what, given, known in (
        ("`train`", trainer_kwargs, REPEATED | OWN | (OF_THE_RUN if of_the_run else {})),
        ("`datasplitter_kwargs`", datasplitter_kwargs or {}, SPLITTER),
    ):
        for name, value in given.items():
            if known is not SPLITTER and name in REFUSED:
                raise ValueError(f"`{name}={value!r}` is not supported. {REFUSED[name]}.")
        check.check_names(what, given, known)
        for name, value in given.items():
            known[name](name, value)
    check.check_flag("early_stopping", early_stopping)
    alone = [name for name in trainer_kwargs if name.startswith("early_stopping_")]
    if alone and not early_stopping:
        raise ValueError(f"`{alone[0]}` needs `early_stopping=True`, too.")
    return plan_kwargs


def check_repeated(plan: type, options: object) -> dict[str, object]:
    """Options of a run as a file has them, if `train` would take them, and there are no others.

    Raises
    ------
    TypeError, ValueError
        If not.
    """
    if not isinstance(options, dict):
        raise TypeError("the options of the run are no dictionary")
    known = OF_THE_RUN | REPEATED
    parts = {"plan_kwargs", "datasplitter_kwargs"}
    check.check_names("a run", options, {*known, *parts})
    for name in OF_THE_RUN.keys() | parts:
        if name not in options:
            raise ValueError(f"the run has no {name!r}")
    for name in options.keys() - parts:
        known[name](name, options[name])
    options = options | {"plan_kwargs": check_options(plan, options["plan_kwargs"], {}, warn=False)}
    if any(callable(value) for value in options["plan_kwargs"].values()):
        raise TypeError("the options of the run hold a function")
    if not isinstance(options["datasplitter_kwargs"], dict) or set(options["datasplitter_kwargs"]) != {"as_counts"}:
        raise ValueError("the run splits its cells in an unknown way")
    check.check_flag("as_counts", options["datasplitter_kwargs"]["as_counts"])
    return options


def n_validation(
    n_obs: int, train_size: float | None, validation_size: float | None, early_stopping: bool, indexing: list | None
) -> int:
    """How many of the cells are for validation, by arguments of ``train``."""
    if indexing is not None:
        return 0 if len(indexing) < 2 or indexing[1] is None else len(indexing[1])
    if validation_size is not None:
        return math.floor(validation_size * n_obs)
    return n_obs - math.ceil((train_size or (0.9 if early_stopping else 1.0)) * n_obs)


def check_limits(options: Mapping[str, Any], max_epochs: int | None, batch_size: int, n_train: int, n_val: int) -> None:
    """Raise ValueError if options leave nothing to train on or to validate with, or would have no effect.

    Parameters
    ----------
    options
        Those of the trainer.
    max_epochs, batch_size
        As given to ``train``.
    n_train, n_val
        Cells for training and validation.
    """
    for name, n_cells in (("limit_train_batches", n_train), ("limit_val_batches", n_val)):
        share, n_batches = options.get(name), math.ceil(n_cells / batch_size)
        if isinstance(share, float) and n_cells and int(share * n_batches) < 1:
            raise ValueError(f"`{name}={share}` leaves none of the {n_batches} mini-batches. Raise it.")
    for name in ("limit_val_batches", "check_val_every_n_epoch"):
        if options.get(name) is not None and not n_val:
            raise ValueError(f"`{name}` needs validation cells. Give `validation_size`, too.")
    if max_epochs is not None and (options.get("min_epochs") or 0) > max_epochs:
        raise ValueError(f"`min_epochs={options['min_epochs']}` is more than `max_epochs={max_epochs}`.")
    if options.get("gradient_clip_algorithm") is not None and options.get("gradient_clip_val") is None:
        raise ValueError("`gradient_clip_algorithm` needs `gradient_clip_val`, too.")


def check_split_of_rows(indexing: object, n_obs: int) -> None:
    """Raise unless rows of training, validation and test cells are lists of rows that hold each cell once.

    Raises
    ------
    TypeError, ValueError
        If not.
    """
    if indexing is None:
        return
    if not isinstance(indexing, list) or not 1 <= len(indexing) <= 3:
        raise TypeError(
            "`external_indexing` must be a list of one to three arrays: training, validation and test rows."
        )
    parts = [np.zeros(0, dtype=int) if part is None else part for part in indexing]
    if any(
        not isinstance(part, np.ndarray) or part.ndim != 1 or (part.size and part.dtype.kind not in "iu")
        for part in parts
    ):
        raise TypeError("`external_indexing` must hold arrays of row numbers.")
    rows = np.concatenate([part.astype(int) for part in parts])
    if len(rows) != n_obs or not np.array_equal(np.sort(rows), np.arange(n_obs)):
        raise ValueError(
            f"`external_indexing` must hold each of the {n_obs} rows of `adata` once, in one of its arrays."
        )
    if len(parts[0]) < 2:
        raise ValueError("`external_indexing` leaves fewer than two cells to train on.")


def _own_options(plan: type) -> set[str]:
    """Options that a subclass of the plan adds."""
    names: set[str] = set()
    for owner in plan.__mro__:
        if owner is RMVETrainingPlan:
            break
        parameters = signature(vars(owner)["__init__"]).parameters.values() if "__init__" in vars(owner) else ()
        names |= {parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD}
    return names - {"self", "module", "data"}
