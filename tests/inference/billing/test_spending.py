from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from contributors import api_keys, ledger
from contributors.models import ApiKey, Contributor
from inference.billing import charges, spending
from inference.models import Completion
from tests.contributors.make import NOW, make_contributor, make_key
from tests.training.make import make_checkpoint, make_experiment
from training.models import Checkpoint

pytestmark = pytest.mark.django_db
Period = ApiKey.CapPeriod


@pytest.fixture
def checkpoint() -> Checkpoint:
    return make_checkpoint(experiment=make_experiment(credits_per_completion_token=2))


@pytest.fixture
def owner() -> Contributor:
    return make_contributor(credits_=10_000)


def make_capped_key(owner: Contributor, cap: int | None = 500, period: str = Period.DAY) -> ApiKey:
    key, _ = make_key(owner)
    ApiKey.objects.filter(pk=key.pk).update(credit_cap=cap, cap_period=period if cap else Period.NONE)
    key.refresh_from_db()
    return key


def spend(key: ApiKey, checkpoint: Checkpoint, *, used: int | None = None, now: datetime = NOW) -> Completion:
    """A request that holds 200 credits, and has cost 2 * (10 + used) where it is over."""
    completion = charges.open_bill(
        request_id=f"cmpl-{Completion.objects.count()}",
        api_key=key,
        checkpoint=checkpoint,
        prompt_tokens=10,
        max_completion_tokens=90,
        now=now,
    )
    if used is not None:
        charges.settle(completion=completion, state=Completion.State.DONE, completion_tokens=used, now=now)
    return completion


def test_open_requests_count_with_what_they_hold_and_others_with_what_they_cost(
    owner: Contributor, checkpoint: Checkpoint
) -> None:
    key = make_capped_key(owner)
    spend(key, checkpoint, used=15)
    failed = spend(key, checkpoint)
    charges.settle(completion=failed, state=Completion.State.FAILED, completion_tokens=5, now=NOW)
    spend(key, checkpoint)
    assert spending.of(key, now=NOW).used == 50 + 0 + 200
    assert spending.of(key, now=NOW).remaining == 250


def test_what_the_cap_does_not_leave_is_refused_and_leaves_no_trace(owner: Contributor, checkpoint: Checkpoint) -> None:
    key = make_capped_key(owner)
    spend(key, checkpoint)
    spend(key, checkpoint)
    with pytest.raises(spending.CapReached):
        spend(key, checkpoint)
    assert Completion.objects.count() == 2
    assert ledger.balance(owner).held == 400
    assert ledger.violations(now=NOW) == []


def test_the_next_period_begins_anew(owner: Contributor, checkpoint: Checkpoint) -> None:
    key = make_capped_key(owner, cap=200)
    spend(key, checkpoint, used=90)
    tomorrow = NOW + timedelta(days=1)
    assert spending.of(key, now=NOW).remaining == 0
    assert spending.of(key, now=tomorrow).remaining == 200
    spend(key, checkpoint, used=90, now=tomorrow)


def test_other_keys_spend_apart(owner: Contributor, checkpoint: Checkpoint) -> None:
    spend(make_capped_key(owner), checkpoint)
    assert spending.of(make_capped_key(owner), now=NOW).used == 0


def test_a_successor_spends_under_the_same_cap(owner: Contributor, checkpoint: Checkpoint) -> None:
    key = make_capped_key(owner)
    spend(key, checkpoint)
    successor, _ = api_keys.rotate(key=key, overlap=timedelta(days=1), now=NOW)
    third, _ = api_keys.rotate(key=successor, overlap=timedelta(days=1), now=NOW)
    spend(third, checkpoint)
    for each in (key, successor, third):
        assert spending.of(each, now=NOW).remaining == 100
        with pytest.raises(spending.CapReached):
            spend(each, checkpoint)


def test_a_cap_that_was_lowered_since_holds(owner: Contributor, checkpoint: Checkpoint) -> None:
    key = make_capped_key(owner)
    ApiKey.objects.filter(pk=key.pk).update(credit_cap=100)
    with pytest.raises(spending.CapReached):
        spend(key, checkpoint)


def test_without_a_cap_nothing_is_left_or_lacking(owner: Contributor, checkpoint: Checkpoint) -> None:
    key = make_capped_key(owner, cap=None)
    spend(key, checkpoint, used=90)
    assert spending.of(key, now=NOW) == spending.Spending(used=200, remaining=None, resets_at=None)


@pytest.mark.parametrize(
    ("period", "start", "end"),
    [
        (Period.DAY, (2026, 12, 31), (2027, 1, 1)),
        (Period.WEEK, (2026, 12, 28), (2027, 1, 4)),
        (Period.MONTH, (2026, 12, 1), (2027, 1, 1)),
    ],
)
def test_periods_begin_at_midnight_in_utc(period: str, start: Any, end: Any) -> None:
    now = datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC)
    assert spending.period_start(period, now=now) == datetime(*start, tzinfo=UTC)
    assert spending.period_end(period, now=now) == datetime(*end, tzinfo=UTC)
