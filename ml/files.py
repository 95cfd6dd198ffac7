"""Whole files: written so that a crash leaves the old one or the new one, and named by their content."""

import contextlib
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from ml.bad_input import BadInput

READ_BYTES = 2**20
_PARTIAL = re.compile(r"\..+\.[0-9a-f]{16}\.tmp")
PARTIAL = ".partial"
"""Ends the name of a folder that is not whole yet."""


class OutputExists(BadInput):
    """Something stands where a result would go."""

    page: ClassVar[str] = "commands"


class FileUnwritable(BadInput):
    """A file that a person named, in a place that takes none."""

    page: ClassVar[str] = "commands"


def require_free(path: Path, *, force: bool) -> None:
    """Raises: OutputExists where `path` exists and `force` does not allow to replace it."""
    if path.exists() and not force:
        raise OutputExists(f"{path} exists already: add --force to replace it.")


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
    temporary = partial_beside(path)
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    if os.name == "posix":
        _sync_folder(path.parent)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Path]:
    """As `replacing`, for a result of a command.

    Raises: FileUnwritable.
    """
    try:
        with replacing(path) as partial:
            yield partial
    except OSError as error:
        raise FileUnwritable(
            f"{path} cannot be written ({error.strerror or error}): make room, or choose another place."
        ) from error


def partial_beside(path: Path) -> Path:
    """A free path in the folder of `path`, for what takes its place when it is whole."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")


def remove_partials(folder: Path) -> None:
    """Remove what a killed process was writing in the folder, in which nobody else may be writing."""
    for path in folder.glob(".*.tmp"):
        if not _PARTIAL.fullmatch(path.name):
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def remove_folder(folder: Path) -> None:
    """Remove a folder with all in it, if it is there."""
    if folder.is_dir():
        # Git writes its objects read-only, which Windows does not remove.
        for path in folder.rglob("*"):
            if not path.is_symlink():
                path.chmod(0o700)
        shutil.rmtree(folder)


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
