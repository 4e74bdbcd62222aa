"""Downloads into a cache, with a checksum and limits of size, time and room on the disk."""

from __future__ import annotations

import os
import shutil
import time
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urljoin, urlsplit

import pooch

from rmve._files import replacing, sha256_of

if TYPE_CHECKING:
    import requests

#: Most bytes of a download, its longest time in seconds, and bytes that it leaves free on the disk.
MAX_BYTES, MAX_SECONDS, MIN_FREE_BYTES = 200 * 10**9, 24 * 3600.0, 10**9


def cache_folder(folder: str | Path | None) -> Path:
    """Cache: a folder that is given, ``RMVE_CACHE`` in the environment, or the operating system's place for caches."""
    return Path(folder or os.environ.get("RMVE_CACHE") or pooch.os_cache("rmve"))


def retrieve(url: str, sha256: str, name: str, folder: Path, progressbar: bool) -> Path:
    """Path of a file in a cache, downloaded if it is not there with this checksum.

    Parameters
    ----------
    url
        Address of the file.
    sha256
        Checksum of the file, 64 hexadecimal digits.
    name
        Name of the file in the cache.
    folder
        Cache.
    progressbar
        Whether to show the progress of the download.

    Raises
    ------
    ValueError
        If the file has another checksum.
    OSError
        If the file cannot be had, or is given up.
    """
    path = folder / name
    if path.is_file() and sha256_of(path) == sha256.lower():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        downloader = _Limited(progressbar=progressbar, timeout=60, hooks={"response": _check_redirect})
        pooch.retrieve(
            url, f"sha256:{sha256.lower()}", fname=temporary.name, path=temporary.parent, downloader=downloader
        )
    return path


class _Limited(pooch.HTTPDownloader):
    """pooch's download, which is given up when it is too large, takes too long, or would fill the disk."""

    def __call__(self, url: str, output_file: str, pooch: object, check_only: bool = False) -> bool | None:
        """Write the answer of a server to a file.

        Raises
        ------
        OSError
            If the server cannot be reached, or the file is given up.
        """
        if check_only:
            return super().__call__(url, output_file, pooch, check_only)
        with open(output_file, "wb") as file:
            limits = _Limits(url, file)
            self.kwargs["hooks"] = {"response": [_check_redirect, limits.check_length]}
            return super().__call__(url, limits, pooch)


class _Limits:
    """A file to download to, which raises OSError when it is too large or late."""

    def __init__(self, url: str, file: BinaryIO):
        self.url, self.file, self.n_bytes, self.start = url, file, 0, time.monotonic()
        self.folder = Path(file.name).parent.parent
        self.room = shutil.disk_usage(self.folder).free - MIN_FREE_BYTES

    def check_length(self, response: requests.Response, *args, **kwargs) -> None:
        """Look at the length that the server says the file has, if it says any."""
        length = response.headers.get("content-length", "")
        self._check(int(length) if length.isdecimal() else 0)

    def write(self, chunk: bytes) -> None:
        """Take the next part of the file."""
        self.n_bytes += len(chunk)
        self._check(self.n_bytes)
        self.file.write(chunk)

    def flush(self) -> None:
        """Nothing to do: the file is read when it is whole."""

    def _check(self, n_bytes: int) -> None:
        problem = None
        if n_bytes > MAX_BYTES:
            problem = f"has more than {MAX_BYTES / 1e9:g} GB"
        elif n_bytes > self.room:
            problem = f"has more than {max(self.room, 0) / 1e9:.3g} GB, and the disk of {str(self.folder)!r} has room for no more"
        elif time.monotonic() - self.start > MAX_SECONDS:
            problem = f"took more than {MAX_SECONDS / 3600:g} hours"
        if problem is not None:
            raise OSError(
                f"{self.url} {problem}; it was given up. Download it by other means, and read it with `anndata.read_h5ad`."
            )


def _check_redirect(response, *args, **kwargs) -> None:
    """Raise OSError for a redirect to an unencrypted address, or from the internet to a machine nearby."""
    if not response.is_redirect:
        return
    here, there = urlsplit(response.url), urlsplit(urljoin(response.url, response.headers["location"]))
    if here.scheme == "https" and there.scheme != "https":
        raise OSError(f"{response.url} redirects to an unencrypted address, which is not followed.")
    if _is_nearby(there.hostname) and not _is_nearby(here.hostname):
        raise OSError(f"{response.url} redirects to {there.hostname}, a machine nearby, which is not followed.")


def _is_nearby(host: str | None) -> bool:
    """Whether a host is this machine or in a private network, by its name or number alone."""
    try:
        return not ip_address(host or "").is_global
    except ValueError:
        return host is None or "." not in host or host.endswith((".local", ".localhost", ".internal"))
