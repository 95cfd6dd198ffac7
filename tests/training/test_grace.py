"""Rounds that close at a quorum: the grace of those at work, merges of deltas as they arrive, weights of late ones."""

from datetime import datetime, timedelta

import pytest

from ml.protocol import Reason
from tests.training.make import (
    BATCH,
    MOMENT,
    finish_merge,
    make_accepted_attempt,
    make_attempt_in,
    make_checkpoint,
    make_closed_round,
    make_device,
    make_enrollment,
    make_experiment,
    make_job,
    make_round,
    make_shard,
)
from training import dispatch, experiments, leases, reaper, rounds
from training.models import Attempt, Experiment, Round

pytestmark = pytest.mark.django_db

State = Attempt.State
GRACE = timedelta(seconds=60)


def make_quorum_round(*, grace_seconds: int | None = 60, accepted: int = 2 * BATCH, **fields: datetime) -> Round:
    """A round that wants 10 batches, may close with 2, has `accepted` tokens and a device at work."""
    experiment = make_experiment(
        round_tokens=10 * BATCH, round_min_tokens=2 * BATCH, grace_seconds=grace_seconds, max_staleness=8
    )
    round_ = make_round(experiment=experiment, **fields)
    make_attempt_in(
        State.RUNNING,
        job=make_job(round_=round_, token_budget=BATCH),
        next_transition_at=round_.next_transition_at + timedelta(days=1),
    )
    if accepted:
        make_accepted_attempt(job=make_job(round_=round_, token_budget=accepted))
    return round_


def deadline_of(round_: Round) -> datetime:
    return Round.objects.values_list("next_transition_at", flat=True).get(pk=round_.pk)


def finish(round_: Round, now: datetime) -> Round | None:
    """End a merge that has begun, evaluate, and let the next round open."""
    finish_merge(round_, now)
    rounds.finish_evaluation(round_=round_, validation_loss=5.0, now=now)
    return experiments.advance(experiment=round_.experiment, now=now)


# Grace


def test_with_its_least_tokens_a_round_gives_devices_at_work_their_grace(now: datetime) -> None:
    round_ = make_quorum_round()
    assert reaper.reap(now=now).merge == []
    assert deadline_of(round_) == now + GRACE
    assert reaper.reap(now=now + GRACE - MOMENT).merge == []
    assert reaper.reap(now=now + GRACE).merge == [round_.pk]
    assert Attempt.objects.filter(state=State.RUNNING).count() == 1


@pytest.mark.parametrize(("grace_seconds", "accepted"), [(60, 2 * BATCH - 1), (60, 0), (0, 0), (None, 2 * BATCH)])
def test_without_a_quorum_or_a_grace_the_deadline_stays(
    grace_seconds: int | None, accepted: int, now: datetime
) -> None:
    round_ = make_quorum_round(grace_seconds=grace_seconds, accepted=accepted)
    before = deadline_of(round_)
    assert reaper.reap(now=now).merge == []
    assert deadline_of(round_) == before


@pytest.mark.parametrize("seconds_left", [0, 59, 60])
def test_a_grace_never_makes_the_deadline_later(seconds_left: int, now: datetime) -> None:
    deadline = now + timedelta(seconds=seconds_left)
    round_ = make_quorum_round(next_transition_at=deadline)
    assert not rounds.begin_grace(round_, now=now)
    assert deadline_of(round_) == deadline


def test_a_further_delta_gives_no_further_grace(now: datetime) -> None:
    round_ = make_quorum_round()
    assert rounds.begin_grace(round_, now=now)
    make_accepted_attempt(job=make_job(round_=round_, token_budget=BATCH))
    assert not rounds.begin_grace(Round.objects.get(pk=round_.pk), now=now + timedelta(seconds=30))
    assert deadline_of(round_) == now + GRACE


def test_of_two_graces_at_once_the_first_counts(now: datetime) -> None:
    round_ = make_quorum_round()
    stale = Round.objects.get(pk=round_.pk)
    assert rounds.begin_grace(round_, now=now)
    assert not rounds.begin_grace(stale, now=now + MOMENT)
    assert deadline_of(round_) == now + GRACE


def test_a_round_that_is_being_merged_keeps_its_lease(now: datetime) -> None:
    round_ = make_quorum_round()
    stale = Round.objects.get(pk=round_.pk)
    rounds.begin_merge(round_=round_, now=now)
    assert not rounds.begin_grace(stale, now=now)
    assert deadline_of(round_) == leases.until(now)


