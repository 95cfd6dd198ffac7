"""What /v1 answers while an engine answers: headers, limits, kept answers, and what the bill and the key say of it."""

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import ThreadSensitiveContext
from django.db import OperationalError
from redis import Redis

from contributors import ledger
from contributors.models import ApiKey, Scope
from fai_project.redis_server import RedisServer
from inference.billing import bills, charges, idempotency
from inference.completions import patience
from inference.models import Completion, IdempotentRequest
from inference.openai.shapes import TextShape
from tests.contributors.make import make_key
from tests.inference.engines import AnsweringEngine
from tests.inference.test_api import ASKED, Api
from tests.training.make import NOW

pytestmark = pytest.mark.django_db(transaction=True)
PRICE = 2
MAX_TOKENS = 4


class Service(Api):
    """Api, and an engine."""

    def __init__(self, folder: Path, redis: Redis) -> None:
        super().__init__(folder, redis)
        self.engine = AnsweringEngine(redis, self.checkpoint)

    async def complete(self, **headers: str) -> Any:
        return await self.send({**ASKED, "max_tokens": MAX_TOKENS}, **headers)

    async def stream(self, **headers: str) -> tuple[Any, bytes]:
        """The response, and its body."""
        response = await self.send({**ASKED, "max_tokens": MAX_TOKENS, "stream": True}, **headers)
        if not response.streaming:
            return response, response.content
        return response, b"".join([event async for event in response])

    async def balance(self) -> ledger.Balance:
        assert await asyncio.to_thread(ledger.violations, now=NOW) == []
        return await asyncio.to_thread(ledger.balance, self.contributor)

    async def limit(self, **limits: Any) -> None:
        await ApiKey.objects.aupdate(**limits)


@pytest.fixture
def service(storage: Path, tmp_path: Path, redis_settings: RedisServer) -> Iterator[Service]:
    with Redis.from_url(redis_settings.url) as redis:
        for pattern in ("fai:engine:*", "fai:limit:*"):
            for key in redis.scan_iter(pattern):
                redis.delete(key)
        made = Service(tmp_path, redis)
        with made.engine:
            yield made


async def test_what_was_set_aside_and_not_used_comes_back_with_the_bill(service: Service) -> None:
    await service.limit(requests_per_minute=10, tokens_per_minute=1_000)
    response = await service.complete()
    used = response.json()["usage"]["total_tokens"]
    assert response.status_code == 200
    assert response.headers["x-ratelimit-limit-requests"] == "10"
    assert response.headers["x-ratelimit-remaining-requests"] == "9"
    assert response.headers["x-ratelimit-limit-tokens"] == "1000"
    assert int(response.headers["x-ratelimit-remaining-tokens"]) == 1_000 - used
    assert await service.balance() == ledger.Balance(available=1_000 - PRICE * used, held=0, escrow=0)


async def test_too_many_requests_are_refused_with_the_headers_and_cost_nothing(service: Service) -> None:
    await service.limit(requests_per_minute=1)
    await service.complete()
    before = await service.balance()
    refused = await service.complete()
    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["type"]) == (429, "rate_limit_exceeded", "requests")
    assert 0 < int(refused.headers["Retry-After"]) <= 60
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert await service.balance() == before


async def test_a_refused_hold_gives_the_tokens_back(service: Service) -> None:
    await service.limit(tokens_per_minute=5_000, credit_cap=1)
    refused = await service.complete()
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (429, "insufficient_quota")
    assert refused.headers["x-should-retry"] == "false"
    assert refused.headers["x-ratelimit-remaining-tokens"] == "5000"
    assert await Completion.objects.acount() == 0


async def test_the_same_request_with_the_same_key_is_answered_and_billed_once(service: Service) -> None:
    first = await service.complete(**{"Idempotency-Key": "one"})
    left = await service.balance()
    again = await service.complete(**{"Idempotency-Key": "one"})
    assert again.status_code == 200
    assert again.headers["idempotency-replayed"] == "true"
    assert (again.content, again.headers["Content-Type"]) == (first.content, first.headers["Content-Type"])
    assert await service.balance() == left
    assert len(service.engine.requests) == 1


