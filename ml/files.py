"""Whole files: written so that a crash leaves the old one or the new one, and named by their content."""

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

READ_BYTES = 2**20


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(READ_BYTES):
            digest.update(piece)
    return digest.hexdigest()


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A free path in the folder of `path`; what is written there takes the place of `path` when the block ends well.

    The bytes are on the disk before the name points to them. When the block raises, `path` is as it was and nothing is
    left beside it.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    if os.name == "posix":
        _sync_folder(path.parent)


def _sync(path: Path) -> None:
    # Windows flushes only a handle that may write.
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
