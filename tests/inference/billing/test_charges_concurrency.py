"""Real threads on PostgreSQL: neither a balance nor a cap is ever spent twice."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.db import connections

from contributors import api_keys, ledger
from contributors.models import ApiKey
from inference.billing import charges, spending
from inference.models import Completion
from tests.contributors.make import NOW, make_contributor, make_key
from tests.training.make import make_checkpoint, make_experiment

pytestmark = [pytest.mark.postgresql, pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("wide_pool")]
NUM_REQUESTS = 40
NUM_CAPPED_REQUESTS = 200


def run_in_threads(function: Callable[[int], None], *, count: int = NUM_REQUESTS) -> None:
    def run(number: int) -> None:
        try:
            function(number)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(count) as pool:
        for future in [pool.submit(run, number) for number in range(count)]:
            future.result()


def test_requests_that_together_cost_twice_the_balance_share_it() -> None:
    api_key, _ = make_key(make_contributor(credits_=NUM_REQUESTS * 50))
    checkpoint = make_checkpoint(experiment=make_experiment(credits_per_completion_token=1))
    opened: list[Completion] = []

    def ask(number: int) -> None:
        try:
            completion = charges.open_bill(
                request_id=f"cmpl-{number}",
                api_key=api_key,
                checkpoint=checkpoint,
                prompt_tokens=10,
                max_completion_tokens=90,
                now=NOW,
            )
        except ledger.InsufficientCredits:
            return
        opened.append(completion)

    run_in_threads(ask)
    assert len(opened) == NUM_REQUESTS // 2
    assert ledger.balance(api_key.contributor) == ledger.Balance(available=0, held=NUM_REQUESTS * 50, escrow=0)

    def finish(number: int) -> None:
        completion = opened[number % len(opened)]
        charges.settle(completion=completion, state=Completion.State.DONE, completion_tokens=20 + number, now=NOW)

    run_in_threads(finish)
    paid = sum(30 + completion.completion_tokens - 20 for completion in Completion.objects.all())
    available = NUM_REQUESTS * 50 - paid
    assert ledger.balance(api_key.contributor) == ledger.Balance(available=available, held=0, escrow=0)
    assert ledger.violations(now=NOW) == []


def test_requests_of_a_key_and_its_successor_never_exceed_their_cap() -> None:
    key, _ = make_key(make_contributor(credits_=10**6))
    ApiKey.objects.update(credit_cap=NUM_CAPPED_REQUESTS * 50, cap_period=ApiKey.CapPeriod.MONTH)
    key.refresh_from_db()
    successor, _ = api_keys.rotate(key=key, overlap=timedelta(days=1), now=NOW)
    checkpoint = make_checkpoint(experiment=make_experiment(credits_per_completion_token=1))
    refused: list[int] = []

    def ask(number: int) -> None:
        try:
            completion = charges.open_bill(
                request_id=f"cmpl-{number}",
                api_key=(key, successor)[number % 2],
                checkpoint=checkpoint,
                prompt_tokens=10,
                max_completion_tokens=90,
                now=NOW,
            )
        except spending.CapReached:
            refused.append(number)
            return
        if number % 4 == 0:
            charges.settle(completion=completion, state=Completion.State.DONE, completion_tokens=90, now=NOW)

    run_in_threads(ask, count=NUM_CAPPED_REQUESTS)
    assert len(refused) == NUM_CAPPED_REQUESTS // 2
    assert spending.of(key, now=NOW).remaining == 0
    assert spending.of(successor, now=NOW).used == NUM_CAPPED_REQUESTS * 50
    assert ledger.violations(now=NOW) == []
