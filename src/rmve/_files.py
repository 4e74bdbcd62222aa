"""Files that appear whole or not at all, alone or several as one. Nothing here knows what is in them.

What is written goes to a folder of its own beside the target first, which nobody else can have prepared, and is then put in
place by renaming. Whatever ends the process, the target is the old one or the new one. What a killed process left is removed
by the next writer in the same folder, on the same machine or a week later, and nothing that others made.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: no locks
    fcntl = None  # type: ignore[assignment]  # a module cannot be declared as optional

#: How names of folders that are being written begin.
PRIVATE = ".rmve-"
#: The name that a file has while it is about to be replaced, from its SHA-256: nobody else has a file of it.
BEFORE = re.compile(r"\.rmve-before-([0-9a-f]{64})-(.+)", re.DOTALL)
#: The machine, in the names of such folders: locks of another one may not be seen here.
MACHINE = hashlib.sha256(platform.node().encode("utf-8", "replace")).hexdigest()[:8]
#: The whole name of such a folder, with that of its machine.
PRIVATE_NAME = re.compile(rf"{re.escape(PRIVATE)}([0-9a-f]{{8}})-[a-z0-9_]{{8}}")
#: Seconds without a change after which a folder of another machine is left over.
LEFT_OVER_AFTER = 7 * 24 * 3600.0
#: Seconds to wait for another writer of the same folder.
PATIENCE = 30.0


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of ``path`` when all is written; a link there is replaced, not followed."""
    with _private_folder(path.parent) as folder:
        temporary = folder / path.name
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to write files into, which is called ``path``, where there is none, when all are written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _private_folder(path.parent) as folder:
        temporary = folder / path.name
        temporary.mkdir()
        yield temporary
        for file in temporary.iterdir():
            _sync(file)
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)


@contextlib.contextmanager
def replacing_together(folder: Path, index: str, wanted: Mapping[str, str]) -> Iterator[Path]:
    """A folder to write files into, which take the place of those in ``folder`` as one when all are written.

    ``index`` is the file that says which others belong to it, by their SHA-256; it is replaced last. Until then the files
    that the old one asks for are kept, and :func:`find` finds them.

    Parameters
    ----------
    folder
        An existing folder.
    index
        Name of that file.
    wanted
        Names and SHA-256 of the files that the present ``index`` asks for.
    """
    with locked(folder), _private_folder(folder) as private:
        yield private
        for file in private.iterdir():
            _sync(file)
        names = [file.name for file in private.iterdir() if file.name != index]
        for name, digest in wanted.items():  # of a writer that was killed in the midst of what follows
            found = find(folder, name, digest)
            if found is not None and found.name != name:
                os.replace(found, folder / name)
        kept = {name: before(name, sha256_of(folder / name)) for name in names if (folder / name).exists()}
        try:
            for name, aside in kept.items():
                os.replace(folder / name, folder / aside)
            for name in names:
                os.replace(private / name, folder / name)
            os.replace(private / index, folder / index)
        except BaseException:
            for name in names:
                if name in kept and (folder / kept[name]).exists():
                    os.replace(folder / kept[name], folder / name)
                elif name not in kept:
                    (folder / name).unlink(missing_ok=True)
            raise
        _sync(folder)
        for path in folder.glob(f"{PRIVATE}before-*"):
            if (match := BEFORE.fullmatch(path.name)) and match[2] in names and _has_digest(path, match[1]):
                path.unlink()


def find(folder: Path, name: str, digest: str) -> Path | None:
    """The file of that name and SHA-256, also while, or after, a writer was about to replace it; ``None`` if there is none."""
    return next(
        (path for path in (folder / name, folder / before(name, str(digest))) if _has_digest(path, digest)), None
    )


def before(name: str, digest: str) -> str:
    """Name of a file while it is about to be replaced; see :func:`find`. A digest that is none leads nowhere."""
    return f"{PRIVATE}before-{digest if re.fullmatch('[0-9a-f]{64}', digest) else '?'}-{name}"


def _has_digest(path: Path, digest: str) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return path.is_file() and sha256_of(path) == digest
    return False


def remove_folder(path: Path) -> None:
    """Remove a folder with all that is in it: for others it is whole until it is gone."""
    with _private_folder(path.parent) as private:
        os.replace(path, private / path.name)


def claim(folder: Path) -> None:
    """Make a folder if there is none; raise OSError if it cannot be written to, or another process holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, patience=0.0), _private_folder(folder):
        pass


@contextlib.contextmanager
def locked(folder: Path, patience: float = PATIENCE) -> Iterator[None]:
    """Keep other processes that ask for the same from a folder; on file systems without locks, do nothing.

    Raises
    ------
    BlockingIOError
        If another process has not let go of it after ``patience`` seconds.
    """
    descriptor = _lock(folder, patience)
    try:
        yield
    finally:
        _unlock(descriptor)


@contextlib.contextmanager
def _private_folder(parent: Path) -> Iterator[Path]:
    """An empty folder in another, for this process alone, removed with all that is left in it."""
    _remove_left_over(parent)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f"{PRIVATE}{MACHINE}-", dir=parent))
        with contextlib.suppress(FileNotFoundError, BlockingIOError):
            descriptor = _lock(folder, 0.0)
            if folder.exists():
                break
            _unlock(descriptor)  # another process took it for left over before it was locked
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _unlock(descriptor)


def is_private(path: Path) -> bool:
    """Whether a path is, by its name, a folder that is being written, or left over from that."""
    return PRIVATE_NAME.fullmatch(path.name) is not None


def _remove_left_over(parent: Path) -> None:
    """Remove private folders whose process is no more: nobody holds their lock.

    Those of other machines, whose locks may not reach this one, only when nothing in them changed for a week.
    """
    if fcntl is None:
        return
    for folder in parent.glob(f"{PRIVATE}*"):
        name = PRIVATE_NAME.fullmatch(folder.name)
        if name is None:
            continue
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if name[1] == MACHINE or _is_old(folder):
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)


def _is_old(folder: Path) -> bool:
    changed = max(path.lstat().st_mtime for path in (folder, *folder.rglob("*")))
    return time.time() - changed > LEFT_OVER_AFTER


def _lock(folder: Path, patience: float) -> int | None:
    if fcntl is None:
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    until = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() >= until:
                os.close(descriptor)
                raise BlockingIOError(
                    f"Another process is writing into {str(folder)!r}. Wait until it has ended, or choose another folder."
                ) from None
            time.sleep(0.05)
        except OSError:  # a file system without locks
            return descriptor


def _unlock(descriptor: int | None) -> None:
    if descriptor is not None:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _sync(path: Path) -> None:
    """Have the system write a file, or the entries of a folder, to the disk."""
    flags = os.O_RDONLY
    if path.is_dir():
        if os.name == "nt":
            return
        flags |= os.O_DIRECTORY
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # what cannot be synchronised
            raise
    finally:
        os.close(descriptor)
