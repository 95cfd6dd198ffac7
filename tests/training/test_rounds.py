"""A round: when it is full, what its merge takes and weighs, and what a dead or stale merge worker leaves behind."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import IntegrityError

from ml.protocol import Reason
from tests.training.make import (
    BATCH,
    finish_merge,
    make_accepted_attempt,
    make_attempt_in,
    make_checkpoint,
    make_closed_round,
    make_experiment,
    make_job,
    make_round,
)
from training import leases, rounds
from training.models import Attempt, Checkpoint, Experiment, Round
from training.transitions import TransitionLost

pytestmark = pytest.mark.django_db

State = Round.State


def make_target_round(*, target: int = 10 * BATCH, minimum: int = 2 * BATCH, **fields: Any) -> Round:
    experiment = make_experiment(round_tokens=target, round_min_tokens=minimum)
    return make_round(experiment=experiment, **fields)


def add(round_: Round, state: str, *, tokens: int) -> Attempt:
    job = make_job(round_=round_, token_budget=tokens)
    return make_accepted_attempt(job=job) if state == Attempt.State.ACCEPTED else make_attempt_in(state, job=job)


# Opening


def test_the_first_round_opens_on_the_untrained_checkpoint(now: datetime) -> None:
    experiment = make_experiment()
    untrained = make_checkpoint(experiment=experiment)
    round_ = rounds.open_next(experiment=experiment, now=now)
    assert round_ is not None
    assert (round_.number, round_.base, round_.target_tokens) == (1, untrained, experiment.round_tokens)
    assert round_.credit_budget == rounds.CREDIT_HEADROOM * experiment.credits_for(experiment.round_tokens) > 0
    assert round_.next_transition_at == now + timedelta(seconds=experiment.round_seconds)


def test_a_round_opens_on_the_newest_checkpoint_that_is_published(now: datetime) -> None:
    experiment = make_experiment()
    published = make_closed_round(experiment=experiment, number=1, validation_loss=6.0).result
    broken = make_checkpoint(experiment=experiment, number=2, published_at=None)
    make_round(experiment=experiment, number=2, base=published, state=State.ABANDONED, result=broken)
    round_ = rounds.open_next(experiment=experiment, now=now)
    assert round_ is not None
    assert (round_.number, round_.base) == (3, published)


def test_no_round_opens_after_the_last(now: datetime) -> None:
    experiment = make_experiment(num_rounds=1)
    make_closed_round(experiment=experiment, number=1, validation_loss=6.0)
    assert rounds.open_next(experiment=experiment, now=now) is None


# Allocation


def test_what_is_live_and_what_is_accepted_is_spoken_for() -> None:
    round_ = make_target_round()
    for state in (*Attempt.LIVE_STATES, Attempt.State.ACCEPTED):
        add(round_, state, tokens=BATCH)
    for state in (Attempt.State.LEASE_EXPIRED, Attempt.State.REJECTED, Attempt.State.LATE):
        add(round_, state, tokens=BATCH)
    allocation = rounds.allocation(round_)
    assert (allocation.accepted_tokens, allocation.live_tokens) == (BATCH, 4 * BATCH)
    assert allocation.remaining_tokens == 5 * BATCH


def test_a_partly_done_attempt_frees_the_rest_of_its_budget() -> None:
    round_ = make_target_round()
    make_accepted_attempt(job=make_job(round_=round_, token_budget=4 * BATCH), verified_tokens=BATCH)
    assert rounds.allocation(round_).remaining_tokens == 9 * BATCH


def test_late_attempts_of_the_round_before_are_spoken_for_and_merged_ones_are_not() -> None:
    experiment = make_experiment(round_tokens=10 * BATCH)
    before = make_closed_round(experiment=experiment, number=1, validation_loss=6.0)
    add(before, Attempt.State.RUNNING, tokens=BATCH)
    add(before, Attempt.State.ACCEPTED, tokens=BATCH)
    make_accepted_attempt(job=make_job(round_=before), merged_into=before, state=Attempt.State.MERGED)
    add(make_round(experiment=make_experiment()), Attempt.State.RUNNING, tokens=BATCH)
    assert rounds.allocation(make_round(experiment=experiment, number=2)).remaining_tokens == 8 * BATCH


# Being full


def test_a_round_without_deltas_is_never_full(now: datetime) -> None:
    round_ = make_target_round()
    assert not rounds.is_full(round_, now=now + timedelta(days=9))


def test_a_round_is_full_when_its_target_is_reached(now: datetime) -> None:
    round_ = make_target_round()
    add(round_, Attempt.State.ACCEPTED, tokens=9 * BATCH)
    assert not rounds.is_full(round_, now=now)
    add(round_, Attempt.State.ACCEPTED, tokens=BATCH)
    assert rounds.is_full(round_, now=now)


@pytest.mark.parametrize(("accepted", "full"), [(2 * BATCH, True), (2 * BATCH - 1, False)])
def test_past_its_deadline_the_minimum_is_enough(accepted: int, full: bool) -> None:
    round_ = make_target_round()
    add(round_, Attempt.State.RUNNING, tokens=BATCH)
    add(round_, Attempt.State.ACCEPTED, tokens=accepted)
    assert not rounds.is_full(round_, now=round_.next_transition_at - timedelta(microseconds=1))
    assert rounds.is_full(round_, now=round_.next_transition_at) is full


@pytest.mark.parametrize("after_deadline", [False, True])
def test_a_rest_too_small_for_a_job_does_not_keep_the_round_open(after_deadline: bool, now: datetime) -> None:
    round_ = make_target_round(minimum=10 * BATCH)
    add(round_, Attempt.State.ACCEPTED, tokens=9 * BATCH + 1)
    assert rounds.is_full(round_, now=round_.next_transition_at if after_deadline else now)
    add(round_, Attempt.State.RUNNING, tokens=1)
    assert not rounds.is_full(round_, now=round_.next_transition_at if after_deadline else now)


# Merging


def test_a_merge_fixes_what_it_takes_with_its_weights(now: datetime) -> None:
    experiment = make_experiment(staleness_percent=50, max_staleness=2)
    before = make_closed_round(experiment=experiment, number=1, validation_loss=6.0)
    late = add(before, Attempt.State.ACCEPTED, tokens=4 * BATCH)
    round_ = make_round(experiment=experiment, number=2)
    fresh = add(round_, Attempt.State.ACCEPTED, tokens=BATCH)
    add(round_, Attempt.State.RUNNING, tokens=BATCH)
    add(make_round(experiment=make_experiment()), Attempt.State.ACCEPTED, tokens=BATCH)
    taken = rounds.begin_merge(round_=round_, now=now)
    assert {attempt.pk: attempt.weight for attempt in taken} == {late.pk: 2 * BATCH, fresh.pk: BATCH}
    assert set(round_.merged_attempts.values_list("pk", "weight")) == {(late.pk, 2 * BATCH), (fresh.pk, BATCH)}
    assert round_.next_transition_at == leases.until(now)


def test_a_delta_accepted_during_a_merge_waits_for_the_next_round(now: datetime) -> None:
    round_ = make_target_round()
    add(round_, Attempt.State.ACCEPTED, tokens=BATCH)
    rounds.begin_merge(round_=round_, now=now)
    waiting = add(round_, Attempt.State.ACCEPTED, tokens=BATCH)
    finish_merge(round_, now)
    waiting.refresh_from_db()
    assert (waiting.state, waiting.merged_into) == (Attempt.State.ACCEPTED, None)


def test_a_round_with_nothing_to_merge_stays_open(now: datetime) -> None:
    round_ = make_target_round()
    with pytest.raises(rounds.NothingToMerge):
        rounds.begin_merge(round_=round_, now=now)
    round_.refresh_from_db()
    assert (round_.state, round_.epoch) == (State.OPEN, 0)


def test_a_finished_merge_leaves_a_checkpoint_that_is_not_yet_published(now: datetime) -> None:
    round_ = make_target_round()
    attempt = add(round_, Attempt.State.ACCEPTED, tokens=BATCH)
    rounds.begin_merge(round_=round_, now=now)
    checkpoint = finish_merge(round_, now)
    attempt.refresh_from_db()
    round_.refresh_from_db()
    assert (attempt.state, attempt.ended_at) == (Attempt.State.MERGED, now)
    assert (round_.state, round_.result, checkpoint.number) == (State.EVALUATING, checkpoint, 1)
    assert checkpoint.published_at is None
    assert round_.manifest is not None


def test_a_dead_merge_workers_round_is_opened_again_with_its_deltas(now: datetime) -> None:
    round_ = make_target_round()
    attempt = add(round_, Attempt.State.ACCEPTED, tokens=BATCH)
    rounds.begin_merge(round_=round_, now=now)
    rounds.reopen(round_=round_, now=leases.until(now))
    attempt.refresh_from_db()
    assert (attempt.merged_into, attempt.weight, attempt.state) == (None, None, Attempt.State.ACCEPTED)
    assert [taken.pk for taken in rounds.begin_merge(round_=round_, now=now)] == [attempt.pk]


def test_a_living_merge_workers_round_is_left_to_it(now: datetime) -> None:
    round_ = make_target_round()
    add(round_, Attempt.State.ACCEPTED, tokens=BATCH)
    rounds.begin_merge(round_=round_, now=now)
    with pytest.raises(TransitionLost):
        rounds.reopen(round_=round_, now=leases.until(now) - timedelta(microseconds=1))


@pytest.mark.parametrize("successor_has_finished", [False, True])
def test_a_stale_merge_worker_loses_against_its_successor(successor_has_finished: bool, now: datetime) -> None:
    round_ = make_target_round()
    add(round_, Attempt.State.ACCEPTED, tokens=BATCH)
    rounds.begin_merge(round_=round_, now=now)
    successor = Round.objects.select_related("experiment").get(pk=round_.pk)
    rounds.reopen(round_=successor, now=leases.until(now))
    rounds.begin_merge(round_=successor, now=now)
    if successor_has_finished:
        finish_merge(successor, now)
    with pytest.raises(TransitionLost):
        finish_merge(round_, now)
    assert Checkpoint.objects.filter(number=1).count() == int(successor_has_finished)


# Staleness


@pytest.mark.parametrize(("number", "state"), [(2, Attempt.State.ACCEPTED), (3, Attempt.State.LATE)])
def test_an_accepted_delta_that_grew_too_old_ends_and_stays_paid(number: int, state: str, now: datetime) -> None:
    experiment = make_experiment(max_staleness=1)
    attempt = add(make_round(experiment=experiment, state=State.CLOSED), Attempt.State.ACCEPTED, tokens=BATCH)
    newest = make_round(experiment=experiment, number=number)
    assert rounds.retire_stale(round_=newest, now=now) == (state == Attempt.State.LATE)
    attempt.refresh_from_db()
    assert attempt.state == state
    assert attempt.earned_credits == experiment.credits_for(BATCH)
    assert (attempt.reason == Reason.TOO_LATE) is (state == Attempt.State.LATE)


# Evaluation


def make_evaluating_round() -> Round:
    experiment = make_experiment()
    result = make_checkpoint(experiment=experiment, number=1, validation_loss=None, published_at=None)
    return make_round(experiment=experiment, state=State.EVALUATING, result=result)


def test_an_evaluated_checkpoint_is_published_with_its_loss(now: datetime) -> None:
    round_ = make_evaluating_round()
    rounds.finish_evaluation(round_=round_, validation_loss=5.5, now=now)
    assert (round_.state, round_.closed_at) == (State.CLOSED, now)
    checkpoint = Checkpoint.objects.get(round=round_)
    assert (checkpoint.validation_loss, checkpoint.published_at) == (5.5, now)


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_broken_checkpoint_is_never_published(loss: float, now: datetime) -> None:
    round_ = make_evaluating_round()
    rounds.finish_evaluation(round_=round_, validation_loss=loss, now=now)
    assert round_.state == State.ABANDONED
    assert Checkpoint.objects.get(round=round_).published_at is None


def test_an_experiment_has_one_live_round() -> None:
    experiment: Experiment = make_experiment()
    make_round(experiment=experiment)
    with pytest.raises(IntegrityError):
        make_round(experiment=experiment, number=2)
