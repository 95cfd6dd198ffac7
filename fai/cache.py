"""Checkpoints and shards on the volunteer's disk, named by sha256, within a bound."""

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Collection, Iterator
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
    """What BlobRef, ShardRef and StepRef have in common."""

    @property
    def sha256(self) -> str: ...
    @property
    def size_bytes(self) -> int: ...


class WrongContent(ValueError):
    """What was made is not the file that was wanted."""


class Cache:
    """Files under `folder`, at most `max_bytes` of them; the least recently used go first."""

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        self._folder = folder
        self.max_bytes = max_bytes
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)

    def fetch(self, file: File, client: Client, *, on_bytes: Callable[[int], None]) -> Path:
        """Path of `file`, downloaded, or resumed, unless it is here. `on_bytes(so far)` may raise to stop.

        Raises: Stop on a full disk or on a file that does not have its sha256; CoordinatorError.
        """
        path = self.path(file.sha256)
        with disk_errors(self._folder, file.size_bytes), exclusive(path.with_suffix(".lock"), wait=True):
            if not path.exists():
                self._make_room(file.size_bytes)
                self._download(file, client, path, on_bytes)
            os.utime(path)
        return path

    def make(self, file: File, write: Callable[[Path], str], *, keep: Collection[str]) -> Path:
        """Path of `file`, which `write(path)` makes of the files `keep` unless it is here, and returns its SHA-256.

        Raises: WrongContent where that is another; Stop on a full disk; what `write` raises.
        """
        path = self.path(file.sha256)
        with disk_errors(self._folder, file.size_bytes), exclusive(path.with_suffix(".lock"), wait=True):
            if not path.exists():
                self._make_room(file.size_bytes, keep=keep)
                made = path.with_suffix(".made")
                try:
                    sha256 = write(made)
                    if sha256 != file.sha256:
                        raise WrongContent(f"it gives {sha256[:12]}, not {file.sha256[:12]}")
                    made.replace(path)
                finally:
                    made.unlink(missing_ok=True)
            os.utime(path)
        return path

    def path(self, sha256: str) -> Path:
        """Where a file is, or would be."""
        return self._folder / sha256

    def holds(self, sha256: str) -> bool:
        return self.path(sha256).exists()

    def missing_bytes(self, file: File) -> int:
        """What is still to be downloaded of a file."""
        path = self.path(file.sha256)
        if path.exists():
            return 0
        partial = path.with_suffix(".partial")
        return max(0, file.size_bytes - partial.stat().st_size) if partial.exists() else file.size_bytes

    def drop(self, sha256: str) -> None:
        self.path(sha256).unlink(missing_ok=True)

    def drop_if_damaged(self, sha256: str) -> None:
        """Drop a file that is not what its name says."""
        path = self.path(sha256)
        if path.exists() and sha256_file(path) != sha256:
            path.unlink(missing_ok=True)

    def _download(self, file: File, client: Client, path: Path, on_bytes: Callable[[int], None]) -> None:
        partial = path.with_suffix(".partial")
        for _ in range(DOWNLOAD_TRIES):
            client.patiently(lambda: receive(file, client, partial, on_bytes), patience_seconds=FOREVER)
            if sha256_file(partial) == file.sha256:
                partial.replace(path)
                return
            partial.unlink()
        raise Stop("damaged_download", sha256=file.sha256)

    def _make_room(self, size_bytes: int, *, keep: Collection[str] = ()) -> None:
        """Drop what was used longest ago, but nothing of `keep`, until the new file fits."""
        stats = [(path, path.stat()) for path in self._folder.iterdir() if path.is_file() and path.suffix != ".lock"]
        total_bytes = sum(stat.st_size for _, stat in stats)
        for path, stat in sorted(stats, key=lambda item: item[1].st_mtime_ns):
            if total_bytes + size_bytes <= self.max_bytes:
                break
            if path.name in keep:
                continue
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


def receive(file: File, client: Client, partial: Path, on_bytes: Callable[[int], None]) -> None:
    """Append what is missing to `partial`.

    Raises: CoordinatorUnreachable, where the stream breaks off too; what `on_bytes(so far)` raises.
    """
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
