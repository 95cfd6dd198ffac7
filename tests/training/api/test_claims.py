"""Taking an offer, over HTTP."""

from typing import Any

import pytest
from django.conf import settings
from django.utils import timezone
from rest_framework.test import APIClient

from contributors.models import Contributor
from ml import protocol
from ml.protocol import JobSpec, Reason
from tests.training.api.calls import State, claim, make_mine, problem

pytestmark = pytest.mark.django_db


def test_a_claim_answers_with_a_job_that_the_device_can_read(client: APIClient, contributor: Contributor) -> None:
    attempt = make_mine(contributor, State.OFFERED)
    response = claim(client, attempt)
    assert response.status_code == 200
    spec = protocol.decode(JobSpec, response.json())
    assert (spec.attempt_id, spec.token_budget) == (attempt.pk, attempt.token_budget)
    assert (spec.steps, spec.train_seconds) == ((), 900)
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
