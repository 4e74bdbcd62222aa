"""Warm-ups and learning rates as functions of the share of a run that is done."""

from __future__ import annotations

import math

LR_SCHEDULES = ("drop", "one-cycle")


def ramp(progress: float, start: float, length: float) -> float:
    """Rise linearly from 0 at ``start`` to 1 at ``start + length``, both fractions of the run."""
    if length <= 0:
        return float(progress >= start)
    return min(max((progress - start) / length, 0.0), 1.0)


def one_cycle(progress: float) -> float:
    """Factor of a learning rate: linear from 0 to 1 in the first fifth of the run, then down to 0 along a cosine."""
    rise = 0.2
    return progress / rise if progress < rise else 0.5 + 0.5 * math.cos(math.pi * ramp(progress, rise, 1.0 - rise))
