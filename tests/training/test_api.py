"""The volunteers' API over HTTP: claims, heartbeats, uploads in pieces, submissions, and what the public may read."""

import hashlib
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.utils import timezone
from rest_framework.response import Response
from rest_framework.test import APIClient

from contributors.models import Contributor, Scope
from ml import protocol
from ml.protocol import PROTOCOL_VERSION, Directives, JobSpec, Reason, Receipt
from tests.training.conftest import Heard
from tests.training.make import (
    make_accepted_attempt,
    make_api_key,
    make_attempt_in,
    make_blob,
    make_checkpoint,
    make_closed_round,
    make_contributor,
    make_device,
    make_experiment,
    make_job,
    make_report,
    make_round,
)
from training.models import Attempt, Blob, Experiment, Round

pytestmark = pytest.mark.django_db

State = Attempt.State
DATA = bytes(range(256)) * 4
BASE = "/api/v1"
Call = Callable[[APIClient, Attempt], Response]


@pytest.fixture
def contributor() -> Contributor:
    return make_contributor()


@pytest.fixture
def client(contributor: Contributor) -> APIClient:
    """A device of the contributor."""
    return make_client(contributor, Scope.VOLUNTEER)


def make_client(contributor: Contributor, *scopes: Scope) -> APIClient:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {make_api_key(contributor=contributor, scopes=scopes)}")
    return client


def make_mine(contributor: Contributor, state: str = State.RUNNING, **fields: Any) -> Attempt:
    soon = timezone.now() + timedelta(minutes=1)
    ends = {} if state not in Attempt.LIVE_STATES else {"next_transition_at": soon}
    return make_attempt_in(state, device=make_device(contributor=contributor), **{**ends, **fields})


def post(client: APIClient, path: str, body: Any) -> Response:
    """The body as JSON, in ASCII: REST framework's own client cannot send half a surrogate pair."""
    return client.post(f"{BASE}/{path}", json.dumps(body), content_type="application/json")


def claim(client: APIClient, attempt: Attempt, **body: Any) -> Response:
    return post(client, f"attempts/{attempt.pk}/claim", {"nonce": attempt.nonce, **body})


def submit(client: APIClient, attempt: Attempt, **body: Any) -> Response:
    report = {**protocol.encode(make_report()), **body}
    return post(client, f"attempts/{attempt.pk}/submit", report)


def release(client: APIClient, attempt: Attempt, **body: Any) -> Response:
    return post(client, f"attempts/{attempt.pk}/release", body)


def look(client: APIClient, attempt: Attempt) -> Response:
    return client.get(f"{BASE}/attempts/{attempt.pk}")


def upload_offset(client: APIClient, attempt: Attempt) -> Response:
    return client.head(f"{BASE}/attempts/{attempt.pk}/delta")


def put(
    client: APIClient, attempt: Attempt, piece: bytes = DATA, *, offset: Any = 0, data: bytes = DATA, **headers: Any
) -> Response:
    """One piece of `data`."""
    announced = {
        "HTTP_UPLOAD_OFFSET": str(offset),
        "HTTP_UPLOAD_LENGTH": str(len(data)),
        "HTTP_UPLOAD_SHA256": hashlib.sha256(data).hexdigest(),
    }
    path = f"{BASE}/attempts/{attempt.pk}/delta"
    return client.put(path, piece, content_type="application/octet-stream", **{**announced, **headers})


def beat(client: APIClient, device_id: int, **fields: Any) -> Response:
    body = {
        "state": "idle",
        "experiment": None,
        "tokens_per_second": None,
        "attempt_id": None,
        "progress_tokens": None,
        "progress_loss": None,
        **fields,
    }
    return post(client, f"devices/{device_id}/heartbeat", body)


def heartbeat(client: APIClient, attempt: Attempt) -> Response:
    return beat(client, attempt.device_id)


CALLS = [claim, submit, release, look, upload_offset, put, heartbeat]


def problem(response: Response) -> tuple[int, str]:
    """Status and code of an answer that is a problem in RFC 9457's form."""
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.data["status"] == response.status_code
    assert response.data["detail"]
    return response.status_code, response.data["code"]


# Who may call


@pytest.mark.parametrize("call", CALLS)
def test_without_a_key_nothing_is_done(call: Call, contributor: Contributor) -> None:
    response = call(APIClient(), make_mine(contributor))
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize("call", CALLS)
def test_a_key_of_another_scope_is_refused(call: Call, contributor: Contributor) -> None:
    response = call(make_client(contributor, Scope.COMPLETION), make_mine(contributor))
    assert problem(response) == (403, "missing_scope")


