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
from anndata.io import write_elem

from rmve.data.on_disk import check_matrix

#: Most groups within groups that a file may have.
MAX_DEPTH = 100


def read(path: Path) -> ad.AnnData:
    """Read a file, and no other that it names.

    Raises
    ------
    ValueError
        If it holds links to other files, groups without end, or something that anndata cannot read.
    OSError
        If it is no HDF5 file, or does not fit into memory.
    """
    try:
        check_links(path)
        return ad.read_h5ad(path)
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
        elif not (sp.issparse(value) or (type(value) is np.ndarray and value.dtype.kind in "biufc")):
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
    """Write a file.

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
                write_elem(file, "/", adata)
        except Exception:
            if sink.error is None:
                raise
        if sink.error is not None:
            raise OSError(f"{path.name} could not be written: {sink.error.strerror or sink.error}.") from sink.error


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
    """Put the counts in ``adata.raw`` into a layer.

    Raises
    ------
    ValueError
        If there are none, or not of all genes, or their matrix is damaged.
    """
    if adata.raw is None:
        raise ValueError(f"`layer={name!r}`: `adata` has neither a layer of that name nor `adata.raw`.")
    check_matrix(adata.raw.X, "`adata.raw.X`")
    missing = adata.var_names.difference(adata.raw.var_names)
    if len(missing) or not adata.raw.var_names.is_unique:
        what = f"lacks {len(missing)} of the genes" if len(missing) else "names a gene twice"
        raise ValueError(f"`adata.raw` {what} in `adata.var_names`, so its counts cannot be taken.")
    adata.layers[name] = adata.raw[:, adata.var_names].X
