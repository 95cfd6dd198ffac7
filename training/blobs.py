"""Files in storage, named by their SHA-256: put once, never changed."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from django.conf import settings
from django.core.files import File
from django.core.files.storage import FileSystemStorage, default_storage

from ml.files import sha256_file
from training.models import Blob


class BlobCorrupt(Exception):
    """What storage returned does not have the name's SHA-256."""


class _MovableFile(File):  # type: ignore[type-arg]
    """A file that FileSystemStorage moves into place, so that no reader ever sees half of it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path.open("rb"))
        self._path = path

    def temporary_file_path(self) -> str:
        return str(self._path)


def put(*, path: Path, kind: Blob.Kind, now: datetime) -> Blob:
    """Store the file at `path` under its SHA-256; `path` is moved away or left behind, by the storage's choice."""
    blob = Blob(sha256=sha256_file(path), kind=kind, size_bytes=path.stat().st_size, created_at=now)
    if not default_storage.exists(blob.path):
        with _MovableFile(path) as file:
            default_storage.save(blob.path, file)
    return Blob.objects.get_or_create(
        sha256=blob.sha256, defaults={"kind": kind, "size_bytes": blob.size_bytes, "created_at": now}
    )[0]


@contextmanager
def local_path(blob: Blob) -> Iterator[Path]:
    """The blob as a local file: storage's own where it has one, else a verified copy that lasts as long as the context.

    Raises: BlobCorrupt.
    """
    if isinstance(default_storage._wrapped, FileSystemStorage):  # type: ignore[attr-defined]
        yield Path(default_storage.path(blob.path))
        return
    with scratch_dir() as folder:
        path = folder / blob.sha256
        with default_storage.open(blob.path) as source, path.open("wb") as target:
            for chunk in source.chunks():
                target.write(chunk)
        if sha256_file(path) != blob.sha256:
            raise BlobCorrupt(f"{blob.path} in storage has other bytes than its name says")
        yield path


@contextmanager
def scratch_dir() -> Iterator[Path]:
    """A folder beside the state, on the same file system as local storage, removed afterwards."""
    root = settings.STATE_DIR / "scratch"
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root) as name:
        yield Path(name)
