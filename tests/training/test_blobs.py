"""Stored files: named by their content, moved into place whole, removed only when nothing refers to them."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.files.storage import default_storage
from django.core.files.storage.memory import InMemoryStorage

from ml.files import sha256_file
from tests import s3
from tests.training.make import make_attempt_in
from training import blobs
from training.models import Attempt, Blob

pytestmark = pytest.mark.django_db

Kind = Blob.Kind


def put(folder: Path, now: datetime, *, content: bytes = b"weights", kind: Blob.Kind = Kind.DELTA) -> Blob:
    path = folder / "file"
    path.write_bytes(content)
    return blobs.put(path=path, kind=kind, now=now)


@pytest.fixture
def remote(settings: Any) -> None:
    """A storage that has no paths, as an object store."""
    settings.STORAGES = {**settings.STORAGES, "default": {"BACKEND": f"{__name__}.RemoteStorage"}}


class RemoteStorage(InMemoryStorage):
    """Keeps files away from the file system, so that they have to be fetched."""


def test_a_file_is_stored_under_its_hash(tmp_path: Path, storage: Path, now: datetime) -> None:
    blob = put(tmp_path, now)
    stored = storage / blob.path
    assert sha256_file(stored) == blob.sha256
    assert (blob.size_bytes, blob.kind) == (7, Kind.DELTA)
    assert Blob.objects.get().path == f"blobs/{blob.sha256[:2]}/{blob.sha256}"


def test_local_storage_takes_the_file_away_instead_of_copying_it(tmp_path: Path, now: datetime) -> None:
    put(tmp_path, now)
    assert not (tmp_path / "file").exists()


def test_the_same_content_is_stored_once(tmp_path: Path, storage: Path, now: datetime) -> None:
    first = put(tmp_path, now)
    second = put(tmp_path, now + timedelta(hours=1))
    assert first == second
    assert Blob.objects.get().created_at == now + timedelta(hours=1)
    assert len([path for path in storage.rglob("*") if path.is_file()]) == 1


def test_a_row_without_its_file_gets_it_back(tmp_path: Path, storage: Path, now: datetime) -> None:
    blob = put(tmp_path, now)
    (storage / blob.path).unlink()
    put(tmp_path, now)
    assert (storage / blob.path).read_bytes() == b"weights"


@pytest.mark.parametrize(
    ("first", "second", "kind"),
    [(Kind.DELTA, Kind.CHECKPOINT, Kind.CHECKPOINT), (Kind.CHECKPOINT, Kind.DELTA, Kind.CHECKPOINT)],
)
def test_what_a_device_sent_never_makes_a_file_of_ours_a_delta(
    first: Blob.Kind, second: Blob.Kind, kind: Blob.Kind, tmp_path: Path, now: datetime
) -> None:
    put(tmp_path, now, kind=first)
    put(tmp_path, now, kind=second)
    assert Blob.objects.get().kind == kind


def test_the_number_of_queries_is_one(tmp_path: Path, now: datetime, django_assert_num_queries: Any) -> None:
    with django_assert_num_queries(1):
        put(tmp_path, now)


# Reading


def test_local_storage_is_read_in_place(tmp_path: Path, storage: Path, now: datetime) -> None:
    blob = put(tmp_path, now)
    with blobs.local_path(blob) as path:
        assert path == storage / blob.path


@pytest.mark.usefixtures("remote")
def test_remote_storage_is_read_through_a_copy_that_goes_away(tmp_path: Path, now: datetime) -> None:
    blob = put(tmp_path, now)
    with blobs.local_path(blob) as path:
        assert path.read_bytes() == b"weights"
    assert not path.exists()


@pytest.mark.usefixtures("remote")
def test_a_copy_with_other_bytes_is_refused(tmp_path: Path, now: datetime) -> None:
    blob = put(tmp_path, now)
    with default_storage.open(blob.path, "wb") as file:
        file.write(b"tampered")
    with pytest.raises(blobs.BlobCorrupt), blobs.local_path(blob):
        pytest.fail("the copy was handed out")


def test_a_file_in_place_with_other_bytes_is_refused_where_it_is_to_be_verified(
    tmp_path: Path, storage: Path, now: datetime
) -> None:
    blob = put(tmp_path, now)
    with blobs.verified_path(blob) as path:
        assert path == storage / blob.path
    path.write_bytes(b"tampered")
    with pytest.raises(blobs.BlobCorrupt), blobs.verified_path(blob):
        pytest.fail("the file was handed out")


# A store that is away, or refuses


@pytest.fixture(params=[lambda: nullcontext(s3.NOWHERE), s3.refusing_store], ids=["away", "refusing"])
def broken_store(request: pytest.FixtureRequest) -> Iterator[str]:
    with request.param() as url:
        yield url


def read(blob: Blob) -> None:
    with blobs.local_path(blob):
        pytest.fail("there was nothing to read")


@pytest.mark.parametrize("ask", [blobs.is_stored, blobs.is_intact, blobs.discard, read])
def test_a_store_that_is_away_is_told_from_a_file_that_is_lost(
    ask: Callable[[Blob], object], broken_store: str, tmp_path: Path, now: datetime, settings: Any
) -> None:
    blob = put(tmp_path, now)
    settings.STORAGES = s3.storages(settings, endpoint_url=broken_store)
    with pytest.raises(blobs.BlobUnavailable):
        ask(blob)
    assert Blob.objects.get() == blob


def test_a_file_that_cannot_be_stored_stays_where_it_is(
    broken_store: str, tmp_path: Path, now: datetime, settings: Any
) -> None:
    settings.STORAGES = s3.storages(settings, endpoint_url=broken_store)
    with pytest.raises(blobs.BlobUnavailable):
        put(tmp_path, now)
    assert (tmp_path / "file").read_bytes() == b"weights"


def test_a_store_that_breaks_off_in_the_midst_of_a_file_is_no_lost_file(
    tmp_path: Path, now: datetime, settings: Any
) -> None:
    blob = put(tmp_path, now)
    with s3.store_that_breaks_off() as url:
        settings.STORAGES = s3.storages(settings, endpoint_url=url)
        with pytest.raises(blobs.BlobUnavailable):
            read(blob)


# Discarding


def test_a_delta_that_nothing_refers_to_is_removed(tmp_path: Path, storage: Path, now: datetime) -> None:
    blob = put(tmp_path, now)
    assert blobs.discard(blob)
    assert not (storage / blob.path).exists()
    assert not Blob.objects.exists()


def test_a_delta_that_an_attempt_refers_to_is_kept(tmp_path: Path, storage: Path, now: datetime) -> None:
    blob = put(tmp_path, now)
    make_attempt_in(Attempt.State.ACCEPTED, delta=blob)
    assert not blobs.discard(blob)
    assert (storage / blob.path).exists()


def test_only_deltas_are_discarded(tmp_path: Path, storage: Path, now: datetime) -> None:
    blob = put(tmp_path, now, kind=Kind.CHECKPOINT)
    assert not blobs.discard(blob)
    assert (storage / blob.path).exists()


def test_a_delta_that_was_put_again_meanwhile_is_kept(tmp_path: Path, storage: Path, now: datetime) -> None:
    blob = put(tmp_path, now)
    put(tmp_path, now + timedelta(microseconds=1))
    assert not blobs.discard(blob)
    assert (storage / blob.path).exists()


def test_discarding_twice_is_discarding_once(tmp_path: Path, now: datetime) -> None:
    blob = put(tmp_path, now)
    assert [blobs.discard(blob), blobs.discard(blob)] == [True, False]


def test_a_scratch_folder_goes_away_with_what_is_in_it() -> None:
    with blobs.scratch_dir() as folder:
        (folder / "file").write_bytes(b"x")
    assert not folder.exists()