@pytest.mark.parametrize("call", CALLS)
def test_anothers_attempt_and_device_are_not_there(call: Call, client: APIClient) -> None:
    attempt = make_mine(make_contributor(), State.OFFERED)
    assert problem(call(client, attempt)) == (404, "not_found")
    attempt.refresh_from_db()
    assert attempt.state == State.OFFERED


@pytest.mark.parametrize("number", [0, 10**9, 2**63, 10**30])
def test_an_attempt_or_device_of_no_number_is_not_there(number: int, client: APIClient) -> None:
    assert client.get(f"{BASE}/attempts/{number}").status_code == 404
    assert beat(client, number).status_code == 404


# Claims


def test_a_claim_answers_with_a_job_that_the_device_can_read(client: APIClient, contributor: Contributor) -> None:
    attempt = make_mine(contributor, State.OFFERED)
    response = claim(client, attempt)
    assert response.status_code == 200
    spec = protocol.decode(JobSpec, response.json())
    assert (spec.attempt_id, spec.token_budget) == (attempt.pk, attempt.token_budget)
    assert spec.heartbeat_seconds == settings.HEARTBEAT_SECONDS


def test_a_second_claim_loses(client: APIClient, contributor: Contributor) -> None:
    attempt = make_mine(contributor, State.OFFERED)
    claim(client, attempt)
    assert problem(claim(client, attempt)) == (409, "running")


@pytest.mark.parametrize(
    ("state", "reason"),
    [(State.CANCELLED, Reason.EXPERIMENT_FINISHED), (State.OFFER_EXPIRED, Reason.OFFER_EXPIRED)],
)
def test_a_claim_of_what_has_ended_is_gone(
    state: str, reason: Reason, client: APIClient, contributor: Contributor
) -> None:
    assert problem(claim(client, make_mine(contributor, state, reason=reason))) == (410, reason)


def test_a_claim_out_of_time_is_gone(client: APIClient, contributor: Contributor) -> None:
    attempt = make_mine(contributor, State.OFFERED, next_transition_at=timezone.now())
    assert problem(claim(client, attempt)) == (410, Reason.OFFER_EXPIRED)


@pytest.mark.parametrize("nonce", ["wrong", "é" * 32, "0" * 32])
def test_a_wrong_nonce_finds_nothing(nonce: str, client: APIClient, contributor: Contributor) -> None:
    assert problem(claim(client, make_mine(contributor, State.OFFERED), nonce=nonce)) == (404, "not_found")


@pytest.mark.parametrize("nonce", [None, "", "x" * 33, ["list"], "\0", "\ud800"])
def test_a_nonce_of_no_shape_is_invalid(nonce: Any, client: APIClient, contributor: Contributor) -> None:
    assert problem(claim(client, make_mine(contributor, State.OFFERED), nonce=nonce)) == (400, "invalid")


# Heartbeats


def test_a_heartbeat_is_answered_with_directives(client: APIClient, contributor: Contributor) -> None:
    device = make_device(contributor=contributor)
    response = beat(client, device.pk)
    assert response.status_code == 200
    assert protocol.decode(Directives, response.json()) == Directives(
        experiment=None,
        offer_pending=False,
        cancel_attempt=False,
        reason=Reason.NO_EXPERIMENT,
        available_credits=0,
        escrow_credits=0,
        pending_credits=0,
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"state": "asleep"},
        {"state": None},
        {"experiment": "x" * 51},
        {"experiment": "a\0b"},
        {"experiment": "\ud800"},
        {"experiment": "../etc"},
        {"tokens_per_second": -1},
        {"tokens_per_second": 1e10},
        {"tokens_per_second": 10**400},
        {"tokens_per_second": "fast"},
        {"attempt_id": 2**63},
        {"attempt_id": -1},
        {"attempt_id": True},
        {"progress_tokens": -1},
        {"progress_tokens": 2**63},
        {"progress_tokens": 1.5},
        {"progress_loss": "low"},
    ],
)
def test_a_heartbeat_of_no_sense_is_invalid(
    fields: dict[str, Any], client: APIClient, contributor: Contributor
) -> None:
    make_experiment()
    assert problem(beat(client, make_device(contributor=contributor).pk, **fields)) == (400, "invalid")


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN", "Infinity"])
@pytest.mark.parametrize("field", ["tokens_per_second", "progress_loss"])
def test_a_number_without_an_end_is_invalid(
    number: str, field: str, client: APIClient, contributor: Contributor
) -> None:
    body = {"state": "idle", "experiment": None, "attempt_id": None, "progress_tokens": None}
    numbers = {"tokens_per_second": "null", "progress_loss": "null", field: number}
    text = ", ".join([*(f'"{name}": {value}' for name, value in numbers.items()), '"state": "idle"'])
    rest = ", ".join(f'"{name}": null' for name in body if name != "state")
    path = f"{BASE}/devices/{make_device(contributor=contributor).pk}/heartbeat"
    response = client.post(path, f"{{{text}, {rest}}}", content_type="application/json")
    assert response.status_code == 400


