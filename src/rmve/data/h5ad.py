"""h5ad files of the command line: read without following links, checked before the work, written whole or not at all."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata.abc import CSCDataset, CSRDataset
from anndata.experimental import write_dispatched
from anndata.io import read_elem, sparse_dataset, write_elem

from rmve.data.on_disk import check_matrix

#: Most groups within groups that a file may have.
MAX_DEPTH = 100
#: Encodings of matrices that may stay in a file.
MATRICES = ("array", "csr_matrix", "csc_matrix")


def read(path: Path) -> ad.AnnData:
    """Read a file, and no other that it names.

    Raises
    ------
    ValueError
        If it holds links to other files, groups without end, or something that anndata cannot read.
    OSError
        If it is no HDF5 file, or does not fit into memory.
    """
    with _errors_of_reading(path):
        check_links(path)
        return ad.read_h5ad(path)


@contextmanager
def opened(path: Path) -> Iterator[ad.AnnData]:
    """Cells whose matrices (``X``, layers and ``raw.X``) stay in the file, which is open meanwhile; no other file is read.

    ``anndata.read_h5ad(path, backed="r")`` would read the layers into memory.

    Yields
    ------
    Cells that hold the rest in memory.

    Raises
    ------
    ValueError
        As :func:`read`, or if the file is of anndata before 0.8.
    OSError
        As :func:`read`.
    """
    with _errors_of_reading(path):
        check_links(path)
        file = h5py.File(path, "r")
    with file:
        with _errors_of_reading(path):
            adata = _with_matrices_on_disk(file, path.name)
        yield adata


def _with_matrices_on_disk(file: h5py.File, name: str) -> ad.AnnData:
    if file.attrs.get("encoding-type") != "anndata":
        raise ValueError(
            f"`backed`: {name} is not in the format that anndata writes since version 0.8. Read it with "
            "`anndata.read_h5ad` and write it with `write_h5ad`."
        )
    parts = {
        part: read_elem(file[part]) for part in ("obs", "var", "obsm", "varm", "obsp", "varp", "uns") if part in file
    }
    if "layers" in file:
        parts["layers"] = {layer: _matrix(item) for layer, item in file["layers"].items()}
    raw = None
    if "raw" in file and isinstance(file["raw"], h5py.Group):
        raw = {part: read_elem(file["raw"][part]) for part in ("var", "varm") if part in file["raw"]}
        raw["X"] = _matrix(file["raw"]["X"])
    return ad.AnnData(_matrix(file["X"]) if "X" in file else None, raw=raw, **parts)


def _matrix(item: h5py.Group | h5py.Dataset):
    """A matrix that stays in the file, or whatever else is in its place."""
    if item.attrs.get("encoding-type") not in MATRICES:
        return read_elem(item)
    return item if isinstance(item, h5py.Dataset) else sparse_dataset(item)


def is_in_file(value) -> bool:
    """Whether a value is a matrix that an open file holds."""
    return isinstance(value, CSRDataset | CSCDataset | h5py.Dataset)


@contextmanager
def _errors_of_reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError):
        raise
    except MemoryError:
        raise OSError(f"{path.name} holds more than fits into memory.") from None
    except Exception as error:  # whatever anndata meets in the file
        raise ValueError(f"{path.name} cannot be read as h5ad: {_first_line(error)}") from error


def check_links(path: Path) -> None:
    """Raise ValueError if a file takes content from other files, or its groups hold each other.

    The content would be copied into the output, which may be given to others.
    """
    with h5py.File(path, "r") as file:
        waiting: list[tuple[h5py.Group, tuple[int, ...]]] = [(file, (_address(file),))]
        seen = set()
        while waiting:
            group, parents = waiting.pop()
            for name in group:
                where = f"{group.name.rstrip('/')}/{name}"[1:]
                if isinstance(group.get(name, getlink=True), h5py.ExternalLink):
                    raise ValueError(f"{path.name}: `{where}` is a link to another file, which is not read. Remove it.")
                item = group.get(name)
                if item is None:
                    raise ValueError(f"{path.name}: `{where}` is a link to nothing. Remove it.")
                if isinstance(item, h5py.Dataset) and (item.is_virtual or item.external):
                    raise ValueError(f"{path.name}: `{where}` is kept in another file, which is not read. Copy it in.")
                if not isinstance(item, h5py.Group):
                    continue
                address = _address(item)
                if address in parents or len(parents) > MAX_DEPTH:
                    raise ValueError(f"{path.name}: the groups in `{where[:60]}` have no end. Remove it.")
                if address not in seen:
                    seen.add(address)
                    waiting.append((item, (*parents, address)))


def _address(item: h5py.Group) -> int:
    return h5py.h5o.get_info(item.id).addr


def check_writable(adata: ad.AnnData) -> None:
    """Raise ValueError, with its name, for an element that can be read and not written.

    Everything but arrays of numbers is written once, to a file in memory.
    """
    with h5py.File("check", "w", driver="core", backing_store=False) as file, _nullable_strings():
        frames = [("obs", adata.obs), ("var", adata.var)]
        frames += [] if adata.raw is None else [("raw/var", adata.raw.var)]
        for where, frame in frames:
            _try_frame(file, where, frame)
        for part in ("obsm", "varm", "obsp", "varp", "layers", "uns"):
            _try_mapping(file, part, dict(getattr(adata, part)))


def _try_frame(file: h5py.File, where: str, frame: pd.DataFrame) -> None:
    try:
        _try(file, where, frame)
    except ValueError:
        _try(file, f"{where}.index", frame[[]])
        for place, name in enumerate(frame.columns):
            _try(file, f"{where}[{name!r}]", frame.iloc[:, [place]])
        raise


def _try_mapping(file: h5py.File, where: str, mapping: Mapping) -> None:
    for key, value in mapping.items():
        _try(file, f"{where}[{key!r}]", {key: 0})  # the name alone
        if isinstance(value, pd.DataFrame):
            _try_frame(file, f"{where}[{key!r}]", value)
        elif isinstance(value, Mapping):
            _try_mapping(file, f"{where}[{key!r}]", value)
        elif not (
            is_in_file(value) or sp.issparse(value) or (type(value) is np.ndarray and value.dtype.kind in "biufc")
        ):
            _try(file, f"{where}[{key!r}]", value)


def _try(file: h5py.File, where: str, value: object) -> None:
    try:
        write_elem(file, "element", value)
    except Exception as error:  # of many kinds, from anndata, h5py and NumPy
        raise ValueError(
            f"`{where}` can be read but not written to h5ad: {_first_line(error)} Remove or rename it in the input first."
        ) from error


def _first_line(error: BaseException) -> str:
    lines = str(error.args[0] if error.args else error).strip().splitlines()
    return f"{lines[0].rstrip('.')}." if lines else f"{type(error).__name__}."


@contextmanager
def _nullable_strings() -> Iterator[None]:
    """Let text be written in the form that pandas 3 reads it in, where anndata knows that form."""
    if hasattr(ad.settings, "allow_write_nullable_strings"):
        with ad.settings.override(allow_write_nullable_strings=True):
            yield
    else:
        yield


def write(path: Path, adata: ad.AnnData) -> None:
    """Write a file; a matrix that another file holds is copied as it is stored there, in pieces.

    Raises
    ------
    OSError
        If it cannot be written, for example because the disk is full.
    """
    adata.strings_to_categoricals()
    if adata.raw is not None:
        adata.strings_to_categoricals(adata.raw.var)
    with open(path, "w+b", buffering=0) as raw, _nullable_strings():
        sink = _Sink(raw)
        try:
            with h5py.File(sink, "w") as file:
                write_dispatched(file, "/", adata, _write_or_copy)
        except Exception:
            if sink.error is None:
                raise
        if sink.error is not None:
            raise OSError(f"{path.name} could not be written: {sink.error.strerror or sink.error}.") from sink.error


def _write_or_copy(write_func, store: h5py.Group, key: str, value, *, dataset_kwargs: Mapping, iospec) -> None:
    """Write an element as anndata does, but a matrix of another file, which anndata would read as a whole."""
    if not is_in_file(value):
        write_func(store, key, value, dataset_kwargs=dataset_kwargs)
        return
    source = value if isinstance(value, h5py.Dataset) else value.group
    source.file.copy(source, store, key, expand_soft=True)


class _Sink(io.RawIOBase):
    """A file for HDF5 that remembers the first error of writing and lets go on.

    HDF5 does not get over an error of the disk: it tries again when the program ends, and crashes.
    """

    def __init__(self, file: io.RawIOBase):
        self._file = file
        self.error: OSError | None = None

    def write(self, data) -> int:
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view) and self.error is None:
            try:
                done += self._file.write(view[done:])
            except OSError as error:
                self.error = error
        return len(view)

    def readinto(self, buffer) -> int:
        view = memoryview(buffer).cast("B")
        done = 0
        while done < len(view):
            n = self._file.readinto(view[done:])
            if not n:
                view[done:] = bytes(len(view) - done)
                break
            done += n
        return len(view)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def truncate(self, size: int | None = None) -> int:
        try:
            return self._file.truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


def take_raw_counts(adata: ad.AnnData, name: str) -> None:
    """Put the counts in ``adata.raw`` into a layer; those on disk stay there.

    Raises
    ------
    ValueError
        If there are none, or not of all genes, or their matrix is damaged, or it is on disk and has other genes.
    """
    if adata.raw is None:
        raise ValueError(f"`layer={name!r}`: `adata` has neither a layer of that name nor `adata.raw`.")
    check_matrix(adata.raw.X, "`adata.raw.X`")
    missing = adata.var_names.difference(adata.raw.var_names)
    if len(missing) or not adata.raw.var_names.is_unique:
        what = f"lacks {len(missing)} of the genes" if len(missing) else "names a gene twice"
        raise ValueError(f"`adata.raw` {what} in `adata.var_names`, so its counts cannot be taken.")
    if not is_in_file(adata.raw.X):
        adata.layers[name] = adata.raw[:, adata.var_names].X
    elif adata.raw.var_names.equals(adata.var_names):
        adata.layers[name] = adata.raw.X
    else:
        raise ValueError(
            f"`backed` with `layer={name!r}` needs the genes of `adata.var_names`, in their order, in `adata.raw`, "
            "which has others. Leave `backed` out."
        )
