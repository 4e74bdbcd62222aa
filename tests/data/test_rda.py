"""Matrices that R saved are read as they are; other files are refused."""

from __future__ import annotations

import bz2
import struct

import numpy as np
import pandas as pd
import pytest

from rmve.data.rda import read_matrix

#: R's numbers of types, with the flags that R writes in its second version.
PAIR, SYMBOL, TEXT, INTEGERS, REALS, STRINGS, LIST, END = 0x402, 1, 0x40009, 13, 0x20E, 16, 19, 254


def integers(*values: int) -> bytes:
    return struct.pack(f">{len(values)}i", *values)


def text(value: str) -> bytes:
    return integers(TEXT, len(value.encode())) + value.encode()


def strings(values: list[str]) -> bytes:
    return integers(STRINGS, len(values)) + b"".join(map(text, values))


def save(matrix: pd.DataFrame) -> bytes:
    """What R's ``save`` writes for a matrix with names, by R's own description of the format."""
    n_rows, n_columns = matrix.shape
    values = integers(REALS, matrix.size) + matrix.to_numpy().ravel(order="F").astype(">f8").tobytes()
    dim = integers(PAIR, SYMBOL) + text("dim") + integers(INTEGERS, 2, n_rows, n_columns)
    names = integers(PAIR, SYMBOL) + text("dimnames") + integers(LIST, 2)
    names += strings(list(matrix.index)) + strings(list(matrix.columns))
    whole = integers(PAIR, SYMBOL) + text("table") + values + dim + names + integers(END, END)
    return b"RDX2\nX\n" + integers(2, 0x30403, 0x20300) + whole


def test_matrix(tmp_path):
    """Numbers, names and their order come back."""
    matrix = pd.DataFrame(np.arange(6.0).reshape(2, 3) / 3, ["a", "ä b"], ["x", "y", "z"])
    (tmp_path / "m.rda").write_bytes(bz2.compress(save(matrix)))
    pd.testing.assert_frame_equal(read_matrix(tmp_path / "m.rda"), matrix)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"RDX3\nX\n" + bytes(20), "was not written by R's `save`"),
        (b"RDX2\nX\n" + bytes(12) + integers(PAIR, SYMBOL) + text("x") + strings(["a"]) + integers(END), "a matrix"),
        (b"RDX2\nX\n" + bytes(12) + integers(PAIR, SYMBOL) + text("f") + integers(3, 0), "R's type 3"),
    ],
)
def test_something_else(tmp_path, content, message):
    """A text or a function is no matrix."""
    (tmp_path / "m.rda").write_bytes(bz2.compress(content))
    with pytest.raises(ValueError, match=message):
        read_matrix(tmp_path / "m.rda")
