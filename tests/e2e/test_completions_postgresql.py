"""The completion service on PostgreSQL, whose pool has fewer connections than there are streams."""

import asyncio
import json
import os
import secrets
from collections import Counter
from collections.abc import Iterator
from urllib.parse import urlsplit

import openai
import psycopg
import pytest
from psycopg import sql

from tests.e2e.completion_service import MODEL, CompletionService

pytestmark = [pytest.mark.e2e, pytest.mark.postgresql]
NUM_STREAMS = 24
NUM_REQUESTS = 200
MAX_TOKENS = 8
PRICE = 3


@pytest.fixture
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CompletionService]:
    server_url = os.environ["FAI_DATABASE_URL"]
    name = f"completions_{secrets.token_hex(4)}"
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        database_url = urlsplit(server_url)._replace(path=f"/{name}").geturl()
        with CompletionService(tmp_path_factory.mktemp("completions"), database_url=database_url) as running:
            yield running
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


async def stream(client: openai.AsyncOpenAI, number: int) -> int:
    """Tokens that the usage names."""
    chunks = await client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "x" * number}],
        max_tokens=10 + number,
        stream=True,
        stream_options={"include_usage": True},
    )
    *_, last = [chunk async for chunk in chunks]
    assert last.usage is not None
    return last.usage.total_tokens


async def test_every_one_of_many_streams_is_billed_exactly(service: CompletionService) -> None:
    before = json.loads(service.evaluate("bills()"))["bills"]
    async with openai.AsyncOpenAI(base_url=service.base_url, api_key=service.keys["rich"], max_retries=0) as client:
        tokens = await asyncio.gather(*(stream(client, number) for number in range(NUM_STREAMS)))
    report = json.loads(service.evaluate("bills()"))
    bills = list((Counter(map(tuple, report["bills"])) - Counter(map(tuple, before))).elements())
    assert sorted(bill[3] for bill in bills) == sorted(PRICE * count for count in tokens)
    assert all(state == "done" and paid == PRICE * (asked + given) for state, asked, given, paid in bills)
    assert report["held"] == 0
    assert report["available"] == 1_000_000 - sum(bill[3] for bill in report["bills"])
    assert service.evaluate("violations()") == "[]"


async def ask(client: openai.AsyncOpenAI) -> int | openai.RateLimitError:
    """Credits that the request cost, or its refusal."""
    try:
        answer = await client.completions.create(model=MODEL, prompt="x", max_tokens=MAX_TOKENS, temperature=0)
    except openai.RateLimitError as error:
        return error
    assert answer.usage is not None
    assert answer.usage.completion_tokens == MAX_TOKENS
    return PRICE * answer.usage.total_tokens


async def test_requests_that_together_cost_twice_the_balance_never_overdraw_it(service: CompletionService) -> None:
    async with openai.AsyncOpenAI(base_url=service.base_url, api_key=service.keys["rich"], max_retries=0) as client:
        price = await ask(client)
    assert isinstance(price, int)
    balance = price * NUM_REQUESTS // 2
    secret = service.evaluate(f"give_key('burst', {balance})")
    # With its own retries: a refusal for good is asked for once all the same.
    async with openai.AsyncOpenAI(base_url=service.base_url, api_key=secret) as client:
        results = await asyncio.gather(*(ask(client) for _ in range(NUM_REQUESTS)))
    refusals = [result for result in results if isinstance(result, openai.RateLimitError)]
    for refusal in refusals:
        assert (refusal.status_code, refusal.code, refusal.type) == (429, "insufficient_quota", "insufficient_quota")
        assert refusal.response.headers["x-should-retry"] == "false"
    report = json.loads(service.evaluate("credits_of('burst')"))
    assert report == {"available": 0, "held": 0, "paid": [price] * (NUM_REQUESTS // 2)}
    assert results.count(price) == len(refusals) == NUM_REQUESTS // 2
    assert service.evaluate("violations()") == "[]"