def test_partial_deltas_make_a_quorum(now: datetime) -> None:
    round_ = make_quorum_round(accepted=0)
    for _ in range(4):
        make_accepted_attempt(job=make_job(round_=round_, token_budget=BATCH), verified_tokens=BATCH // 2)
    reaper.reap(now=now)
    assert deadline_of(round_) == now + GRACE


def test_deltas_too_old_for_the_round_make_no_quorum(now: datetime) -> None:
    experiment = make_experiment(round_min_tokens=BATCH, round_tokens=10 * BATCH, grace_seconds=0, max_staleness=0)
    before = make_closed_round(experiment=experiment, number=1, validation_loss=6.0)
    make_accepted_attempt(job=make_job(round_=before, token_budget=BATCH))
    round_ = make_round(experiment=experiment, number=2)
    assert reaper.reap(now=now).merge == []
    assert deadline_of(round_) == round_.next_transition_at


def test_a_round_that_opens_with_its_least_tokens_there_begins_with_its_grace(now: datetime) -> None:
    round_ = make_quorum_round()
    rounds.begin_merge(round_=round_, now=now)
    make_accepted_attempt(job=make_job(round_=round_, token_budget=2 * BATCH))
    Round.objects.filter(pk=round_.pk).update(state=Round.State.CLOSED)
    following = make_round(experiment=round_.experiment, number=2)
    reaper.reap(now=now)
    assert deadline_of(following) == now + GRACE


# Merging as deltas arrive


def make_asynchronous(num_devices: int, *, job_tokens: int = 2 * BATCH, now: datetime) -> Experiment:
    """Each delta is merged as it arrives, and every device has a job of `job_tokens` at all times."""
    experiment = make_experiment(
        round_tokens=num_devices * job_tokens,
        round_min_tokens=1,
        grace_seconds=0,
        max_staleness=8,
        staleness_percent=50,
        job_seconds=100,
        num_rounds=100,
    )
    make_shard(experiment=experiment)
    make_checkpoint(experiment=experiment)
    rounds.open_next(experiment=experiment, now=now)
    for _ in range(num_devices):
        make_enrollment(device=make_device(), experiment=experiment, tokens_per_second=job_tokens / 100)
    return experiment


def accept(attempt: Attempt) -> None:
    Attempt.objects.filter(pk=attempt.pk).update(
        state=State.ACCEPTED, verified_tokens=attempt.token_budget, next_transition_at=None
    )


def test_each_delta_is_merged_as_it_arrives_and_its_device_goes_on_from_the_newest_base(now: datetime) -> None:
    experiment = make_asynchronous(4, now=now)
    queue = dispatch.dispatch(now=now)
    assert [attempt.token_budget for attempt in queue] == [2 * BATCH] * 4
    rounds_late = []
    for number in range(1, 13):
        done = queue.pop(0)
        accept(done)
        round_ = Round.objects.select_related("experiment").get(state=Round.State.OPEN)
        assert round_.number == number
        assert reaper.reap(now=now).merge == [round_.pk]
        round_.refresh_from_db()
        (merged,) = rounds.begin_merge(round_=round_, now=now)
        finish(round_, now)
        assert merged.pk == done.pk
        rounds_late.append(number - done.job.round.number)
        assert merged.weight == 2 * BATCH * 0.5 ** rounds_late[-1]
        (again,) = dispatch.dispatch(now=now)
        assert (again.device_id, again.token_budget) == (done.device_id, 2 * BATCH)
        assert again.job.round.base == experiment.checkpoints.latest("number")
        assert again.job.round.base.number == number
        queue.append(again)
    # Four devices at one speed: once all have begun anew, each is late by the three others.
    assert rounds_late == [0, 1, 2, 3] + [3] * 8


def test_a_device_that_is_idle_while_deltas_are_merged_is_given_nothing_of_the_old_round(now: datetime) -> None:
    make_asynchronous(2, now=now)
    first, _ = dispatch.dispatch(now=now)
    accept(first)
    round_ = Round.objects.select_related("experiment").get(state=Round.State.OPEN)
    rounds.begin_merge(round_=round_, now=now)
    assert dispatch.dispatch(now=now) == []


def test_deltas_that_arrive_during_a_merge_are_merged_together_in_the_next(now: datetime) -> None:
    make_asynchronous(4, now=now)
    attempts = dispatch.dispatch(now=now)
    accept(attempts[0])
    round_ = Round.objects.select_related("experiment").get(state=Round.State.OPEN)
    rounds.begin_merge(round_=round_, now=now)
    for attempt in attempts[1:]:
        accept(attempt)
    following = finish(round_, now)
    assert following is not None
    assert reaper.reap(now=now).merge == [following.pk]
    following.refresh_from_db()
    merged = rounds.begin_merge(round_=following, now=now)
    assert {attempt.pk: attempt.weight for attempt in merged} == {attempt.pk: BATCH for attempt in attempts[1:]}


# Weights of late deltas


@pytest.mark.parametrize("percent", [100, 50, 90])
def test_a_late_deltas_weight_falls_with_each_round_until_it_is_too_late(percent: int, now: datetime) -> None:
    experiment = make_experiment(max_staleness=8, staleness_percent=percent, num_rounds=20)
    jobs = [
        make_job(
            round_=make_closed_round(experiment=experiment, number=number, validation_loss=6.0), token_budget=BATCH
        )
        for number in range(1, 10)
    ]
    late = [make_accepted_attempt(job=job) for job in jobs]
    round_ = make_round(experiment=experiment, number=10)
    reaper.reap(now=now)
    taken = {attempt.pk: attempt.weight for attempt in rounds.begin_merge(round_=round_, now=now)}
    # Of round 2 it is 8 rounds late, and of round 1 too late by one.
    assert taken.keys() == {attempt.pk for attempt in late[1:]}
    for rounds_late, attempt in enumerate(reversed(late[1:]), start=1):
        assert taken[attempt.pk] == pytest.approx(BATCH * (percent / 100) ** rounds_late, rel=1e-12)
    late[0].refresh_from_db()
    assert (late[0].state, late[0].reason) == (State.LATE, Reason.TOO_LATE)
