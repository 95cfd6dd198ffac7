"""Heartbeats over HTTP."""

from typing import Any

import pytest
from rest_framework.test import APIClient

from contributors.models import Contributor
from ml import protocol
from ml.protocol import Directives, Reason
from tests.training.api.calls import BASE, beat, make_mine, problem
from tests.training.make import make_device, make_experiment

pytestmark = pytest.mark.django_db


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