@pytest.mark.parametrize("body", ["[]", "7", "null", '"text"', "{", "[" * 100_000, ""])
def test_a_body_that_is_no_object_is_refused(body: str, client: APIClient, contributor: Contributor) -> None:
    attempt = make_mine(contributor)
    paths = [f"devices/{attempt.device_id}/heartbeat", f"attempts/{attempt.pk}/submit", f"attempts/{attempt.pk}/claim"]
    for path in paths:
        response = client.post(f"{BASE}/{path}", body, content_type="application/json")
        assert response.status_code == 400, path


# Uploads


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


# Submissions


def make_uploaded(client: APIClient, contributor: Contributor) -> Attempt:
    attempt = make_mine(contributor)
    put(client, attempt)
    return attempt


def test_a_submission_is_accepted_and_its_validation_rung_for(
    client: APIClient, contributor: Contributor, heard: Heard
) -> None:
    attempt = make_uploaded(client, contributor)
    response = submit(client, attempt)
    assert response.status_code == 202
    assert protocol.decode(Receipt, response.json()).state == State.SUBMITTED
    assert heard("data") == [[attempt.pk]]


def test_submitting_twice_gives_the_same_answer(client: APIClient, contributor: Contributor) -> None:
    attempt = make_uploaded(client, contributor)
    first = submit(client, attempt)
    second = submit(client, attempt, tokens=1)
    assert (second.status_code, second.json()) == (202, first.json())


def test_the_last_piece_hands_the_report_in_too(client: APIClient, contributor: Contributor, heard: Heard) -> None:
    attempt = make_mine(contributor)
    report = json.dumps(protocol.encode(make_report()))
    assert put(client, attempt, DATA[:300], HTTP_UPLOAD_REPORT=report).json()["receipt"] is None
    assert heard("data") == []
    response = put(client, attempt, DATA[300:], offset=300, HTTP_UPLOAD_REPORT=report)
    assert protocol.decode(Receipt, response.json()["receipt"]).state == State.SUBMITTED
    assert heard("data") == [[attempt.pk]]
    attempt.refresh_from_db()
    assert attempt.report == protocol.encode(make_report())


def test_handing_in_again_gives_the_same_answer(client: APIClient, contributor: Contributor) -> None:
    attempt = make_mine(contributor)
    report = json.dumps(protocol.encode(make_report()))
    first = put(client, attempt, HTTP_UPLOAD_REPORT=report)
    second = put(client, attempt, HTTP_UPLOAD_REPORT=report)
    assert (second.status_code, second.json()) == (200, first.json())


@pytest.mark.parametrize("report", ["no JSON", "[" * 1_000, '"x"', '{"tokens": -1}', "{" + " " * 1_000 + "}"])
def test_a_report_that_cannot_be_read_is_refused_before_its_piece(
    report: str, client: APIClient, contributor: Contributor
) -> None:
    attempt = make_mine(contributor)
    assert put(client, attempt, HTTP_UPLOAD_REPORT=report).status_code == 400
    assert upload_offset(client, attempt).headers["Upload-Offset"] == "0"


def test_a_submission_without_its_delta_is_told_to_upload(client: APIClient, contributor: Contributor) -> None:
    assert problem(submit(client, make_mine(contributor))) == (409, "delta_missing")


def test_a_submission_of_what_was_cancelled_is_gone(client: APIClient, contributor: Contributor) -> None:
    attempt = make_mine(contributor, State.CANCELLED, reason=Reason.EXPERIMENT_FINISHED)
    assert problem(submit(client, attempt)) == (410, "experiment_finished")


def test_finished_work_is_taken_after_an_outage_that_outlasted_its_lease(
    client: APIClient, contributor: Contributor
) -> None:
    attempt = make_mine(contributor, State.LEASE_EXPIRED, reason=Reason.LEASE_EXPIRED)
    assert put(client, attempt).status_code == 200
    assert submit(client, attempt).json()["state"] == State.SUBMITTED


