"""Long work keeps its lease for as long as it lasts, and no longer than it is its own."""

import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import OperationalError
from django.utils import timezone

from tests.training.make import make_experiment, make_round
from training import leases
from training.models import Experiment, Round

LONG_AGO = datetime.fromisoformat("2026-01-01T00:00:00Z")


@pytest.fixture(autouse=True)
def _renew_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "RENEW_SECONDS", 0.05)


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def is_renewed(row: Round | Experiment) -> bool:
    row.refresh_from_db()
    assert row.next_transition_at is not None
    return row.next_transition_at > timezone.now() + leases.WORK_LEASE - timedelta(seconds=30)


def is_renewing() -> bool:
    return any(thread.name.startswith("Thread") and "_renew" in thread.name for thread in threading.enumerate())


@pytest.mark.django_db(transaction=True)
def test_work_under_way_keeps_its_lease() -> None:
    round_ = make_round(experiment=make_experiment(), state=Round.State.MERGING, next_transition_at=LONG_AGO)
    with leases.keep_alive(round_):
        assert eventually(lambda: is_renewed(round_))
    assert not is_renewing()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("change", [{"epoch": 1}, {"state": Round.State.OPEN}])
def test_work_that_was_given_to_another_renews_nothing(change: dict[str, Any]) -> None:
    round_ = make_round(experiment=make_experiment(), state=Round.State.MERGING, next_transition_at=LONG_AGO)
    Round.objects.update(**change)
    with leases.keep_alive(round_):
        assert eventually(lambda: not is_renewing())
    round_.refresh_from_db()
    assert round_.next_transition_at == LONG_AGO


@pytest.mark.django_db(transaction=True)
def test_a_preparation_keeps_its_lease() -> None:
    experiment = make_experiment(state=Experiment.State.PREPARING, next_transition_at=LONG_AGO)
    with leases.keep_alive(experiment):
        assert eventually(lambda: is_renewed(experiment))


@pytest.mark.django_db(transaction=True)
def test_a_database_that_is_away_for_a_moment_does_not_end_the_renewing(monkeypatch: pytest.MonkeyPatch) -> None:
    round_ = make_round(experiment=make_experiment(), state=Round.State.MERGING, next_transition_at=LONG_AGO)
    failures = iter([OperationalError("server closed the connection"), OperationalError("again")])
    until = leases.until

    def until_or_failure(now: datetime) -> datetime:
        for failure in failures:
            raise failure
        return until(now)

    monkeypatch.setattr(leases, "until", until_or_failure)
    with leases.keep_alive(round_):
        assert eventually(lambda: is_renewed(round_))


@pytest.mark.django_db(transaction=True)
def test_the_work_may_fail() -> None:
    round_ = make_round(experiment=make_experiment(), state=Round.State.MERGING)
    with pytest.raises(RuntimeError, match="out of memory"), leases.keep_alive(round_):
        raise RuntimeError("out of memory")
    assert not is_renewing()
