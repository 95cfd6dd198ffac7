import asyncio
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError
from django.utils import timezone
from redis import Redis

from contributors import ledger
from contributors.models import ApiKey
from fai_project.redis_server import RedisServer
from inference.billing import bills, charges
from inference.billing.bills import Bill, Outcome
from inference.billing.limits import Allowance
from inference.models import Completion
from inference.openai.shapes import Usage
from tests.contributors.make import make_contributor, make_key
from tests.inference.make import make_request
from tests.training.make import make_checkpoint, make_experiment
from training.models import Checkpoint

pytestmark = pytest.mark.django_db(transaction=True)
State = Completion.State


@pytest.fixture(autouse=True)
def _redis(redis_settings: RedisServer) -> Iterator[None]:
    with Redis.from_url(redis_settings.url) as redis:
        for key in redis.scan_iter("fai:limit:*"):
            redis.delete(key)
        yield


@pytest.fixture
def api_key() -> ApiKey:
    key, _ = make_key(make_contributor(credits_=1_000))
    ApiKey.objects.filter(pk=key.pk).update(tokens_per_minute=20)
    return ApiKey.objects.select_related("contributor").get(pk=key.pk)


@pytest.fixture
def checkpoint() -> Checkpoint:
    return make_checkpoint(experiment=make_experiment(credits_per_completion_token=1))


@pytest.mark.parametrize(
    ("state", "tokens", "used"),
    [
        (State.DONE, 8, 11),
        (State.DISCONNECTED, 2, 5),
        (State.DISCONNECTED, 0, 0),
        (State.FAILED, 0, 0),
        (State.FAILED, 2, 0),
    ],
)
async def test_the_rate_counts_what_is_paid(
    api_key: ApiKey, checkpoint: Checkpoint, state: State, tokens: int, used: int
) -> None:
    allowance = Allowance.of(api_key)
    request = make_request(max_tokens=8)
    bill = Bill(api_key, allowance=allowance)
    completion = await bill.open(request, checkpoint=checkpoint)
    assert allowance.headers["x-ratelimit-remaining-tokens"] == str(20 - 11)
    usage = Usage(prompt_tokens=request.prompt_tokens, completion_tokens=tokens)
    outcome = Outcome(state=state, usage=usage)
    assert await bill.settle(completion, lambda: outcome) == outcome
    assert allowance.headers["x-ratelimit-remaining-tokens"] == str(20 - used)


# While the database is away


class Outage:
    """A database that is lost before the first try to settle, and at the second one between the bill and the answer."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.num_tries = 0
        self._settle = charges.settle
        patch.setattr(charges, "settle", self._try)
        patch.setattr(bills, "RETRY_SECONDS", 0.01)

    def _try(self, **settlement: Any) -> None:
        self.num_tries += 1
        if self.num_tries == 1:
            raise OperationalError("connection refused")
        self._settle(**settlement)
        if self.num_tries == 2:
            raise OperationalError("terminating connection")


async def left(api_key: ApiKey) -> tuple[int, int]:
    """Credits available, and held; the ledger is clean."""
    assert await asyncio.to_thread(ledger.violations, now=timezone.now()) == []
    balance = await asyncio.to_thread(ledger.balance, api_key.contributor)
    return balance.available, balance.held


async def test_a_bill_waits_for_the_database_and_is_settled_once(
    api_key: ApiKey, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = make_request(max_tokens=8)
    bill = Bill(api_key, allowance=Allowance([]))
    completion = await bill.open(request, checkpoint=checkpoint)
    assert await left(api_key) == (1_000 - 11, 11)
    outage = Outage(monkeypatch)
    usage = Usage(prompt_tokens=request.prompt_tokens, completion_tokens=5)
    await bill.settle(completion, lambda: Outcome(state=State.DONE, usage=usage))
    assert outage.num_tries == 3
    await completion.arefresh_from_db()
    assert (completion.state, completion.completion_tokens) == (State.DONE, 5)
    assert await left(api_key) == (1_000 - 8, 0)


async def test_a_bill_that_waited_too_long_is_left_to_the_reaper_and_free(
    api_key: ApiKey, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = make_request(max_tokens=8)
    bill = Bill(api_key, allowance=Allowance([]))
    completion = await bill.open(request, checkpoint=checkpoint)
    usage = Usage(prompt_tokens=request.prompt_tokens, completion_tokens=5)
    monkeypatch.setattr(bills, "PATIENCE_SECONDS", 0.0)
    with monkeypatch.context() as patch:
        Outage(patch)
        with pytest.raises(OperationalError, match="refused"):
            await bill.settle(completion, lambda: Outcome(state=State.DONE, usage=usage))
    assert await left(api_key) == (1_000 - 11, 11)
    later = timezone.now() + charges.LEASE_DURATION + timedelta(seconds=1)
    assert await asyncio.to_thread(charges.reap, now=later) == [request.request_id]
    assert await left(api_key) == (1_000, 0)
