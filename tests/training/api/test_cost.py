"""What one job costs the database, with the key's own query."""

import json
from typing import Any

import pytest
from rest_framework.test import APIClient

from contributors.models import Contributor
from ml import protocol
from tests.training.api.calls import BASE, DATA, State, beat, claim, make_mine, make_uploaded, put, submit, warm
from tests.training.make import make_closed_round, make_experiment, make_report, make_round
from training.models import Round

pytestmark = pytest.mark.django_db


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
