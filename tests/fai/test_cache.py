import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from fai import client as client_module
from fai.cache import Cache, disk_errors
from fai.stop import Stop
from ml.protocol import BlobRef
from tests.fai.coordinator import Coordinator, Problem
from tests.fai.make import make_client


class Usage(NamedTuple):
    total: int
    used: int
    free: int


class Enough(Exception):
    """The caller wants no more."""


@pytest.fixture(autouse=True)
def short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "FIRST_DELAY_SECONDS", 0.01)


def make_blob(coordinator: Coordinator, content: bytes) -> BlobRef:
    return BlobRef(sha256=coordinator.put_blob(content), size_bytes=len(content))


def fetch(cache: Cache, coordinator: Coordinator, blob: BlobRef, on_bytes: Callable[[int], Any] = id) -> Path:
    with make_client(coordinator) as client:
        return cache.fetch(blob, client, on_bytes=lambda num_bytes: on_bytes(num_bytes) and None)


def stored(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.suffix != ".lock"}


def test_a_file_is_downloaded_once(coordinator: Coordinator, tmp_path: Path) -> None:
    cache = Cache(tmp_path, max_bytes=10**6)
    blob = make_blob(coordinator, b"weights" * 1000)
    assert fetch(cache, coordinator, blob).read_bytes() == b"weights" * 1000
    assert fetch(cache, coordinator, blob) == tmp_path / blob.sha256
    assert coordinator.num_requests("GET", "blobs/.*") == 1


def test_a_download_that_was_stopped_goes_on_from_there(coordinator: Coordinator, tmp_path: Path) -> None:
    cache = Cache(tmp_path, max_bytes=10**7)
    content = os.urandom(2**20)
    blob = make_blob(coordinator, content)

    def stop(num_bytes: int) -> None:
        raise Enough

    with pytest.raises(Enough):
        fetch(cache, coordinator, blob, stop)
    half_bytes = (tmp_path / f"{blob.sha256}.partial").stat().st_size
    assert 0 < half_bytes < len(content)

    seen: list[int] = []
    assert fetch(cache, coordinator, blob, seen.append).read_bytes() == content
    assert seen[0] > half_bytes
    assert stored(tmp_path) == {blob.sha256}


def test_a_download_survives_a_coordinator_that_fails(coordinator: Coordinator, tmp_path: Path) -> None:
    failures = [Problem(503, "busy"), Problem(502, "bad_gateway")]

    def hook(method: str, path: str) -> None:
        if failures:
            raise failures.pop()

    coordinator.hook = hook
    blob = make_blob(coordinator, b"x" * 1000)
    assert fetch(Cache(tmp_path, max_bytes=10**6), coordinator, blob).read_bytes() == b"x" * 1000


def test_a_file_cut_short_is_completed(coordinator: Coordinator, tmp_path: Path) -> None:
    content = b"y" * 5000
    blob = make_blob(coordinator, content)
    coordinator.blobs[blob.sha256] = content[:2000]

    def hook(method: str, path: str) -> None:
        if coordinator.num_requests("GET", "blobs/.*") == 2:
            coordinator.blobs[blob.sha256] = content

    coordinator.hook = hook
    assert fetch(Cache(tmp_path, max_bytes=10**6), coordinator, blob).read_bytes() == content


def test_a_file_with_another_sha256_is_never_handed_out(coordinator: Coordinator, tmp_path: Path) -> None:
    blob = make_blob(coordinator, b"good")
    coordinator.blobs[blob.sha256] = b"evil"
    with pytest.raises(Stop, match=blob.sha256):
        fetch(Cache(tmp_path, max_bytes=10**6), coordinator, blob)
    assert stored(tmp_path) == set()


def test_a_file_that_never_ends_is_not_received_beyond_its_size(coordinator: Coordinator, tmp_path: Path) -> None:
    blob = make_blob(coordinator, b"small")
    coordinator.blobs[blob.sha256] = b"z" * 2**23
    seen: list[int] = []
    with pytest.raises(Stop, match=blob.sha256):
        fetch(Cache(tmp_path, max_bytes=10**6), coordinator, blob, seen.append)
    assert seen == []


def test_the_least_recently_used_files_make_room(coordinator: Coordinator, tmp_path: Path) -> None:
    cache = Cache(tmp_path, max_bytes=2_500)
    first, second, third = (make_blob(coordinator, letter * 1_000) for letter in (b"a", b"b", b"c"))
    fetch(cache, coordinator, first)
    os.utime(tmp_path / first.sha256, ns=(1, 1))
    fetch(cache, coordinator, second)
    os.utime(tmp_path / second.sha256, ns=(2, 2))
    fetch(cache, coordinator, first)
    fetch(cache, coordinator, third)
    assert stored(tmp_path) == {first.sha256, third.sha256}


def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    coordinator: Coordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9, 0))
    with pytest.raises(Stop, match=r"disk is full: .* needs 68 MB more"):
        fetch(Cache(tmp_path, max_bytes=10**6), coordinator, make_blob(coordinator, b"x" * 1000))
    assert stored(tmp_path) == set()


@pytest.mark.parametrize(
    ("number", "words"), [(errno.ENOSPC, "disk is full"), (errno.EROFS, "FAI_CACHE_DIR"), (errno.EACCES, "cannot be")]
)
def test_a_disk_that_takes_nothing_is_one_sentence(tmp_path: Path, number: int, words: str) -> None:
    with pytest.raises(Stop, match=words), disk_errors(tmp_path):
        raise OSError(number, os.strerror(number))


def test_another_error_of_the_system_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="too many"), disk_errors(tmp_path):
        raise OSError(errno.EMFILE, "too many open files")
