"""Locks between processes of one machine, released by the system when their holder dies."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from ml.bad_input import BadInput
from ml.files import remove_partials

if sys.platform != "win32":
    import fcntl


class AlreadyLocked(Exception):
    """Another process holds the lock."""


class FolderBusy(BadInput):
    """A folder that another command is writing in."""

    page: ClassVar[str] = "commands"


class FolderUnusable(BadInput):
    """A path that is no folder to write in, and cannot become one."""

    page: ClassVar[str] = "commands"


@contextlib.contextmanager
def exclusive(path: Path, *, wait: bool) -> Iterator[None]:
    """Hold the file `path` alone. Where the system has no flock, everybody holds it.

    Raises: AlreadyLocked where another process holds it and `wait` is False.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        _lock(file.fileno(), wait=wait)
        yield


@contextlib.contextmanager
def writing_in(folder: Path) -> Iterator[None]:
    """Be the only command that writes in the folder, without what a killed one was writing there.

    It is made where it is missing, and goes again if left empty.

    Raises: FolderBusy, FolderUnusable.
    """
    try:
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FolderUnusable(f"{folder} cannot be written ({error.strerror}): name another folder.") from error
    try:
        with _held(folder):
            remove_partials(folder)
            yield
    finally:
        # One that is not empty stays, and so do those above it.
        with contextlib.suppress(OSError):
            for path in missing:
                path.rmdir()


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    # Windows opens no folders.
    if sys.platform == "win32":
        yield
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise FolderUnusable(
            f"{folder} cannot be read ({error.strerror}): allow it, or name another folder."
        ) from error
    try:
        _lock(descriptor, wait=False)
        yield
    except AlreadyLocked:
        raise FolderBusy(
            f"Another `fai` command is writing in {folder}: wait until it has ended, and run this one again."
        ) from None
    finally:
        os.close(descriptor)


def _lock(descriptor: int, *, wait: bool) -> None:
    """Raises: AlreadyLocked."""
    if sys.platform == "win32":
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError as error:
        raise AlreadyLocked from error
    except OSError:
        # Some network file systems lock nothing, or files alone: there everybody holds it.
        return
