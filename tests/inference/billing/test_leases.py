import asyncio
from datetime import datetime

import pytest

from inference.billing import charges, leases
from inference.models import Completion
from tests.contributors.make import NOW, make_contributor, make_key
from tests.training.make import make_checkpoint, make_experiment

pytestmark = pytest.mark.django_db(transaction=True)


def make_completions(count: int) -> list[Completion]:
    api_key, _ = make_key(make_contributor(credits_=1_000))
    checkpoint = make_checkpoint(experiment=make_experiment(credits_per_completion_token=1))
    return [
        charges.open_bill(
            request_id=f"cmpl-{number}",
            api_key=api_key,
            checkpoint=checkpoint,
            prompt_tokens=5,
            max_completion_tokens=5,
            now=NOW,
        )
        for number in range(count)
    ]


async def lease_of(completion: Completion) -> datetime:
    await completion.arefresh_from_db()
    assert completion.lease_expires_at is not None
    return completion.lease_expires_at


async def test_a_lease_is_renewed_until_it_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "RENEW_SECONDS", 0.02)
    kept, dropped = await asyncio.to_thread(make_completions, 2)
    first = await lease_of(kept)
    leases.keep(kept)
    leases.keep(dropped)
    leases.drop(dropped)
    while await lease_of(kept) == first:
        await asyncio.sleep(0.02)
    assert await lease_of(dropped) == first
    leases.drop(kept)
    leases.keep(dropped)
    while await lease_of(dropped) == first:
        await asyncio.sleep(0.02)
    leases.drop(dropped)
