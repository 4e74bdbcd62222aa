"""The course of training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from rmve.pl._docs import documented
from rmve.pl._figure import despine, finish, new_axes

if TYPE_CHECKING:
    from rmve.model import RMVE

#: Curves in nats per cell: entry of the history, name, colour and line style.
CURVES = (
    ("train_loss", "objective", "#1f77b4", "-"),
    ("validation_loss", "objective, validation", "#1f77b4", ":"),
    ("elbo_train", "negative bound", "#d62728", "-"),
    ("elbo_validation", "negative bound, validation", "#d62728", ":"),
)
#: Entry of the history with the number of components in use.
IN_USE = "n_components"


@documented
def history(
    model_or_history: RMVE | Mapping[str, pd.DataFrame],
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Loss and bound in the course of training, with the number of components in use.

    Parameters
    ----------
    model_or_history
        Trained model, or its ``history``.
    %(ax)s
    %(show)s

    Returns
    -------
    The axes with the curves; a twin of them has the number of components.

    Raises
    ------
    KeyError
        If the history holds no loss.
    ValueError
        If the model is not trained.

    Notes
    -----
    The objective is what training minimises: its parts are warmed up, so it may rise when one sets in. The negative
    bound is the plain evidence bound with its sign turned, comparable between epochs and runs.
    """
    logged = getattr(model_or_history, "history", model_or_history)
    if logged is None:
        raise ValueError("The model is not trained: it has no history. Call `model.train()` first.")
    curves = [curve for curve in CURVES if curve[0] in logged]
    if not curves:
        wanted = ", ".join(repr(name) for name, *_ in CURVES)
        raise KeyError(f"The history has none of {wanted}. Give a model after `model.train()`, or its `history`.")

    axes = new_axes(ax, (5.6, 3.6))
    lines = []
    for name, label, color, style in curves:
        lines += axes.plot(
            *_curve(logged[name]), color=color, linestyle=style, label=label, marker=_marker(logged[name])
        )
    axes.set(xlabel="epoch", ylabel="nats per cell")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    despine(axes, "top")
    if IN_USE in logged:
        twin = axes.twinx()
        epochs, numbers = _curve(logged[IN_USE])
        lines += twin.step(epochs, numbers, where="mid", color="0.55", label="components in use")
        twin.set(ylabel="components in use", ylim=(0, 1.15 * max(numbers.max(), 1)))
        twin.yaxis.set_major_locator(MaxNLocator(integer=True))
        despine(twin, "top")
    else:
        despine(axes, "right")
    axes.legend(handles=lines, frameon=False, fontsize=8, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return finish(axes, ax, show, save)


def _curve(frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Epochs, counted from one, and values."""
    return np.asarray(frame.index, dtype=float) + 1, np.asarray(frame, dtype=float).ravel()


def _marker(frame: pd.DataFrame) -> str | None:
    """A line of one epoch is a point."""
    return "o" if len(frame) == 1 else None
