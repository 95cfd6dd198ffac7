"""Downloads: whole or in ranges, resumable, cached for ever, and never a delta that is not merged."""

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.http import HttpResponse, StreamingHttpResponse
from django.test import AsyncClient

from tests.training.make import make_attempt_in, make_stored
from training import blob_api, blobs
from training.models import Attempt, Blob

pytestmark = pytest.mark.django_db(transaction=True)

DATA = bytes(range(256)) * 16
UNKNOWN = "0" * 64


@pytest.fixture
def blob(tmp_path: Path) -> Blob:
    return make_file(tmp_path, Blob.Kind.CHECKPOINT)


def make_file(folder: Path, kind: Blob.Kind, content: bytes = DATA) -> Blob:
    path = folder / "file"
    path.write_bytes(content)
    return make_stored(path, kind=kind)


async def ask(sha256: str, *, method: str = "GET", **headers: str) -> tuple[HttpResponse, bytes]:
    """The answer and its body."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    response = await AsyncClient().generic(method, f"/api/v1/blobs/{sha256}", headers=named)
    if isinstance(response, StreamingHttpResponse):
        return response, b"".join([part async for part in response])
    return response, response.content


async def test_a_file_comes_whole_and_may_be_kept_for_ever(blob: Blob) -> None:
    response, body = await ask(blob.sha256)
    assert (response.status_code, body) == (200, DATA)
    assert response.headers["ETag"] == f'"{blob.sha256}"'
    assert response.headers["Content-Length"] == str(len(DATA))
    assert response.headers["Accept-Ranges"] == "bytes"
    assert "immutable" in response.headers["Cache-Control"]
    assert "Content-Range" not in response.headers


async def test_a_file_larger_than_a_chunk_comes_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blob_api, "CHUNK_BYTES", 1_000)
    blob = await sync_to_async(make_file)(tmp_path, Blob.Kind.SHARD)
    assert (await ask(blob.sha256))[1] == DATA
    assert (await ask(blob.sha256, Range="bytes=999-2001"))[1] == DATA[999:2_002]


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=100-199", 100, 199),
        ("bytes=4000-", 4_000, 4_095),
        ("bytes=0-", 0, 4_095),
        ("bytes=4000-99999", 4_000, 4_095),
        ("bytes=-96", 4_000, 4_095),
        ("bytes=-99999", 0, 4_095),
    ],
)
async def test_a_range_comes_alone(asked: str, first: int, last: int, blob: Blob) -> None:
    response, body = await ask(blob.sha256, Range=asked)
    assert (response.status_code, body) == (206, DATA[first : last + 1])
    assert response.headers["Content-Range"] == f"bytes {first}-{last}/4096"
    assert response.headers["Content-Length"] == str(last - first + 1)


@pytest.mark.parametrize("asked", ["bytes=4096-", "bytes=4096-5000", "bytes=-0", f"bytes={10**17}-"])
async def test_a_range_beyond_the_file_cannot_be_met(asked: str, blob: Blob) -> None:
    response, body = await ask(blob.sha256, Range=asked)
    assert (response.status_code, body) == (416, b"")
    assert response.headers["Content-Range"] == "bytes */4096"


@pytest.mark.parametrize(
    "asked",
    ["bytes=5-2", "bytes=-", "bytes=a-b", "bytes=0-1,3-4", "lines=1-2", "bytes=" + "9" * 5_000 + "-"],
)
async def test_a_range_that_cannot_be_read_is_ignored(asked: str, blob: Blob) -> None:
    response, body = await ask(blob.sha256, Range=asked)
    assert (response.status_code, body) == (200, DATA)


@pytest.mark.parametrize(
    ("condition", "status"),
    [("mine", 206), ('"another"', 200), ("Fri, 01 May 2026 12:00:00 GMT", 200)],
)
async def test_a_range_of_another_version_is_ignored(condition: str, status: int, blob: Blob) -> None:
    tag = f'"{blob.sha256}"' if condition == "mine" else condition
    response, _ = await ask(blob.sha256, Range="bytes=0-9", If_Range=tag)
    assert response.status_code == status


@pytest.mark.parametrize("form", ['"{}"', 'W/"{}"', '"other", "{}"', "*"])
async def test_who_has_the_file_is_told_so(form: str, blob: Blob) -> None:
    response, body = await ask(blob.sha256, If_None_Match=form.format(blob.sha256))
    assert (response.status_code, body) == (304, b"")
    assert response.headers["ETag"] == f'"{blob.sha256}"'


async def test_who_has_another_file_gets_this_one(blob: Blob) -> None:
    assert (await ask(blob.sha256, If_None_Match=f'"{UNKNOWN}"'))[0].status_code == 200


async def test_the_head_says_what_the_whole_would(blob: Blob) -> None:
    response, body = await ask(blob.sha256, method="HEAD")
    assert (response.status_code, body) == (200, b"")
    assert response.headers["Content-Length"] == "4096"
    response, body = await ask(blob.sha256, method="HEAD", Range="bytes=0-9")
    assert (response.status_code, response.headers["Content-Length"], body) == (206, "10", b"")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
async def test_files_are_only_read(method: str, blob: Blob) -> None:
    assert (await ask(blob.sha256, method=method))[0].status_code == 405


@pytest.mark.parametrize("sha256", [UNKNOWN, "x", "..%2f..%2fetc%2fpasswd", "%00" * 64, "A" * 64, "0" * 65])
async def test_what_is_no_file_of_ours_is_not_there(sha256: str, blob: Blob) -> None:
    assert (await ask(sha256))[0].status_code == 404


async def test_a_file_that_is_missing_from_storage_is_not_there(blob: Blob, storage: Path) -> None:
    (storage / blob.path).unlink()
    assert (await ask(blob.sha256))[0].status_code == 404


@pytest.mark.parametrize("state", sorted(set(Attempt.State) - {Attempt.State.OFFERED}))
def test_a_delta_is_public_once_it_is_merged(state: str, tmp_path: Path) -> None:
    blob = make_file(tmp_path, Blob.Kind.DELTA)
    make_attempt_in(state, delta=blob)
    response, _ = async_to_sync(ask)(blob.sha256)
    assert response.status_code == (200 if state == Attempt.State.MERGED else 404)


def test_an_object_store_serves_the_file_itself(tmp_path: Path, settings: Any, now: datetime) -> None:
    memory = {"BACKEND": "django.core.files.storage.InMemoryStorage", "OPTIONS": {"base_url": "https://store.test/"}}
    settings.STORAGES = {**settings.STORAGES, "default": memory}
    path = tmp_path / "file"
    path.write_bytes(DATA)
    blob = blobs.put(path=path, kind=Blob.Kind.SHARD, now=now)
    response, _ = async_to_sync(ask)(blob.sha256)
    assert (response.status_code, response.headers["Location"]) == (302, f"https://store.test/{blob.path}")
