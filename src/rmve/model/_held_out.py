"""Which cells' positions a model has learned, and which it has not: by what the cells are, not by where they stand."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class HeldOut:
    """Cells whose position was kept to judge the map, and those whose position was learned.

    A cell is its name and its position, so that rows may be in any order, some may be missing, and other cells are
    recognised as such even if they have the same names.

    Attributes
    ----------
    names
        Names of the cells that were held out.
    cells
        What tells each of them from all others, in the same order; see :func:`identify`.
    learned
        The same of the cells whose position was learned.
    """

    names: tuple[str, ...] = ()
    cells: tuple[str, ...] = ()
    learned: frozenset[str] = field(default_factory=frozenset)

    def __len__(self) -> int:
        return len(self.names)

    def rows(self, cells: np.ndarray) -> np.ndarray:
        """Which of some cells are held out, as a mask of the same length."""
        return _among(cells, self.cells)

    def unknown(self, cells: np.ndarray) -> np.ndarray:
        """Which of some cells are neither held out nor learned, as a mask of the same length."""
        return ~self.rows(cells) & ~_among(cells, self.learned)

    def judges(self, names: np.ndarray, cells: np.ndarray) -> np.ndarray | None:
        """Which of some cells can judge a map, because their position was not learned, as a mask of the same length.

        Returns
        -------
        ``None`` if no position was learned: any of the cells can.

        Raises
        ------
        ValueError
            If cells have the names of held-out ones and other positions, or all positions were learned.
        """
        positioned, unknown = cells != "", self.unknown(cells)
        namesakes = _among(names, self.names) & unknown & positioned
        if namesakes.any():
            raise ValueError(
                f"{namesakes.sum()} cell(s) in `adata` have the names of cells that the model held out of training, but other "
                f"positions, the first is {str(names[namesakes][0])!r}. Give the data that it was trained on, or call other "
                "cells by other names."
            )
        if unknown[positioned].all():
            return None
        judging = positioned & (unknown | self.rows(cells))
        if judging.sum() < 2:
            raise ValueError(
                "The model has learned the positions of the cells in `adata`, so they cannot judge its map. Give all cells "
                "that it was trained on, with those that it held out."
            )
        return judging

    def extended(self, names: np.ndarray, cells: np.ndarray, held_out: np.ndarray) -> HeldOut:
        """The same after training on more cells, of which those in a mask are held out."""
        learned = self.learned | {cell for cell in cells[~held_out] if cell}
        return HeldOut(
            self.names + tuple(map(str, names[held_out])), self.cells + tuple(cells[held_out]), frozenset(learned)
        )

    def to_dict(self) -> dict[str, object]:
        """Plain lists and text, as they are written to disk."""
        return {"names": list(self.names), "cells": list(self.cells), "learned": " ".join(sorted(self.learned))}

    @classmethod
    def from_dict(cls, values: dict) -> HeldOut:
        """What :meth:`to_dict` wrote.

        Raises
        ------
        ValueError
            If it is something else.
        """
        if not isinstance(values, dict) or set(values) != {"names", "cells", "learned"}:
            raise ValueError("its held-out cells have another layout")
        names, cells, learned = values["names"], values["cells"], values["learned"]
        lists = isinstance(names, list) and isinstance(cells, list) and len(names) == len(cells)
        if not lists or not isinstance(learned, str) or any(not isinstance(value, str) for value in names + cells):
            raise ValueError("its held-out cells have another layout")
        return cls(tuple(names), tuple(cells), frozenset(learned.split()))


def _among(values: np.ndarray, some: Collection[str]) -> np.ndarray:
    some = frozenset(some)
    return np.array([value in some for value in values], dtype=bool)


def identify(names: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """What tells each cell from all others: a hash of its name and its position, empty where that is unknown.

    Parameters
    ----------
    names
        Of the cells, length ``n``.
    positions
        Shape ``(n, p)``, rows of NaN where unknown.

    Returns
    -------
    Array of text, shape ``(n,)``. Positions count in single precision, in which files often hold them.
    """
    known = np.isfinite(positions).all(1)
    with np.errstate(over="ignore"):
        rounded = np.ascontiguousarray(positions, dtype=np.float32) + np.float32(0.0)  # no negative zero
    return np.array(
        [
            hashlib.blake2b(
                str(name).encode("utf-8", "surrogatepass") + b"\0" + row.tobytes(), digest_size=8
            ).hexdigest()
            if there
            else ""
            for name, row, there in zip(names, rounded, known, strict=True)
        ],
        dtype=object,
    )
