"""Giving an attempt back, over HTTP."""

from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from rest_framework.test import APIClient

from contributors.models import Contributor
from tests.training.api.calls import DATA, State, make_mine, problem, put, release

pytestmark = pytest.mark.django_db


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
