"""Receives a delta in pieces: announced first, resumable by offset, hashed before it is stored."""

import errno
import fcntl
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from io import FileIO
from pathlib import Path

from django.conf import settings

from ml.files import sha256_file
from training import blobs
from training.jobs import AttemptNotYours
from training.models import Attempt, Blob, Experiment

KEEP = timedelta(days=1)
"""How long what was received of an attempt that has ended is left, before a sweep removes it."""
UNUSED_STATES = (
    Attempt.State.LEASE_EXPIRED,
    Attempt.State.RELEASED,
    Attempt.State.FAILED,
    Attempt.State.CANCELLED,
    Attempt.State.REJECTED,
    Attempt.State.LATE,
)
"""Ends whose delta nothing will read again."""


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
    """The coordinator has no room for the piece; a part of it may be kept, and the device may go on later."""


def announce(*, attempt: Attempt, size_bytes: int, sha256: str) -> None:
    """Fix the size and hash of a running attempt's delta; another announcement drops what was received before.

    Raises: UploadTooLarge, AttemptNotYours.
    """
    is_known = (attempt.delta_size_bytes, attempt.delta_sha256) == (size_bytes, sha256)
    if is_known and attempt.state == Attempt.State.RUNNING:
        return
    max_bytes = Experiment.objects.values_list("max_delta_bytes", flat=True).get(rounds__jobs=attempt.job_id)
    if not 0 < size_bytes <= max_bytes:
        raise UploadTooLarge(f"{size_bytes} bytes announced, {max_bytes} is the most for this experiment")
    if attempt.state != Attempt.State.RUNNING:
        raise AttemptNotYours(attempt)
    running = Attempt.objects.filter(pk=attempt.pk, state=Attempt.State.RUNNING)
    if not running.update(delta_size_bytes=size_bytes, delta_sha256=sha256, delta=None):
        raise _moved_on(attempt)
    discard(attempt)
    attempt.delta_size_bytes, attempt.delta_sha256, attempt.delta = size_bytes, sha256, None


def received_bytes(attempt: Attempt) -> int:
    """Where the next piece must begin.

    The last byte of what was received whole but not stored, as when the process died, is asked for once more: any piece
    then makes `append` store it.
    """
    size_bytes = attempt.delta_size_bytes or 0
    if attempt.delta_id is not None:
        return size_bytes
    path = _staging_path(attempt)
    received = path.stat().st_size if path.exists() else 0
    return min(received, max(0, size_bytes - 1))


def append(*, attempt: Attempt, offset: int, piece: bytes, now: datetime) -> int:
    """Add a piece to an announced upload and store the delta once it is whole; the bytes received so far.

    Raises: OffsetMismatch, UploadTooLarge, UploadCorrupt, DiskFull, AttemptNotYours; blobs.BlobUnavailable, where all
    bytes are kept and any piece tries again.
    """
    size_bytes = attempt.delta_size_bytes or 0
    if attempt.delta_id is not None:
        return size_bytes
    path = _staging_path(attempt)
    with _no_room_is_said(), _locked(path) as file:
        end = os.fstat(file.fileno()).st_size
        if end < size_bytes:
            if offset != end:
                raise OffsetMismatch(end)
            if end + len(piece) > size_bytes:
                raise UploadTooLarge(f"{end + len(piece)} bytes received, {size_bytes} were announced")
            _write_whole(file, piece)
            end += len(piece)
        if end == size_bytes:
            _store(attempt, path, now=now)
    return end


def discard(attempt: Attempt) -> None:
    """Remove what was received of an attempt's announced delta and not stored."""
    path = _staging_path(attempt)
    path.unlink(missing_ok=True)
    path.with_suffix(".lock").unlink(missing_ok=True)


def sweep(*, now: datetime) -> int:
    """Remove what attempts that ended without a merge have left, KEEP after they ended; how many files that were."""
    return _sweep_pieces(now=now) + _sweep_deltas(now=now)


def _sweep_pieces(*, now: datetime) -> int:
    if not settings.UPLOAD_DIR.exists():
        return 0
    oldest = (now - KEEP).timestamp()
    with os.scandir(settings.UPLOAD_DIR) as entries:
        old = {Path(entry) for entry in entries if _modified_at(entry) < oldest}
    running = Attempt.objects.filter(state=Attempt.State.RUNNING).exclude(delta_sha256="")
    wanted = {_staging_path(attempt) for attempt in running.only("delta_sha256")}
    # Whoever holds a lock that was removed is not alone.
    unwanted = old - wanted - {path.with_suffix(".lock") for path in wanted}
    for path in unwanted:
        path.unlink(missing_ok=True)
    return len(unwanted)


def _modified_at(entry: os.DirEntry[str]) -> float:
    try:
        return entry.stat().st_mtime
    except FileNotFoundError:
        return math.inf


def _sweep_deltas(*, now: datetime) -> int:
    ended = Attempt.objects.filter(state__in=UNUSED_STATES, ended_at__lte=now - KEEP, delta__isnull=False)
    ended.update(delta=None)
    used = Attempt.objects.filter(delta__isnull=False).values("delta")
    unused = Blob.objects.filter(kind=Blob.Kind.DELTA, created_at__lte=now - KEEP).exclude(pk__in=used)
    return sum(blobs.discard(blob) for blob in unused)


@contextmanager
def _locked(path: Path) -> Iterator[FileIO]:
    """The staging file, this request's alone: a device that lost an answer may send the same piece twice at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The lock is a file of its own: the staging file is moved away once it is whole, and a lock on it with it.
    with path.with_suffix(".lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Unbuffered: what does not fit on the disk fails in write, not once more in close.
        with path.open("ab", buffering=0) as file:
            yield file


@contextmanager
def _no_room_is_said() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFull("the coordinator's disk is full; your delta is safe with you, it will be sent again") from error


def _write_whole(file: FileIO, piece: bytes) -> None:
    view = memoryview(piece)
    while view:
        view = view[file.write(view) :]


def _store(attempt: Attempt, path: Path, *, now: datetime) -> None:
    sha256 = attempt.delta_sha256
    try:
        if sha256_file(path) != sha256:
            path.unlink()
            raise UploadCorrupt("the received bytes do not have the announced sha256; upload again from byte 0")
        blob = blobs.put(path=path, kind=Blob.Kind.DELTA, sha256=sha256, now=now)
    except FileNotFoundError:
        # Another request has announced other bytes and discarded these.
        raise OffsetMismatch(0) from None
    path.unlink(missing_ok=True)
    announced = Attempt.objects.filter(pk=attempt.pk, state=Attempt.State.RUNNING, delta_sha256=sha256)
    if not announced.update(delta=blob):
        blobs.discard(blob)
        raise _moved_on(attempt)
    attempt.delta = blob


def _moved_on(attempt: Attempt) -> AttemptNotYours:
    attempt.refresh_from_db(fields=["state", "reason"])
    return AttemptNotYours(attempt)


def _staging_path(attempt: Attempt) -> Path:
    return settings.UPLOAD_DIR / f"{attempt.pk}-{attempt.delta_sha256}.part"
