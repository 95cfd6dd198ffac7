"""Files in storage, named by their SHA-256: put once, never changed."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError
from django.conf import settings
from django.core.files import File
from django.core.files.storage import FileSystemStorage, default_storage
from django.db import transaction
from s3transfer.exceptions import RetriesExceededError

from ml.files import sha256_file
from training.models import Attempt, Blob


class BlobCorrupt(Exception):
    """What storage returned does not have the name's SHA-256."""


class BlobUnavailable(Exception):
    """S3 cannot be reached, or refuses; no file is known to be lost."""


class _MovableFile(File):  # type: ignore[type-arg]
    """A file that FileSystemStorage moves into place, so that no reader ever sees half of it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path.open("rb"))
        self._path = path

    def temporary_file_path(self) -> str:
        return str(self._path)


def put(*, path: Path, kind: Blob.Kind, now: datetime, sha256: str | None = None) -> Blob:
    """Store the file at `path` under its SHA-256; `path` is moved away or left behind, by the storage's choice.

    `sha256` saves reading the file where the caller has just hashed it. The row comes before the file: from then on
    `discard` spares both.

    Raises: BlobUnavailable, OSError.
    """
    blob = Blob(sha256=sha256 or sha256_file(path), kind=kind, size_bytes=path.stat().st_size, created_at=now)
    # What a device sent first under this name may turn out to be a file of ours; never the other way round.
    changed = ["created_at"] if kind == Blob.Kind.DELTA else ["created_at", "kind"]
    Blob.objects.bulk_create([blob], update_conflicts=True, unique_fields=["sha256"], update_fields=changed)
    if not is_stored(blob):
        with _asking_storage(), _MovableFile(path) as file:
            # A name must not outlive a power failure that its bytes did not.
            os.fsync(file.fileno())
            default_storage.save(blob.path, file)
    return blob


def is_stored(blob: Blob) -> bool:
    """Whether storage has a file of the blob's name.

    Raises: BlobUnavailable.
    """
    with _asking_storage():
        return default_storage.exists(blob.path)


def is_intact(blob: Blob) -> bool:
    """Whether storage has the blob's very bytes; reads all of them.

    Raises: BlobUnavailable.
    """
    try:
        with verified_path(blob):
            return True
    except (FileNotFoundError, BlobCorrupt):
        return False


def discard(blob: Blob) -> bool:
    """Remove a delta that nothing refers to; whether it was removed.

    The file goes while the row's deletion is not yet committed, so that whoever puts the same bytes again waits for it.

    Raises: BlobUnavailable; both are then kept.
    """
    with transaction.atomic():
        # Put again since `blob` was read, it is about to be referred to.
        unchanged = Blob.objects.filter(pk=blob.pk, kind=Blob.Kind.DELTA, created_at=blob.created_at)
        locked = unchanged.select_for_update().first()
        if locked is None or Attempt.objects.filter(delta=locked).exists():
            return False
        locked.delete()
        with _asking_storage():
            default_storage.delete(blob.path)
        return True


@contextmanager
def local_path(blob: Blob) -> Iterator[Path]:
    """The blob as a local file: storage's own where it has one, else a verified copy that lasts as long as the context.

    Raises: BlobCorrupt, BlobUnavailable, FileNotFoundError.
    """
    if isinstance(default_storage, FileSystemStorage):
        yield Path(default_storage.path(blob.path))
        return
    with scratch_dir() as folder:
        path = folder / blob.sha256
        with _asking_storage(), default_storage.open(blob.path) as source, path.open("wb") as target:
            for chunk in source.chunks():
                target.write(chunk)
        _verify(path, blob)
        yield path


@contextmanager
def verified_path(blob: Blob) -> Iterator[Path]:
    """As `local_path`, storage's own file read through and verified too.

    Raises: BlobCorrupt, BlobUnavailable, FileNotFoundError.
    """
    with local_path(blob) as path:
        if isinstance(default_storage, FileSystemStorage):
            _verify(path, blob)
        yield path


@contextmanager
def _asking_storage() -> Iterator[None]:
    """Raises: BlobUnavailable for what S3's client raises, whose errors are no OSError and have no base in common."""
    try:
        yield
    except (BotoCoreError, ClientError, RetriesExceededError) as error:
        raise BlobUnavailable(f"storage does not answer, or refuses: {error}") from error


def _verify(path: Path, blob: Blob) -> None:
    if sha256_file(path) != blob.sha256:
        raise BlobCorrupt(f"{blob.path} in storage has other bytes than its name says: restore it from a copy")


@contextmanager
def scratch_dir() -> Iterator[Path]:
    """A folder beside the state, on the same file system as local storage, removed afterwards."""
    root = settings.STATE_DIR / "scratch"
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root) as name:
        yield Path(name)
