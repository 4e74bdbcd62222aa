"""A matrix of numbers in a file that R saved, read without R."""

from __future__ import annotations

import bz2
from pathlib import Path

import numpy as np
import pandas as pd

#: Beginning of what R's ``save`` writes: version, format, and three numbers of versions.
MAGIC, N_HEADER = b"RDX2\nX\n", 19
#: R's numbers of types.
SYMBOL, PAIR, TEXT, INTEGERS, REALS, STRINGS, LIST, REFERENCE = 1, 2, 9, 13, 14, 16, 19, 255


def read_matrix(path: Path) -> pd.DataFrame:
    """The matrix in a file that R's ``save`` wrote with bzip2.

    Parameters
    ----------
    path
        File with one numeric matrix that has names of rows and columns.

    Raises
    ------
    ValueError
        If the file holds something else.
    """
    data = bz2.decompress(path.read_bytes())
    if not data.startswith(MAGIC):
        raise ValueError(f"{str(path)!r} was not written by R's `save`.")
    (_, matrix), *_ = _Reader(data).pairs()
    if not isinstance(matrix, tuple):
        raise ValueError(f"{str(path)!r} does not hold a matrix.")
    values, attributes = matrix
    rows, columns = attributes["dimnames"]
    return pd.DataFrame(values.reshape(attributes["dim"], order="F").astype(float), rows, columns)


class _Reader:
    """What R wrote, one item after the other."""

    def __init__(self, data: bytes):
        self.data, self.position, self.symbols = data, N_HEADER, list[str]()

    def numbers(self, n: int, kind: str) -> np.ndarray:
        found = np.frombuffer(self.data, kind, n, self.position)
        self.position += found.nbytes
        return found

    def integer(self) -> int:
        return int(self.numbers(1, ">i4")[0])

    def pairs(self) -> list[tuple]:
        """A list of names and values."""
        found = []
        while (flags := self.integer()) & 0xFF == PAIR:
            found.append((self.item() if flags & 0x400 else None, self.item()))
        return found

    def item(self):
        """A vector, with its attributes if it has any; text; or a name."""
        flags = self.integer()
        kind = flags & 0xFF
        if kind == SYMBOL:
            self.symbols.append(self.item())
            return self.symbols[-1]
        if kind == REFERENCE:
            return self.symbols[(flags >> 8) - 1]
        length = self.integer()
        if kind == TEXT:
            return self.numbers(length, "S1").tobytes().decode()
        value: np.ndarray | list
        if kind in (INTEGERS, REALS):
            value = self.numbers(length, ">i4" if kind == INTEGERS else ">f8")
        elif kind in (STRINGS, LIST):
            value = [self.item() for _ in range(length)]
        else:
            raise ValueError(f"R's type {kind} is neither a vector nor a name.")
        return (value, dict(self.pairs())) if flags & 0x200 else value
