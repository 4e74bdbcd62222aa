"""Options of training: their names, defaults, ranges and meaning."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any

from torch import Tensor

from rmve import _validation as check
from rmve.clusters.levels import N_MOLECULES
from rmve.likelihoods import Likelihood
from rmve.maths.estimators import ESTIMATORS
from rmve.predictive import SPLITS
from rmve.training._schedules import LR_SCHEDULES

#: Names that options had before, and the present ones.
RENAMED = {
    "agreement": "view_weight",
    "alpha": "label_weight",
    "balance": "balance_weight",
    "confidence": "entropy_weight",
    "momentum": "assignment_momentum",
    "potts": "neighbor_weight",
    "potts_ramp_fraction": "neighbor_ramp_fraction",
    "repulsion": "repulsion_weight",
    "smoothing": "start_smoothing",
    "spatial": "position_weight",
    "warmup_alpha": "start_weight",
}


def _option(default: Any, condition: Callable[..., None]) -> Any:
    return field(default=default, metadata={"check": condition})


def _weight(default: float) -> float:
    return _option(default, partial(check.check_number, with_high=False))


def _share(default: float) -> float:
    return _option(default, partial(check.check_number, low=0.0, high=1.0))


def _choice(default: str, choices: tuple) -> str:
    return _option(default, partial(check.check_choice, choices=choices))


def _check_molecules(name: str, value: object) -> None:
    if value is not None:
        check.check_number(name, value, low=1.0, with_high=False)


def _check_view(name: str, value: object) -> None:
    if value is not None and not callable(value):
        raise TypeError(f"`{name}` must be a function of a mini-batch, not {value!r}.")


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Options of :class:`~rmve.training.RMVETrainingPlan`, given to :meth:`rmve.RMVE.train` as ``plan_kwargs``.

    Weights are in nats per cell. Fractions are of the whole run where nothing else is said.

    Parameters
    ----------
    lr
        Learning rate of the networks.
    mixture_lr
        Learning rate of the means, variances and weights of the components.
    weight_decay
        Weight decay of AdamW, on the networks only.
    lr_schedule
        ``"drop"``: both rates are multiplied by ``lr_drop`` in the last ``lr_drop_fraction`` of the run.
        ``"one-cycle"``: both rates rise over the first fifth of the run and fall to zero along a cosine.
    lr_drop
        Factor of both learning rates in the last part of the run.
    lr_drop_fraction
        Length of that last part.
    warmup_fraction
        Length of the first phase, in which each cell keeps its starting assignment.
    kl_weight
        Weight of the divergence of ``q(z|x,y)`` from ``p(z|y)``. 1 is the evidence lower bound.
    kl_warmup_fraction
        Share of the first phase over which that weight rises to ``kl_weight``.
    start_weight
        Weight of ``log q(y|x)`` in the first phase. Large values keep small clusters of the start; 1 lets redundant
        components vanish.
    start_smoothing
        Probability of the starting assignment that is spread evenly over all components.
    neighbor_weight
        Strength ``eta`` of the Potts prior, by which neighbours in the graph share a component. 0 is none.
    neighbor_ramp_fraction
        Share of the second phase over which the Potts prior rises.
    assignment_momentum
        Share of the old value in the running average of ``q(y|x)`` that the Potts prior reads.
    repulsion_weight
        Strength ``tau`` of the repulsive prior: the most that a cell's bound may lose by the removal of redundant
        components. Lower values leave more components, and so finer levels.
    repulsion_moves
        Whether the expected overlap (the repulsion ``"hsic"``) changes means and variances, too, and not the weights
        alone. Redundant components then move apart instead of vanishing. The other repulsions always change them.
    repulsion_ramp_fraction
        Share of the second phase over which the repulsion rises.
    label_weight
        Weight of ``log q(y|x)`` for labelled cells.
    position_weight
        Weight of the positions of cells that have one: see :meth:`rmve.module.RMVEModule.position_loss`. 0 is none.
    view_weight
        Weight of the agreement between the assignments of a cell and of another view of it.
    view
        Function that makes that view of a tensor of shape ``(B, G)``. The default view of counts keeps each molecule
        with probability 1/2; other data have none.
    balance_weight
        Weight of the balance of the average assignment, in the second phase.
    entropy_weight
        Weight of the entropy of each cell's assignment, in the second phase. Equal to ``balance_weight``, the two are
        the mutual information of a cell and its component.
    estimator
        Estimator of the expectation over ``y``: ``"sample"``, ``"exact"`` or ``"gumbel"``.
    split
        Division of each cell into the part that the encoder reads and the part that the decoder is scored on, drawn anew
        in each step (:func:`rmve.predictive.split_batch`). ``"binomial"``: half of the molecules each, independent if
        counts are Poisson; ``"negative_binomial"``: independent if they have the likelihood's dispersion; ``"normal"``:
        two noisy copies of log-normalised values; ``None``: the whole cell is read and scored, the plain evidence lower
        bound; ``"auto"``: ``"binomial"`` for counts and ``None`` for other data.
    min_molecules
        Molecules down to which the encoder's part of a cell is halved at random
        (:func:`rmve.predictive.read_less`), so that it can read the samples by which :func:`rmve.RMVE.get_resolutions`
        compares clusters, and cells of other depths. ``None``: the encoder reads its whole part. It has no effect on cells
        of less than four times as many molecules, on data that are not counts, and on the plain bound.

    Raises
    ------
    TypeError, ValueError
        If a value is of the wrong kind or out of its range.
    """

    lr: float = _weight(1e-3)
    mixture_lr: float = _weight(5e-3)
    weight_decay: float = _weight(1e-2)
    lr_schedule: str = _choice("drop", LR_SCHEDULES)
    lr_drop: float = _share(0.3)
    lr_drop_fraction: float = _share(0.2)
    warmup_fraction: float = _share(1 / 3)
    kl_weight: float = _weight(1.0)
    kl_warmup_fraction: float = _share(0.7)
    start_weight: float = _weight(1.0)
    start_smoothing: float = _share(0.1)
    neighbor_weight: float = _weight(3.0)
    neighbor_ramp_fraction: float = _share(0.6)
    assignment_momentum: float = _share(0.5)
    repulsion_weight: float = _weight(50.0)
    repulsion_moves: bool = _option(False, check.check_flag)
    repulsion_ramp_fraction: float = _share(0.5)
    label_weight: float = _weight(10.0)
    position_weight: float = _weight(50.0)
    view_weight: float = _weight(0.0)
    view: Callable[[Tensor], Tensor] | None = _option(None, _check_view)
    balance_weight: float = _weight(0.0)
    entropy_weight: float = _weight(0.0)
    estimator: str = _choice("sample", ESTIMATORS)
    split: str | None = _choice("auto", ("auto", *SPLITS))
    min_molecules: float | None = _option(float(N_MOLECULES), _check_molecules)

    def __post_init__(self):
        for option in fields(self):
            option.metadata["check"](option.name, getattr(self, option.name))

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> TrainingOptions:
        """Those of some options that are RMVE's; others are of a subclass of the plan."""
        return cls(**{name: value for name, value in options.items() if name in NAMES})

    def check_likelihood(self, likelihood: Likelihood) -> None:
        """Raise ValueError unless data of a likelihood have the split and the view that are asked for."""
        check.check_choice("split", self.split, ("auto", *likelihood.splits))
        if self.view_weight > 0 and self.view is None and likelihood.default_view is None:
            raise ValueError(
                f"`view_weight={self.view_weight}` needs `view` with the likelihood {likelihood.name!r}: a function that "
                "returns another view of a batch of cells. Only counts have a default."
            )


#: Names of all options.
NAMES = frozenset(option.name for option in fields(TrainingOptions))


def translated(options: Mapping[str, Any], warn: bool = True) -> dict[str, Any]:
    """Options under their present names.

    Parameters
    ----------
    options
        Options of the plan, possibly under the names of :data:`RENAMED`.
    warn
        Whether to warn of an old name.

    Raises
    ------
    TypeError
        If an option is given under both names.
    """
    new = {name: value for name, value in options.items() if name not in RENAMED}
    for old, name in RENAMED.items():
        if old not in options:
            continue
        if name in new:
            raise TypeError(f"{old!r} is the old name of {name!r}: give {name!r} alone.")
        if warn:
            warnings.warn(f"The option {old!r} is now {name!r}.", FutureWarning, stacklevel=5)
        new[name] = options[old]
    return new