def test_expired_work_is_not_taken_beside_another_attempt(client: APIClient, contributor: Contributor) -> None:
    attempt = make_mine(contributor, State.LEASE_EXPIRED, reason=Reason.LEASE_EXPIRED)
    make_attempt_in(State.RUNNING, device=attempt.device)
    for call in (put, submit):
        assert problem(call(client, attempt)) == (410, "lease_expired")


@pytest.mark.parametrize(
    "fields",
    [
        {"tokens": -1},
        {"tokens": 2**63},
        {"tokens": "many"},
        {"tokens": None},
        {"seconds": -0.5},
        {"tokens_per_second": 1e12},
        {"first_loss": 10**400},
        {"partial": "yes"},
    ],
)
def test_a_report_of_no_sense_is_invalid(fields: dict[str, Any], client: APIClient, contributor: Contributor) -> None:
    attempt = make_uploaded(client, contributor)
    assert problem(submit(client, attempt, **fields)) == (400, "invalid")
    attempt.refresh_from_db()
    assert attempt.state == State.RUNNING


def test_the_owner_sees_where_an_attempt_stands(client: APIClient, contributor: Contributor) -> None:
    attempt = make_mine(contributor, State.REJECTED, reason=Reason.NOT_FINITE, detail="the delta has values …")
    receipt = protocol.decode(Receipt, look(client, attempt).json())
    assert (receipt.state, receipt.reason, receipt.detail) == ("rejected", "not_finite", "the delta has values …")


# Giving back


def test_an_attempt_is_given_back_with_what_was_uploaded(client: APIClient, contributor: Contributor) -> None:
    attempt = make_mine(contributor)
    put(client, attempt, DATA[:300])
    response = release(client, attempt)
    assert (response.status_code, response.json()["state"]) == (200, "released")
    assert list(Path(settings.UPLOAD_DIR).iterdir()) == []


def test_a_fault_is_told_from_a_wish(client: APIClient, contributor: Contributor) -> None:
    attempt = make_mine(contributor)
    response = release(client, attempt, reason="client_error", detail="CUDA out of memory")
    assert (response.json()["state"], response.json()["detail"]) == ("failed", "CUDA out of memory")


def test_releasing_twice_gives_the_same_answer(client: APIClient, contributor: Contributor) -> None:
    attempt = make_mine(contributor)
    assert release(client, attempt).json() == release(client, attempt, reason="client_error").json()


@pytest.mark.parametrize("body", [{"reason": "too_late"}, {"reason": 7}, {"detail": "x" * 301}, {"detail": "\0"}])
def test_a_release_of_no_shape_is_invalid(body: Any, client: APIClient, contributor: Contributor) -> None:
    assert problem(release(client, make_mine(contributor), **body)) == (400, "invalid")


def test_what_was_submitted_cannot_be_given_back(client: APIClient, contributor: Contributor) -> None:
    assert problem(release(client, make_mine(contributor, State.SUBMITTED))) == (409, "submitted")


# What anyone may read


def test_the_root_says_what_answers() -> None:
    data = APIClient().get(f"{BASE}/").json()
    assert (data["service"], data["protocol_version"]) == ("fai", PROTOCOL_VERSION)


def test_experiments_are_listed_newest_first_without_drafts() -> None:
    now = timezone.now()
    older = make_experiment(started_at=now - timedelta(days=1))
    newer = make_experiment(started_at=now, state=Experiment.State.FINISHED)
    make_experiment(state=Experiment.State.DRAFT)
    make_closed_round(experiment=older, number=1, validation_loss=6.0)
    make_round(experiment=older, number=2)
    listed = APIClient().get(f"{BASE}/experiments").json()
    assert [(one["slug"], one["state"], one["round_number"]) for one in listed] == [
        (newer.slug, "finished", 0),
        (older.slug, "running", 2),
    ]


def test_one_experiment_tells_what_a_device_needs_and_the_losses_so_far() -> None:
    experiment = make_experiment()
    make_closed_round(experiment=experiment, number=1, validation_loss=6.0)
    make_checkpoint(experiment=experiment, number=2, published_at=None)
    data = APIClient().get(f"{BASE}/experiments/{experiment.slug}").json()
    assert (data["model"], data["inner"]) == (experiment.model, experiment.inner)
    assert (data["codec"], data["num_rounds"], data["round_number"]) == ("int8", 8, 1)
    assert [(one["number"], one["validation_loss"]) for one in data["checkpoints"]] == [(0, 7.6), (1, 6.0)]


@pytest.mark.parametrize("path", ["", "/rounds", "/checkpoints/latest"])
def test_drafts_and_unknown_experiments_are_not_there(path: str) -> None:
    draft = make_experiment(state=Experiment.State.DRAFT)
    for slug in ("unknown", draft.slug):
        assert problem(APIClient().get(f"{BASE}/experiments/{slug}{path}")) == (404, "not_found")


