"""Checkpoints and shards on the volunteer's disk, named by sha256, within a bound."""

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from fai.client import FOREVER, Client, CoordinatorUnreachable
from fai.stop import Stop
from ml.files import sha256_file
from ml.locks import exclusive

SPARE_BYTES = 64 * 2**20
"""Left free on the disk beyond what is asked for."""
DOWNLOAD_TRIES = 2


class File(Protocol):
    """What BlobRef and ShardRef have in common."""

    @property
    def sha256(self) -> str: ...
    @property
    def size_bytes(self) -> int: ...


class Cache:
    """Files under `folder`, at most `max_bytes` of them; the least recently used go first."""

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)

    def fetch(self, file: File, client: Client, *, on_bytes: Callable[[int], None]) -> Path:
        """Path of `file`, downloaded, or resumed, unless it is here. `on_bytes(so far)` may raise to stop.

        Raises: Stop on a full disk or on a file that does not have its sha256; CoordinatorError.
        """
        path = self._folder / file.sha256
        with disk_errors(self._folder, file.size_bytes), exclusive(path.with_suffix(".lock"), wait=True):
            if not path.exists():
                self._make_room(file.size_bytes)
                self._download(file, client, path, on_bytes)
            os.utime(path)
        return path

    def _download(self, file: File, client: Client, path: Path, on_bytes: Callable[[int], None]) -> None:
        partial = path.with_suffix(".partial")
        for _ in range(DOWNLOAD_TRIES):
            client.patiently(lambda: _receive(file, client, partial, on_bytes), patience_seconds=FOREVER)
            if sha256_file(partial) == file.sha256:
                partial.replace(path)
                return
            partial.unlink()
        raise Stop("damaged_download", sha256=file.sha256)

    def _make_room(self, size_bytes: int) -> None:
        """Drop what was used longest ago until the new file fits."""
        stats = [(path, path.stat()) for path in self._folder.iterdir() if path.is_file() and path.suffix != ".lock"]
        total_bytes = sum(stat.st_size for _, stat in stats)
        for path, stat in sorted(stats, key=lambda item: item[1].st_mtime_ns):
            if total_bytes + size_bytes <= self._max_bytes:
                break
            path.unlink(missing_ok=True)
            total_bytes -= stat.st_size
        require_space(self._folder, size_bytes)


def require_space(folder: Path, size_bytes: int) -> None:
    """Raises: Stop where the disk has no room for `size_bytes`."""
    missing_bytes = size_bytes + SPARE_BYTES - shutil.disk_usage(folder).free
    if missing_bytes > 0:
        raise _disk_full(folder, missing_bytes)


@contextlib.contextmanager
def disk_errors(folder: Path, size_bytes: int = 0) -> Iterator[None]:
    """Raises: Stop for a disk that is full or may not be written to."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise _disk_full(folder, size_bytes + SPARE_BYTES) from error
        if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR}:
            raise Stop("cache_unwritable", path=folder, why=error.strerror) from error
        raise


def _disk_full(folder: Path, missing_bytes: int) -> Stop:
    return Stop("disk_full", path=folder, needed_mb=-(-missing_bytes // 10**6))


def _receive(file: File, client: Client, partial: Path, on_bytes: Callable[[int], None]) -> None:
    """Append what is missing to `partial`."""
    received_bytes = partial.stat().st_size if partial.exists() else 0
    if received_bytes == file.size_bytes:
        return
    if received_bytes > file.size_bytes:
        received_bytes = 0
    with (
        client.open_blob(file.sha256, offset=received_bytes) as (is_rest, pieces),
        partial.open("ab" if is_rest else "wb") as output,
    ):
        received_bytes = output.tell()
        for piece in pieces:
            output.write(piece)
            received_bytes += len(piece)
            if received_bytes > file.size_bytes:
                break
            on_bytes(received_bytes)
    if received_bytes < file.size_bytes:
        raise CoordinatorUnreachable("the download ended early")
