"""Uploads: announced, resumed by offset, hashed, and swept away when nothing will read them."""

import hashlib
import os
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

from tests.training.make import make_attempt_in, make_blob
from training import blobs, jobs, uploads
from training.models import Attempt, Blob

pytestmark = pytest.mark.django_db

State = Attempt.State
DATA = bytes(range(256)) * 4
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def attempt() -> Attempt:
    return make_attempt_in(State.RUNNING)


def announce(attempt: Attempt, *, data: bytes = DATA) -> None:
    uploads.announce(attempt=attempt, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def append(attempt: Attempt, start: int, stop: int, now: datetime, *, data: bytes = DATA) -> int:
    return uploads.append(attempt=attempt, offset=start, piece=data[start:stop], now=now)


def reload(attempt: Attempt) -> Attempt:
    """The attempt as another request finds it."""
    return Attempt.objects.get(pk=attempt.pk)


def staged(attempt: Attempt) -> list[Path]:
    return sorted(Path(settings.UPLOAD_DIR).glob(f"{attempt.pk}-*.part"))


# Receiving


def test_a_delta_in_one_piece_is_stored(attempt: Attempt, storage: Path, now: datetime) -> None:
    announce(attempt)
    assert append(attempt, 0, len(DATA), now) == len(DATA)
    delta = reload(attempt).delta
    assert delta is not None
    assert (delta.sha256, delta.kind, delta.size_bytes) == (SHA256, Blob.Kind.DELTA, len(DATA))
    assert (storage / delta.path).read_bytes() == DATA
    assert staged(attempt) == []


def test_a_delta_in_pieces_is_stored_when_it_is_whole(attempt: Attempt, now: datetime) -> None:
    announce(attempt)
    for start, stop in ((0, 100), (100, 101), (101, 1_000)):
        assert append(attempt, start, stop, now) == stop
        attempt = reload(attempt)
        assert attempt.delta is None
        assert uploads.received_bytes(attempt) == stop
    append(attempt, 1_000, 1_024, now)
    assert reload(attempt).delta_id == SHA256
    assert uploads.received_bytes(reload(attempt)) == 1_024


@pytest.mark.parametrize("offset", [0, 99, 101, 1_024, 10**30])
def test_a_piece_at_another_offset_is_told_where_to_go_on(offset: int, attempt: Attempt, now: datetime) -> None:
    announce(attempt)
    append(attempt, 0, 100, now)
    with pytest.raises(uploads.OffsetMismatch) as mismatch:
        uploads.append(attempt=attempt, offset=offset, piece=b"x", now=now)
    assert mismatch.value.offset == 100
    assert uploads.received_bytes(attempt) == 100


def test_a_piece_beyond_the_announced_size_is_refused_unwritten(attempt: Attempt, now: datetime) -> None:
    announce(attempt)
    append(attempt, 0, 1_000, now)
    with pytest.raises(uploads.UploadTooLarge):
        uploads.append(attempt=attempt, offset=1_000, piece=b"x" * 25, now=now)
    assert uploads.received_bytes(attempt) == 1_000


def test_a_piece_after_the_end_is_answered_with_the_end(attempt: Attempt, now: datetime) -> None:
    announce(attempt)
    append(attempt, 0, 1_024, now)
    assert append(reload(attempt), 1_000, 1_024, now) == 1_024


def test_an_empty_piece_changes_nothing(attempt: Attempt, now: datetime) -> None:
    announce(attempt)
    append(attempt, 0, 10, now)
    assert uploads.append(attempt=attempt, offset=10, piece=b"", now=now) == 10


def test_bytes_that_are_not_the_announced_ones_are_thrown_away(attempt: Attempt, storage: Path, now: datetime) -> None:
    announce(attempt)
    with pytest.raises(uploads.UploadCorrupt):
        uploads.append(attempt=attempt, offset=0, piece=b"x" * 1_024, now=now)
    assert uploads.received_bytes(reload(attempt)) == 0
    assert append(reload(attempt), 0, 1_024, now) == 1_024
    assert reload(attempt).delta_id == SHA256


# Announcing


def test_an_announcement_beyond_the_codecs_need_is_refused(attempt: Attempt) -> None:
    most = attempt.job.round.experiment.max_delta_bytes
    for size_bytes in (most + 1, 2**63, 10**30, 0, -1):
        with pytest.raises(uploads.UploadTooLarge):
            uploads.announce(attempt=attempt, size_bytes=size_bytes, sha256=SHA256)
    uploads.announce(attempt=attempt, size_bytes=most, sha256=SHA256)


def test_the_same_announcement_again_costs_nothing(attempt: Attempt, django_assert_num_queries: Any) -> None:
    announce(attempt)
    with django_assert_num_queries(0):
        announce(attempt)


def test_another_announcement_begins_anew(attempt: Attempt, now: datetime) -> None:
    announce(attempt)
    append(attempt, 0, 100, now)
    announce(attempt, data=b"other")
    assert staged(attempt) == []
    assert append(attempt, 0, 5, now, data=b"other") == 5
    assert reload(attempt).delta_id == hashlib.sha256(b"other").hexdigest()


@pytest.mark.parametrize("state", sorted(set(State) - {State.RUNNING}))
def test_only_a_running_attempt_may_announce(state: str) -> None:
    attempt = make_attempt_in(state)
    with pytest.raises(jobs.AttemptNotYours):
        announce(attempt)


def test_an_attempt_that_was_lost_meanwhile_may_not_announce(attempt: Attempt) -> None:
    Attempt.objects.update(state=State.LEASE_EXPIRED)
    with pytest.raises(jobs.AttemptNotYours):
        announce(attempt)


def test_an_attempt_that_is_lost_before_its_last_piece_leaves_no_file(
    attempt: Attempt, storage: Path, now: datetime
) -> None:
    announce(attempt)
    Attempt.objects.update(state=State.LEASE_EXPIRED)
    with pytest.raises(jobs.AttemptNotYours):
        append(attempt, 0, 1_024, now)
    assert not Blob.objects.filter(kind=Blob.Kind.DELTA).exists()
    assert [path for path in storage.rglob("*") if path.is_file()] == []


# Interruptions


def test_what_is_whole_but_was_not_stored_is_stored_by_the_next_piece(attempt: Attempt, now: datetime) -> None:
    announce(attempt)
    append(attempt, 0, 1_000, now)
    (path,) = staged(attempt)
    path.write_bytes(DATA)
    offset = uploads.received_bytes(reload(attempt))
    assert offset == 1_023
    assert append(reload(attempt), offset, 1_024, now) == 1_024
    assert reload(attempt).delta_id == SHA256


def test_a_piece_that_comes_twice_at_once_is_stored_once(attempt: Attempt, now: datetime) -> None:
    announce(attempt)
    copy = reload(attempt)
    append(attempt, 0, 1_024, now)
    # The copy was read before the delta was stored; its file is a new one.
    with pytest.raises(uploads.OffsetMismatch) as mismatch:
        append(copy, 500, 1_024, now)
    assert mismatch.value.offset == 0
    assert reload(attempt).delta_id == SHA256


def test_bytes_that_another_announcement_discarded_begin_anew(
    attempt: Attempt, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    announce(attempt)
    copy = reload(attempt)

    def announce_others_first(path: Path) -> str:
        monkeypatch.undo()
        announce(copy, data=b"others")
        return hashlib.sha256(path.read_bytes()).hexdigest()

    monkeypatch.setattr(uploads, "sha256_file", announce_others_first)
    with pytest.raises(uploads.OffsetMismatch) as mismatch:
        append(attempt, 0, 1_024, now)
    assert mismatch.value.offset == 0
    assert staged(attempt) == []
    assert reload(attempt).delta is None


def test_a_full_disk_is_said_and_the_upload_goes_on_afterwards(attempt: Attempt, now: datetime) -> None:
    announce(attempt)
    append(attempt, 0, 100, now)
    (path,) = staged(attempt)
    path.unlink()
    path.symlink_to("/dev/full")
    with pytest.raises(uploads.DiskFull):
        uploads.append(attempt=attempt, offset=0, piece=DATA, now=now)
    path.unlink()
    assert append(attempt, 0, 1_024, now) == 1_024
    assert reload(attempt).delta_id == SHA256


# Sweeping


def age(path: Path, moment: datetime) -> None:
    os.utime(path, (moment.timestamp(), moment.timestamp()))


@pytest.mark.parametrize(
    ("state", "old", "is_swept"),
    [
        (State.LEASE_EXPIRED, True, True),
        (State.RELEASED, True, True),
        (State.LEASE_EXPIRED, False, False),
        (State.RUNNING, True, False),
    ],
)
def test_pieces_of_ended_attempts_are_swept_after_a_day(
    state: str, old: bool, is_swept: bool, attempt: Attempt, now: datetime
) -> None:
    announce(attempt)
    append(attempt, 0, 100, now)
    Attempt.objects.update(state=state)
    (path,) = staged(attempt)
    age(path, now - timedelta(days=1, seconds=1 if old else -1))
    assert uploads.sweep(now=now) == is_swept
    assert path.exists() is not is_swept


def test_the_lock_of_a_running_upload_is_left_to_it(attempt: Attempt, now: datetime) -> None:
    announce(attempt)
    append(attempt, 0, 100, now)
    (path,) = staged(attempt)
    for file in (path, path.with_suffix(".lock")):
        age(file, now - timedelta(days=2))
    assert uploads.sweep(now=now) == 0
    assert path.with_suffix(".lock").exists()


def test_pieces_of_unknown_attempts_are_swept(now: datetime) -> None:
    path = Path(settings.UPLOAD_DIR) / f"999-{SHA256}.part"
    path.parent.mkdir()
    path.write_bytes(b"x")
    age(path, now - timedelta(days=2))
    assert uploads.sweep(now=now) == 1


def put_delta(folder: Path, stored_at: datetime) -> Blob:
    path = folder / "delta"
    path.write_bytes(DATA)
    return blobs.put(path=path, kind=Blob.Kind.DELTA, now=stored_at)


@pytest.mark.parametrize("state", sorted(uploads.UNUSED_STATES))
def test_deltas_that_nothing_will_read_are_swept_after_a_day(
    state: str, tmp_path: Path, storage: Path, now: datetime
) -> None:
    ended_at = now - timedelta(days=1)
    blob = put_delta(tmp_path, ended_at)
    attempt = make_attempt_in(state, delta=blob, ended_at=ended_at)
    assert uploads.sweep(now=now - timedelta(seconds=1)) == 0
    assert uploads.sweep(now=now) == 1
    assert reload(attempt).delta is None
    assert not (storage / blob.path).exists()


@pytest.mark.parametrize(
    "state", sorted(set(State) - set(uploads.UNUSED_STATES) - {State.OFFERED, State.OFFER_EXPIRED})
)
def test_deltas_that_a_merge_or_a_verification_may_read_stay(
    state: str, tmp_path: Path, storage: Path, now: datetime
) -> None:
    long_ago = now - timedelta(days=365)
    blob = put_delta(tmp_path, long_ago)
    make_attempt_in(state, delta=blob, ended_at=long_ago)
    assert uploads.sweep(now=now) == 0
    assert (storage / blob.path).exists()


def test_a_delta_without_an_attempt_is_swept(tmp_path: Path, now: datetime) -> None:
    put_delta(tmp_path, now - timedelta(days=1))
    assert uploads.sweep(now=now) == 1
    assert not Blob.objects.exists()


def test_a_delta_that_two_attempts_hold_is_swept_with_the_last(tmp_path: Path, now: datetime) -> None:
    day_ago = now - timedelta(days=1)
    blob = put_delta(tmp_path, day_ago)
    make_attempt_in(State.RELEASED, delta=blob, ended_at=day_ago)
    make_attempt_in(State.MERGED, delta=blob, ended_at=day_ago)
    assert uploads.sweep(now=now) == 0
    assert Blob.objects.filter(pk=blob.pk).exists()


def test_files_of_ours_are_never_swept(now: datetime) -> None:
    for kind in set(Blob.Kind) - {Blob.Kind.DELTA}:
        make_blob(kind=kind, created_at=now - timedelta(days=365))
    assert uploads.sweep(now=now) == 0
    assert Blob.objects.count() == len(Blob.Kind) - 1