def test_rounds_are_listed_newest_first_with_what_they_merged() -> None:
    experiment = make_experiment()
    closed = make_closed_round(experiment=experiment, number=1, validation_loss=6.0)
    for _ in range(2):
        make_accepted_attempt(job=make_job(round_=closed), state=State.MERGED, merged_into=closed)
    make_round(experiment=experiment, number=2)
    newest, first = APIClient().get(f"{BASE}/experiments/{experiment.slug}/rounds").json()
    assert (newest["number"], newest["state"], newest["validation_loss"]) == (2, "open", None)
    assert (first["num_deltas"], first["accepted_tokens"]) == (2, 200_000)
    assert (first["base_validation_loss"], first["validation_loss"]) == (7.6, 6.0)


def test_the_latest_checkpoint_is_the_newest_published() -> None:
    experiment = make_experiment(tokenizer=make_blob(kind=Blob.Kind.TOKENIZER))
    published = make_closed_round(experiment=experiment, number=1, validation_loss=6.0).result
    make_checkpoint(experiment=experiment, number=2, published_at=None)
    data = APIClient().get(f"{BASE}/experiments/{experiment.slug}/checkpoints/latest").json()
    assert published is not None
    assert (data["number"], data["sha256"]) == (1, published.blob_id)
    assert (data["size_bytes"], data["tokenizer_sha256"]) == (published.blob.size_bytes, experiment.tokenizer_id)


def test_an_experiment_without_a_checkpoint_says_so() -> None:
    experiment = make_experiment(state=Experiment.State.PREPARING)
    response = APIClient().get(f"{BASE}/experiments/{experiment.slug}/checkpoints/latest")
    assert problem(response) == (404, "not_found")


# Cost: what one job costs the database, with the key's own query


def test_a_claim_costs_four_queries(client: APIClient, contributor: Contributor, at_most: Any) -> None:
    attempt = make_mine(contributor, State.OFFERED)
    warm(client, attempt)
    with at_most(4):
        assert claim(client, attempt).status_code == 200


def test_a_heartbeat_at_work_costs_eight_queries(client: APIClient, contributor: Contributor, at_most: Any) -> None:
    attempt = make_mine(contributor)
    warm(client, attempt)
    with at_most(8):
        response = beat(client, attempt.device_id, state="training", attempt_id=attempt.pk)
    assert response.status_code == 200


def test_a_delta_in_one_piece_costs_six_queries(client: APIClient, contributor: Contributor, at_most: Any) -> None:
    attempt = make_mine(contributor)
    warm(client, attempt)
    with at_most(6):
        assert put(client, attempt).status_code == 200


def test_a_further_piece_costs_two_queries(client: APIClient, contributor: Contributor, at_most: Any) -> None:
    attempt = make_mine(contributor)
    put(client, attempt, DATA[:100])
    with at_most(2):
        assert put(client, attempt, DATA[100:200], offset=100).status_code == 200


def test_handing_in_with_one_piece_costs_seven_queries(
    client: APIClient, contributor: Contributor, at_most: Any
) -> None:
    attempt = make_mine(contributor)
    warm(client, attempt)
    with at_most(7):
        put(client, attempt, HTTP_UPLOAD_REPORT=json.dumps(protocol.encode(make_report())))
    attempt.refresh_from_db()
    assert attempt.state == State.SUBMITTED


def test_a_submission_costs_three_queries(client: APIClient, contributor: Contributor, at_most: Any) -> None:
    attempt = make_uploaded(client, contributor)
    with at_most(3):
        assert submit(client, attempt).status_code == 202


def test_lists_cost_the_same_however_long_they_are(at_most: Any) -> None:
    experiments = [make_experiment() for _ in range(3)]
    for experiment in experiments:
        make_closed_round(experiment=experiment, number=1, validation_loss=6.0)
        make_round(experiment=experiment, number=2)
    with at_most(1):
        assert len(APIClient().get(f"{BASE}/experiments").json()) == 3
    with at_most(2):
        assert len(APIClient().get(f"{BASE}/experiments/{experiments[0].slug}/rounds").json()) == 2
    assert Round.objects.count() == 6


@pytest.fixture
def at_most(django_assert_max_num_queries: Any) -> Any:
    return django_assert_max_num_queries


def warm(client: APIClient, attempt: Attempt) -> None:
    """Note the key's use, which is written once a minute."""
    look(client, attempt)
