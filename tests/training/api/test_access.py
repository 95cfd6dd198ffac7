"""Who may call the volunteers' API."""

import pytest
from rest_framework.test import APIClient

from contributors.models import Contributor, Scope
from tests.training.api.calls import BASE, CALLS, Call, State, beat, make_client, make_mine, problem
from tests.training.make import make_contributor

pytestmark = pytest.mark.django_db


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
