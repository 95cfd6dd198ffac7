"""A delta in pieces, over HTTP."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from rest_framework.test import APIClient

from contributors.models import Contributor
from tests import s3
from tests.training.api.calls import BASE, DATA, State, make_mine, problem, put, upload_offset

pytestmark = pytest.mark.django_db


def test_a_delta_is_uploaded_in_pieces_and_resumed(client: APIClient, contributor: Contributor) -> None:
    attempt = make_mine(contributor)
    assert put(client, attempt, DATA[:300]).json() == {"offset": 300, "receipt": None}
    assert upload_offset(client, attempt).headers["Upload-Offset"] == "300"
    assert put(client, attempt, DATA[300:1_000], offset=300).json()["offset"] == 1_000
    response = put(client, attempt, DATA[1_000:], offset=1_000)
    assert (response.status_code, response.json()) == (200, {"offset": 1_024, "receipt": None})
    attempt.refresh_from_db()
    assert attempt.delta_id == hashlib.sha256(DATA).hexdigest()
    assert upload_offset(client, attempt).headers["Upload-Offset"] == "1024"
    assert put(client, attempt, DATA[1_000:], offset=1_000).json()["offset"] == 1_024


def test_before_the_first_piece_the_offset_is_zero(client: APIClient, contributor: Contributor) -> None:
    response = upload_offset(client, make_mine(contributor))
    assert (response.status_code, response.headers["Upload-Offset"]) == (200, "0")


def test_a_piece_at_the_wrong_offset_is_told_the_right_one(client: APIClient, contributor: Contributor) -> None:
    attempt = make_mine(contributor)
    put(client, attempt, DATA[:300])
    response = put(client, attempt, DATA[400:], offset=400)
    assert problem(response) == (409, "offset_mismatch")
    assert response.data["offset"] == 300


def test_an_announcement_that_is_too_large_is_refused_before_the_body(
    client: APIClient, contributor: Contributor
) -> None:
    attempt = make_mine(contributor)
    most = attempt.job.round.experiment.max_delta_bytes
    response = put(client, attempt, DATA, HTTP_UPLOAD_LENGTH=str(most + 1))
    assert problem(response) == (413, "too_large")
    assert str(most) in response.data["detail"]
    assert response.wsgi_request._read_started is False
    assert not Path(settings.UPLOAD_DIR).exists()


def test_more_bytes_than_were_announced_are_refused(client: APIClient, contributor: Contributor) -> None:
    response = put(client, make_mine(contributor), DATA + b"x")
    assert problem(response) == (413, "too_large")


def test_other_bytes_than_were_announced_are_refused_and_begin_anew(
    client: APIClient, contributor: Contributor
) -> None:
    attempt = make_mine(contributor)
    assert problem(put(client, attempt, b"x" * 1_024)) == (422, "wrong_sha256")
    assert upload_offset(client, attempt).headers["Upload-Offset"] == "0"
    assert put(client, attempt).status_code == 200


def test_a_full_disk_is_said_with_a_code_and_tried_again(client: APIClient, contributor: Contributor) -> None:
    attempt = make_mine(contributor)
    staging = Path(settings.UPLOAD_DIR) / f"{attempt.pk}-{hashlib.sha256(DATA).hexdigest()}.part"
    put(client, attempt, DATA[:1])
    staging.unlink()
    staging.symlink_to("/dev/full")
    assert problem(put(client, attempt)) == (507, "disk_full")
    staging.unlink()
    assert put(client, attempt).status_code == 200


def test_a_delta_is_kept_while_the_store_is_away_and_stored_once_it_is_back(
    client: APIClient, contributor: Contributor, settings: Any
) -> None:
    attempt = make_mine(contributor)
    local = settings.STORAGES
    settings.STORAGES = s3.storages(settings)
    response = put(client, attempt)
    assert (problem(response), response.headers["Retry-After"]) == ((503, "storage_unavailable"), "5")
    settings.STORAGES = local
    assert upload_offset(client, attempt).headers["Upload-Offset"] == "1023"
    assert put(client, attempt, DATA[1_023:], offset=1_023).json()["offset"] == 1_024
    attempt.refresh_from_db()
    assert attempt.delta_id == hashlib.sha256(DATA).hexdigest()


@pytest.mark.parametrize(
    "content_type", ["application/octet-stream", "application/x-www-form-urlencoded", "text/plain"]
)
def test_a_piece_is_bytes_whatever_type_it_claims(
    content_type: str, client: APIClient, contributor: Contributor
) -> None:
    attempt = make_mine(contributor)
    assert put(client, attempt, CONTENT_TYPE=content_type).status_code == 200


def test_an_empty_piece_is_answered_with_where_to_go_on(client: APIClient, contributor: Contributor) -> None:
    attempt = make_mine(contributor)
    assert put(client, attempt, b"").json()["offset"] == 0


@pytest.mark.parametrize(
    "headers",
    [
        {"HTTP_UPLOAD_OFFSET": "-1"},
        {"HTTP_UPLOAD_OFFSET": "x"},
        {"HTTP_UPLOAD_OFFSET": "9" * 5_000},
        {"HTTP_UPLOAD_LENGTH": "0"},
        {"HTTP_UPLOAD_LENGTH": "1.5"},
        {"HTTP_UPLOAD_SHA256": "0" * 63},
        {"HTTP_UPLOAD_SHA256": "../" * 21 + "x"},
        {"HTTP_UPLOAD_SHA256": "A" * 64},
    ],
)
def test_an_announcement_of_no_shape_is_invalid(
    headers: dict[str, str], client: APIClient, contributor: Contributor
) -> None:
    assert problem(put(client, make_mine(contributor), **headers)) == (400, "invalid")


def test_an_announcement_is_needed(client: APIClient, contributor: Contributor) -> None:
    path = f"{BASE}/attempts/{make_mine(contributor).pk}/delta"
    assert problem(client.put(path, DATA, content_type="application/octet-stream")) == (400, "invalid")


@pytest.mark.parametrize(("state", "status"), [(State.OFFERED, 409), (State.SUBMITTED, 409), (State.CANCELLED, 410)])
def test_only_a_running_attempt_takes_a_delta(
    state: str, status: int, client: APIClient, contributor: Contributor
) -> None:
    assert problem(put(client, make_mine(contributor, state)))[0] == status
