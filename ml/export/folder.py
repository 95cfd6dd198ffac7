"""A folder that appears whole: built beside its place, then renamed."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from safetensors import SafetensorError

from ml.bad_input import BadInput
from ml.files import partial_beside

RECORD_FILE = "export.json"
"""In every exported folder: what was exported; only such a folder is ever replaced."""


class OutputTaken(BadInput):
    """A place that holds something already."""

    page: ClassVar[str] = "commands"


class OutputUnwritable(BadInput):
    """A place that takes no files."""

    page: ClassVar[str] = "export"


def check_free(folder: Path, *, force: bool) -> None:
    """Nothing stands at `folder`, or an export that `force` allows to replace.

    Raises: OutputTaken.
    """
    if not folder.exists() and not folder.is_symlink():
        return
    if not folder.is_dir() or folder.is_symlink():
        raise OutputTaken(f"{folder} is no folder: give another with `--out`.")
    if not any(folder.iterdir()):
        return
    if not (folder / RECORD_FILE).is_file():
        raise OutputTaken(f"{folder} holds other files than an export: give another folder with `--out`.")
    if not force:
        raise OutputTaken(f"{folder} holds an export already: replace it with `--force`, or give another `--out`.")


@contextlib.contextmanager
def building(folder: Path, *, force: bool) -> Iterator[Path]:
    """A new folder beside `folder`, which takes its place when the block ends well, and is removed when it raises.

    Raises: OutputTaken, OutputUnwritable.
    """
    check_free(folder, force=force)
    try:
        yield from _building(folder)
    except (OSError, SafetensorError) as error:
        raise OutputUnwritable(
            f"{folder} could not be written ({error}): make room, or give another folder with `--out`."
        ) from error


def _building(folder: Path) -> Iterator[Path]:
    # A resolved path has a name, which "." and ".." have not.
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_beside(folder)
    partial.mkdir()
    try:
        yield partial
        _replace(folder, partial, old=partial_beside(folder))
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _replace(folder: Path, new: Path, *, old: Path) -> None:
    # A folder that is not empty cannot be renamed over: the old one steps aside first.
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
