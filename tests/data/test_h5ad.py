"""Files of cells: what leads elsewhere or cannot be written is found before the work."""

from __future__ import annotations

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from rmve.data import h5ad
from rmve.data.on_disk import is_on_disk


@pytest.fixture
def path(cells, tmp_path):
    """A file that can be read and written."""
    cells.uns = {
        "a": {"b": np.arange(3), "text": "x"},
        "table": pd.DataFrame({"n": [1.0]}, index=["row"]),
        "sparse": sp.eye(3).tocsr(),
    }
    cells.obsp["own"] = sp.eye(cells.n_obs, format="csr")
    cells.raw = cells.copy()
    cells.write_h5ad(tmp_path / "cells.h5ad")
    return tmp_path / "cells.h5ad"


def test_a_file_comes_back(path, contents, assert_same):
    """Read, checked and written, it is the same."""
    adata = h5ad.read(path)
    h5ad.check_writable(adata)
    h5ad.write(path.with_name("out.h5ad"), adata)
    assert_same(contents(adata), contents(ad.read_h5ad(path.with_name("out.h5ad"))))
    assert_same(contents(ad.read_h5ad(path)), contents(ad.read_h5ad(path.with_name("out.h5ad"))))


def test_a_file_comes_back_from_disk(path, contents, assert_same):
    """The same with the matrices left in the file: they are written as they are stored there."""
    with h5ad.opened(path) as adata:
        assert is_on_disk(adata.X)
        assert is_on_disk(adata.raw.X)
        assert {type(layer) for layer in adata.layers.values()} == {type(adata.X)}
        h5ad.check_writable(adata)
        h5ad.write(path.with_name("out.h5ad"), adata)
    before, after = ad.read_h5ad(path), ad.read_h5ad(path.with_name("out.h5ad"))
    assert_same(contents(before), contents(after))
    assert_same(contents(before.raw.to_adata()), contents(after.raw.to_adata()))


def test_a_damaged_file_is_closed(path):
    """So that it can be mended and opened again."""
    with h5py.File(path, "r+") as file:
        file.move("raw/X", "raw/Y")
    with pytest.raises(ValueError, match="cannot be read as h5ad"), h5ad.opened(path):
        pass
    with h5py.File(path, "r+") as file:
        file.move("raw/Y", "raw/X")
    with h5ad.opened(path) as adata:
        assert adata.raw is not None


def reserved(where):
    """A column called as anndata calls the index, as converters from R write it."""

    def change(file):
        frame = file[where]
        names = frame[frame.attrs["_index"]][:]
        del frame[frame.attrs["_index"]]
        for name in ("features", "_index"):
            column = frame.create_dataset(name, data=names)
            column.attrs.update({"encoding-type": "string-array", "encoding-version": "0.2.0"})
        frame.attrs["_index"] = "features"
        frame.attrs["column-order"] = np.array(["_index"], dtype=h5py.string_dtype())

    return change


def opaque(file):
    file["uns"]["a"]["void"] = np.void(b"xyz")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (reserved("raw/var"), r"`raw/var\['_index'\]`"),
        (reserved("var"), r"`var\['_index'\]`"),
        (reserved("obs"), r"`obs\['_index'\]`"),
        (reserved("uns/table"), r"`uns\['table'\]\['_index'\]`"),
        (opaque, r"`uns\['a'\]\['void'\]`"),
    ],
)
def test_what_cannot_be_written_is_named(path, change, named):
    """Before anything is computed."""
    with h5py.File(path, "r+") as file:
        change(file)
    adata = h5ad.read(path)
    with pytest.raises(ValueError, match=named):
        h5ad.check_writable(adata)


@pytest.mark.parametrize("value", [{1, 2}, object(), [{"a": 1}, {3}]])
def test_values_that_no_file_holds(cells, value):
    """Whatever stands in `uns` and cannot be written is refused by name."""
    cells.uns["x"] = value
    with pytest.raises(ValueError, match=r"`uns\['x'\]`"):
        h5ad.check_writable(cells)


def test_text_of_newer_pandas(cells, tmp_path):
    """Names and columns that are nullable text are written as they were read."""
    cells.obs_names = pd.Index(cells.obs_names.to_numpy(), dtype="string")
    cells.obs["note"] = pd.array(["x"] * cells.n_obs, dtype="string")
    h5ad.check_writable(cells)
    h5ad.write(tmp_path / "out.h5ad", cells)
    assert h5ad.read(tmp_path / "out.h5ad").obs_names[0] == "cell 0"


def external_link(file, other):
    file["uns"]["x"] = h5py.ExternalLink(str(other), "/secret")


def virtual(file, other):
    layout = h5py.VirtualLayout(shape=(3,), dtype="f8")
    layout[:] = h5py.VirtualSource(str(other), "secret", shape=(3,))
    file["uns"].create_virtual_dataset("x", layout)


def external_storage(file, other):
    file["uns"].create_dataset("x", (3,), "f8", external=[(str(other), 0, 24)])


def hard_loop(file, other):
    file["uns"]["x"] = file["uns"]


def soft_loop(file, other):
    file["uns"]["x"] = h5py.SoftLink("/uns")


def deep(file, other):
    group = file["uns"]
    for _ in range(300):
        group = group.create_group("x")


def dangling(file, other):
    file["uns"]["x"] = h5py.SoftLink("/nothing")


@pytest.mark.parametrize(
    "change", [external_link, virtual, external_storage, hard_loop, soft_loop, deep, dangling], ids=lambda f: f.__name__
)
def test_files_that_lead_elsewhere_or_nowhere(path, tmp_path, change):
    """Nothing of another file is read, and no loop is followed."""
    other = tmp_path / "private.h5"
    with h5py.File(other, "w") as file:
        file["secret"] = np.arange(3.0)
    with h5py.File(path, "r+") as file:
        change(file, other)
    with pytest.raises(ValueError, match="uns/x"):
        h5ad.read(path)
    with pytest.raises(ValueError, match="uns/x"), h5ad.opened(path):
        pass


def test_a_declared_size_without_content(path):
    """An array that is said to be larger than any memory."""
    with h5py.File(path, "r+") as file:
        data = file["uns"].create_dataset("x", (10**13,), "f8", chunks=(1000,))
        data.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    with pytest.raises(OSError, match="memory"):
        h5ad.read(path)