async def test_a_stream_is_answered_again_with_the_same_events(service: Service) -> None:
    first, events = await service.stream(**{"Idempotency-Key": "one"})
    assert first.streaming
    assert events.endswith(b"data: [DONE]\n\n")
    again, kept = await service.stream(**{"Idempotency-Key": "one"})
    assert kept == events
    assert again.headers["Content-Type"] == first.headers["Content-Type"]
    assert await Completion.objects.acount() == 1


async def test_without_the_header_nothing_is_kept(service: Service) -> None:
    await service.complete()
    await service.stream()
    assert await IdempotentRequest.objects.acount() == 0


async def test_the_key_of_another_request_is_refused_by_name(service: Service) -> None:
    await service.complete(**{"Idempotency-Key": "one"})
    status, body = await service.post({**ASKED, "max_tokens": 1}, **{"Idempotency-Key": "one"})
    assert (status, body["error"]["code"], body["error"]["param"]) == (422, "idempotency_key_reused", "Idempotency-Key")
    status, body = await service.post(ASKED, **{"Idempotency-Key": "x" * 256})
    assert (status, body["error"]["code"]) == (400, "invalid_idempotency_key")


async def test_an_answer_that_is_too_large_is_paid_once_and_not_kept(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "MAX_KEPT_BYTES", 100)
    assert (await service.complete(**{"Idempotency-Key": "whole"})).status_code == 200
    assert (await service.stream(**{"Idempotency-Key": "stream"}))[1].endswith(b"data: [DONE]\n\n")
    left = await service.balance()
    assert [row.body async for row in IdempotentRequest.objects.all()] == [b"", b""]
    for refused in (
        await service.complete(**{"Idempotency-Key": "whole"}),
        (await service.stream(**{"Idempotency-Key": "stream"}))[0],
    ):
        assert (refused.status_code, refused.json()["error"]["code"]) == (422, "idempotency_answer_too_large")
    assert await service.balance() == left
    assert await Completion.objects.acount() == 2


async def test_while_the_first_runs_the_second_is_told_to_come_back(service: Service) -> None:
    service.engine.is_held.set()
    first = asyncio.create_task(_in_a_thread_of_its_own(service.complete(**{"Idempotency-Key": "one"})))
    await asyncio.to_thread(service.engine.has_begun.wait, 20)
    second = await service.complete(**{"Idempotency-Key": "one"})
    assert (second.status_code, second.json()["error"]["code"]) == (409, "idempotency_key_in_use")
    assert second.headers["x-should-retry"] == "true"
    service.engine.is_held.clear()
    assert (await first).status_code == 200
    assert (await service.complete(**{"Idempotency-Key": "one"})).content == (await first).content


async def test_what_ended_before_anything_was_billed_may_be_tried_again(service: Service) -> None:
    await service.limit(credit_cap=1)
    assert (await service.complete(**{"Idempotency-Key": "one"})).status_code == 429
    await service.limit(credit_cap=None)
    assert (await service.complete(**{"Idempotency-Key": "one"})).status_code == 200


async def test_a_stream_whose_client_left_is_answered_as_far_as_it_was_paid(service: Service) -> None:
    response = await service.send({**ASKED, "max_tokens": MAX_TOKENS, "stream": True}, **{"Idempotency-Key": "one"})
    events = response.__aiter__()
    sent = await anext(events)
    with pytest.raises(StopAsyncIteration):
        await asyncio.wait_for(_leave_after(events, 2), 20)
    completion = await Completion.objects.aget()
    assert completion.state == Completion.State.DISCONNECTED or completion.completion_tokens == MAX_TOKENS
    _, kept = await service.stream(**{"Idempotency-Key": "one"})
    assert kept.startswith(sent)


async def test_a_client_that_reads_too_slowly_pays_for_what_it_took(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "TOTAL_SECONDS", 0.15)
    response = await service.send({**ASKED, "max_tokens": MAX_TOKENS, "n": 5, "stream": True})

    async def take() -> None:
        async for _ in response:
            await asyncio.sleep(0.1)

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(take())
    completion = await Completion.objects.aget()
    assert completion.state == Completion.State.DISCONNECTED
    assert completion.completion_tokens in {MAX_TOKENS, 2 * MAX_TOKENS}
    paid = PRICE * (completion.prompt_tokens + completion.completion_tokens)
    assert await service.balance() == ledger.Balance(available=1_000 - paid, held=0, escrow=0)


