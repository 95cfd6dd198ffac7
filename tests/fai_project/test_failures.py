"""A fault of ours is told in the caller's own language of errors."""

import json

import pytest
from django.test import Client, RequestFactory

from fai_project import failures


def test_a_fault_under_v1_has_openais_body() -> None:
    response = failures.server_error(RequestFactory().get("/v1/models"))
    assert response.status_code == 500
    assert json.loads(response.content)["error"].keys() == {"message", "type", "param", "code"}


def test_a_fault_of_the_volunteers_api_is_a_problem() -> None:
    response = failures.server_error(RequestFactory().get("/api/v1/me"))
    assert (response.status_code, response["Content-Type"]) == (500, "application/problem+json")
    assert json.loads(response.content)["code"] == "internal_error"


@pytest.mark.django_db
def test_an_unknown_address_is_a_problem_for_programs_and_a_page_for_people() -> None:
    assert Client().get("/api/v1/nothing").json()["code"] == "not_found"
    assert Client().get("/nothing/")["Content-Type"].startswith("text/html")
