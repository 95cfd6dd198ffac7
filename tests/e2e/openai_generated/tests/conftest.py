"""Clients for the generated tests; adapted from the package's own tests/conftest.py."""

import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from openai import AsyncOpenAI, DefaultAioHttpClient, OpenAI

API_KEY = "My API Key"
BASE_URL = os.environ["TEST_API_BASE_URL"]


@pytest.fixture(scope="session")
def client(request: pytest.FixtureRequest) -> Iterator[OpenAI]:
    with OpenAI(base_url=BASE_URL, api_key=API_KEY, _strict_response_validation=request.param) as client:
        yield client


@pytest.fixture(scope="session")
async def async_client(request: pytest.FixtureRequest) -> AsyncIterator[AsyncOpenAI]:
    given: Any = request.param if isinstance(request.param, dict) else {"strict": request.param}
    http_client = DefaultAioHttpClient() if given.get("http_client") == "aiohttp" else None
    strict = given.get("strict", True)
    async with AsyncOpenAI(
        base_url=BASE_URL, api_key=API_KEY, _strict_response_validation=strict, http_client=http_client
    ) as client:
        yield client