@pytest.mark.parametrize(
    ("headers", "state", "paid"),
    [({}, "disconnected", 0), ({"Idempotency-Key": "one"}, "done", PRICE * (1 + MAX_TOKENS))],
)
async def test_a_client_that_leaves_while_the_bill_waits_for_the_database_pays_for_what_is_kept_for_it(
    service: Service, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str], state: str, paid: int
) -> None:
    is_asked = threading.Event()

    def be_away(**_: Any) -> None:
        is_asked.set()
        raise OperationalError("the database is away")

    monkeypatch.setattr(bills, "RETRY_SECONDS", 0.01)
    with monkeypatch.context() as away:
        away.setattr(charges, "settle", be_away)
        asking = asyncio.create_task(_in_a_thread_of_its_own(service.complete(**headers)))
        await asyncio.to_thread(is_asked.wait, 20)
        asking.cancel()
        await asyncio.sleep(0.05)
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert (await Completion.objects.aget()).state == state
    assert await service.balance() == ledger.Balance(available=1_000 - paid, held=0, escrow=0)


async def test_a_client_that_leaves_while_its_answer_is_written_pays_nothing_and_others_are_answered_meanwhile(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_writing, may_go_on = threading.Event(), threading.Event()
    write = TextShape.whole

    def write_slowly(*given: Any) -> Any:
        is_writing.set()
        may_go_on.wait(5)
        return write(*given)

    monkeypatch.setattr(TextShape, "whole", write_slowly)
    asking = asyncio.create_task(_in_a_thread_of_its_own(service.complete()))
    await asyncio.to_thread(is_writing.wait, 20)
    assert (await service.get("/v1/models", Authorization=f"Bearer {service.secret}")).status_code == 200
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    may_go_on.set()
    assert (await Completion.objects.aget()).state == Completion.State.DISCONNECTED
    assert await service.balance() == ledger.Balance(available=1_000, held=0, escrow=0)


async def _in_a_thread_of_its_own(answering: Coroutine[Any, Any, Any]) -> Any:
    """As under a real server: the test client's requests all share one thread, and so wait for each other."""
    async with ThreadSensitiveContext():
        return await answering


async def _leave_after(events: Any, num_events: int) -> None:
    for _ in range(num_events):
        await anext(events)
    await events.aclose()
    await anext(events)


async def test_a_key_is_told_its_limits_and_what_is_left_of_its_cap(service: Service) -> None:
    await service.limit(credit_cap=500, cap_period="week", requests_per_minute=7)
    used = (await service.complete()).json()["usage"]["total_tokens"]
    told = await service.ask("/v1/key")
    assert told["name"] == "laptop"
    assert told["scopes"] == sorted(Scope)
    assert (told["limit"], told["limit_period"], told["requests_per_minute"]) == (500, "week", 7)
    assert (told["usage"], told["limit_remaining"]) == (PRICE * used, 500 - PRICE * used)
    assert told["limit_resets_at"] is not None
    assert told["expires_at"] is None


async def test_credits_are_told_as_openrouter_tells_them_and_more(service: Service) -> None:
    used = PRICE * (await service.complete()).json()["usage"]["total_tokens"]
    assert await service.ask("/v1/credits") == {
        "total_credits": 1_000,
        "total_usage": used,
        "available": 1_000 - used,
        "held": 0,
        "escrow": 0,
    }


async def test_a_shared_key_completes_at_its_owners_cost_and_sees_its_cap_alone(service: Service) -> None:
    def share() -> str:
        key, secret = make_key(service.contributor, Scope.COMPLETION)
        ApiKey.objects.filter(pk=key.pk).update(is_shared=True, credit_cap=60, cap_period="day")
        return secret

    secret = await asyncio.to_thread(share)
    response = await service.send({**ASKED, "max_tokens": MAX_TOKENS}, secret=secret)
    used = PRICE * response.json()["usage"]["total_tokens"]
    assert (await service.balance()).available == 1_000 - used
    told = await service.ask("/v1/credits", secret=secret)
    assert (told["available"], told["total_usage"], told["total_credits"]) == (60 - used, used, 60)
    owner = await service.get("/api/v1/me", Authorization=f"Bearer {secret}")
    assert (owner.status_code, owner.json()["code"]) == (403, "shared_key")
