"""A contributor, the client of a device of theirs, and a bound on queries."""

from typing import Any

import pytest
from rest_framework.test import APIClient

from contributors.models import Contributor, Scope
from tests.training.api.calls import make_client
from tests.training.make import make_contributor


@pytest.fixture
def contributor() -> Contributor:
    return make_contributor()


@pytest.fixture
def client(contributor: Contributor) -> APIClient:
    """A device of the contributor."""
    return make_client(contributor, Scope.VOLUNTEER)


@pytest.fixture
def at_most(django_assert_max_num_queries: Any) -> Any:
    return django_assert_max_num_queries
