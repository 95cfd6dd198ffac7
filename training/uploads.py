"""Receives a delta in pieces: announced first, resumable by offset, hashed before it is stored."""

import errno
import fcntl
import os
from datetime import datetime
from pathlib import Path

from django.conf import settings

from ml.files import sha256_file
from training import blobs
from training.jobs import AttemptNotYours
from training.models import Attempt, Blob


class UploadTooLarge(Exception):
    """The announced size is beyond what the experiment's codec can need."""


class OffsetMismatch(Exception):
    """The piece does not begin where the received bytes end; `offset` says where that is."""

    def __init__(self, offset: int) -> None:
        super().__init__(f"continue at byte {offset}")
        self.offset = offset


class UploadCorrupt(Exception):
    """All bytes are there and their SHA-256 is not the announced one; the upload begins anew."""


class DiskFull(Exception):
    """The coordinator has no room for the piece; nothing of it is kept, and the device may try again later."""


def announce(*, attempt: Attempt, size_bytes: int, sha256: str) -> None:
    """Fix the size and hash of a running attempt's delta; another announcement drops what was received before.

    Raises: UploadTooLarge, AttemptNotYours.
    """
    max_bytes = attempt.job.round.experiment.max_delta_bytes
    if not 0 < size_bytes <= max_bytes:
        raise UploadTooLarge(f"{size_bytes} bytes announced, {max_bytes} is the most for this experiment")
    if attempt.state != Attempt.State.RUNNING:
        raise AttemptNotYours(attempt)
    if (attempt.delta_size_bytes, attempt.delta_sha256) == (size_bytes, sha256):
        return
    running = Attempt.objects.filter(pk=attempt.pk, state=Attempt.State.RUNNING)
    if not running.update(delta_size_bytes=size_bytes, delta_sha256=sha256, delta=None):
        attempt.refresh_from_db(fields=["state", "reason"])
        raise AttemptNotYours(attempt)
    attempt.delta_size_bytes, attempt.delta_sha256, attempt.delta = size_bytes, sha256, None
    _staging_path(attempt).unlink(missing_ok=True)


def received_bytes(attempt: Attempt) -> int:
    """Where the next piece must begin."""
    if attempt.delta_id is not None:
        return attempt.delta_size_bytes or 0
    path = _staging_path(attempt)
    return path.stat().st_size if path.exists() else 0


def append(*, attempt: Attempt, offset: int, piece: bytes, now: datetime) -> int:
    """Add a piece to an announced upload and store the delta once it is whole; the bytes received so far.

    Raises: OffsetMismatch, UploadTooLarge, UploadCorrupt, DiskFull.
    """
    size_bytes = attempt.delta_size_bytes or 0
    if attempt.delta_id is not None:
        return size_bytes
    path = _staging_path(attempt)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        end = os.fstat(file.fileno()).st_size
        if offset != end:
            raise OffsetMismatch(end)
        if end + len(piece) > size_bytes:
            raise UploadTooLarge(f"{end + len(piece)} bytes received, {size_bytes} were announced")
        _write_whole(file.fileno(), piece, end)
        if end + len(piece) < size_bytes:
            return end + len(piece)
        _store(attempt, path, now=now)
    return size_bytes


def discard(attempt: Attempt) -> None:
    """Remove what was received of an attempt that has ended."""
    _staging_path(attempt).unlink(missing_ok=True)


def _write_whole(descriptor: int, piece: bytes, end: int) -> None:
    try:
        view = memoryview(piece)
        while view:
            view = view[os.write(descriptor, view) :]
    except OSError as error:
        os.ftruncate(descriptor, end)
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFull("the coordinator's disk is full; your delta is safe with you, it will be sent again") from error


def _store(attempt: Attempt, path: Path, *, now: datetime) -> None:
    if sha256_file(path) != attempt.delta_sha256:
        path.unlink()
        raise UploadCorrupt("the received bytes do not have the announced sha256; upload again from byte 0")
    attempt.delta = blobs.put(path=path, kind=Blob.Kind.DELTA, now=now)
    Attempt.objects.filter(pk=attempt.pk, state=Attempt.State.RUNNING).update(delta=attempt.delta)
    path.unlink(missing_ok=True)


def _staging_path(attempt: Attempt) -> Path:
    return settings.UPLOAD_DIR / f"{attempt.pk}.part"
