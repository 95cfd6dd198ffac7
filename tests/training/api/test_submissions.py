"""Handing in, over HTTP."""

import json
from typing import Any

import pytest
from rest_framework.test import APIClient

from contributors.models import Contributor
from ml import protocol
from ml.protocol import Reason, Receipt
from tests.training.api.calls import DATA, State, look, make_mine, make_uploaded, problem, put, submit, upload_offset
from tests.training.conftest import Heard
from tests.training.make import make_attempt_in, make_report

pytestmark = pytest.mark.django_db


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
