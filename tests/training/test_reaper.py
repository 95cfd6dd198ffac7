"""The reaper: every timer, once, and only when it is due."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from contributors import ledger
from contributors.models import EscrowLine, Hold
from ml.protocol import Reason
from tests.training.make import (
    MOMENT,
    make_accepted_attempt,
    make_attempt_in,
    make_checkpoint,
    make_closed_round,
    make_contributor,
    make_experiment,
    make_job,
    make_round,
)
from training import jobs, leases, reaper
from training.models import Attempt, Experiment, Round
from training.reaper import Due

pytestmark = pytest.mark.django_db

State = Attempt.State


# Attempts


@pytest.mark.parametrize(
    ("state", "end", "reason"),
    [
        (State.OFFERED, State.OFFER_EXPIRED, Reason.OFFER_EXPIRED),
        (State.RUNNING, State.LEASE_EXPIRED, Reason.LEASE_EXPIRED),
    ],
)
def test_an_offer_or_lease_that_ran_out_ends(state: str, end: str, reason: Reason, now: datetime) -> None:
    attempt = make_attempt_in(state, next_transition_at=now)
    reaper.reap(now=now)
    attempt.refresh_from_db()
    assert (attempt.state, attempt.reason, attempt.ended_at) == (end, reason, now)
    assert attempt.next_transition_at is None


@pytest.mark.parametrize("state", Attempt.LIVE_STATES)
def test_an_attempt_in_time_is_left_alone(state: str, now: datetime) -> None:
    attempt = make_attempt_in(state, next_transition_at=now + MOMENT)
    assert reaper.reap(now=now) == Due()
    attempt.refresh_from_db()
    assert attempt.state == state


def test_a_submission_that_nobody_was_told_of_is_validated_and_asked_for_again_later(now: datetime) -> None:
    attempt = make_attempt_in(State.SUBMITTED, next_transition_at=now)
    assert reaper.reap(now=now).validate == [attempt.pk]
    assert reaper.reap(now=now).validate == []
    later = now + timedelta(seconds=jobs.SUBMITTED_SECONDS)
    assert reaper.reap(now=later).validate == [attempt.pk]


def test_a_validation_whose_worker_died_begins_again(now: datetime) -> None:
    attempt = make_attempt_in(State.VALIDATING, next_transition_at=now)
    assert reaper.reap(now=now).validate == [attempt.pk]
    attempt.refresh_from_db()
    assert attempt.state == State.SUBMITTED
    assert reaper.reap(now=now).validate == []


@pytest.mark.parametrize("state", sorted(set(State) - set(Attempt.LIVE_STATES)))
def test_an_ended_attempt_has_no_timer(state: str, now: datetime) -> None:
    attempt = make_attempt_in(state, next_transition_at=now - timedelta(days=1))
    reaper.reap(now=now)
    attempt.refresh_from_db()
    assert attempt.state == state


def test_an_attempt_that_runs_longer_than_a_round_may_ends_once_the_round_is_overdue(now: datetime) -> None:
    experiment = make_experiment(round_seconds=3_600)
    round_ = make_round(experiment=experiment, next_transition_at=now)
    alive = {"next_transition_at": now + timedelta(seconds=150)}
    hour = timedelta(hours=1)
    overlong = make_attempt_in(State.RUNNING, job=make_job(round_=round_), claimed_at=now - hour, **alive)
    young = make_attempt_in(State.RUNNING, job=make_job(round_=round_), claimed_at=now - hour + MOMENT, **alive)
    reaper.reap(now=now - MOMENT)
    assert Attempt.objects.get(pk=overlong.pk).state == State.RUNNING
    reaper.reap(now=now)
    overlong.refresh_from_db()
    young.refresh_from_db()
    assert (overlong.state, overlong.reason) == (State.CANCELLED, Reason.TOO_LATE)
    assert young.state == State.RUNNING


# Rounds


def make_full_round(**fields: Any) -> Round:
    experiment = make_experiment(round_tokens=100_000, round_min_tokens=50_000)
    round_ = make_round(experiment=experiment, **fields)
    make_accepted_attempt(job=make_job(round_=round_, token_budget=100_000))
    return round_


def test_a_full_round_is_merged(now: datetime) -> None:
    round_ = make_full_round()
    assert reaper.reap(now=now).merge == [round_.pk]


def test_a_full_round_of_a_paused_experiment_is_merged(now: datetime) -> None:
    round_ = make_full_round()
    Experiment.objects.update(state=Experiment.State.PAUSED)
    assert reaper.reap(now=now).merge == [round_.pk]


def test_a_round_past_its_deadline_is_merged_with_the_minimum(now: datetime) -> None:
    round_ = make_round(experiment=make_experiment(), min_tokens=100_000, next_transition_at=now)
    make_accepted_attempt(job=make_job(round_=round_, token_budget=100_000))
    assert reaper.reap(now=now - MOMENT).merge == []
    assert reaper.reap(now=now).merge == [round_.pk]


def test_a_merge_whose_worker_died_is_done_again_in_the_same_tick(now: datetime) -> None:
    round_ = make_full_round(state=Round.State.MERGING, next_transition_at=now)
    Attempt.objects.update(merged_into=round_, weight=1.0)
    assert reaper.reap(now=now - MOMENT).merge == []
    assert reaper.reap(now=now).merge == [round_.pk]
    round_.refresh_from_db()
    assert (round_.state, round_.epoch, round_.merged_attempts.count()) == (Round.State.OPEN, 1, 0)


def test_an_evaluation_whose_worker_died_is_done_again(now: datetime) -> None:
    experiment = make_experiment()
    result = make_checkpoint(experiment=experiment, number=1, published_at=None)
    round_ = make_round(experiment=experiment, state=Round.State.EVALUATING, result=result, next_transition_at=now)
    assert reaper.reap(now=now - MOMENT).evaluate == []
    assert reaper.reap(now=now).evaluate == [round_.pk]
    assert reaper.reap(now=now).evaluate == []
    assert reaper.reap(now=leases.until(now)).evaluate == [round_.pk]


def test_deltas_that_grew_too_old_are_retired(now: datetime) -> None:
    experiment = make_experiment(max_staleness=0)
    old = make_closed_round(experiment=experiment, number=1, validation_loss=6.0)
    attempt = make_accepted_attempt(job=make_job(round_=old))
    make_round(experiment=experiment, number=2)
    assert reaper.reap(now=now).merge == []
    attempt.refresh_from_db()
    assert (attempt.state, attempt.reason) == (State.LATE, Reason.TOO_LATE)


# Experiments


def test_a_running_experiment_between_two_rounds_gets_the_next(now: datetime) -> None:
    experiment = make_experiment()
    make_closed_round(experiment=experiment, number=1, validation_loss=6.0)
    reaper.reap(now=now)
    assert experiment.rounds.get(number=2).state == Round.State.OPEN


def test_an_experiment_after_its_last_round_is_finished(now: datetime) -> None:
    experiment = make_experiment(num_rounds=1)
    make_closed_round(experiment=experiment, number=1, validation_loss=6.0)
    reaper.reap(now=now)
    experiment.refresh_from_db()
    assert experiment.state == Experiment.State.FINISHED


def test_a_preparation_whose_worker_died_begins_again(now: datetime) -> None:
    experiment = make_experiment(state=Experiment.State.PREPARING, next_transition_at=now)
    assert reaper.reap(now=now - MOMENT).prepare == []
    assert reaper.reap(now=now).prepare == [experiment.pk]
    assert reaper.reap(now=now).prepare == []


# The ledger's timers


def test_escrow_whose_date_has_come_is_released_and_holds_past_theirs_are_given_back(now: datetime) -> None:
    contributor = make_contributor()
    ledger.earn(contributor=contributor, amount=100, source="attempt:1", release_at=now, now=now - timedelta(days=1))
    ledger.earn(contributor=contributor, amount=40, source="attempt:2", release_at=None, now=now)
    ledger.hold(contributor=contributor, amount=30, source="completion:1", expires_at=now, now=now)
    reaper.reap(now=now)
    assert EscrowLine.objects.get().released_at == now
    assert Hold.objects.get().state == Hold.State.EXPIRED
    assert ledger.balance(contributor) == ledger.Balance(available=140, held=0, escrow=0)


# At once


def test_two_reapers_do_each_thing_once(now: datetime) -> None:
    make_full_round()
    attempts = [make_attempt_in(state, next_transition_at=now) for state in Attempt.LIVE_STATES]
    dues = [reaper.reap(now=now) for _ in range(2)]
    assert [len(due.validate) for due in dues] == [2, 0]
    assert {attempt.pk for attempt in attempts[2:]} == set(dues[0].validate)


def test_a_race_with_a_heartbeat_is_lost_quietly(now: datetime, monkeypatch: pytest.MonkeyPatch) -> None:
    attempt = make_attempt_in(State.RUNNING, next_transition_at=now)
    expire: Callable[..., None] = jobs.expire

    def expire_after_a_heartbeat(late: Attempt, *, now: datetime) -> None:
        jobs.extend_lease(
            attempt_id=late.pk, device=late.device, progress_tokens=1, progress_loss=None, now=now + MOMENT
        )
        expire(late, now=now)

    monkeypatch.setattr(jobs, "expire", expire_after_a_heartbeat)
    reaper.reap(now=now)
    attempt.refresh_from_db()
    assert attempt.state == State.RUNNING


def test_an_idle_tick_costs_few_queries(now: datetime, django_assert_max_num_queries: Any) -> None:
    make_round(experiment=make_experiment())
    with django_assert_max_num_queries(10):
        assert reaper.reap(now=now) == Due()
