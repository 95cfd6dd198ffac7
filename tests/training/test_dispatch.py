"""Dispatch: who is offered work, how much, and never more than the round still needs."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contributors.models import Device
from fai_project.celery import app
from ml.protocol import DeviceState
from tests.training.conftest import Heard
from tests.training.make import (
    BATCH,
    make_attempt_in,
    make_contributor,
    make_device,
    make_enrollment,
    make_experiment,
    make_job,
    make_open_round,
    make_round,
    make_shard,
)
from training import dispatch, rounds
from training.models import Attempt, Enrollment, Experiment, Job, Round

pytestmark = pytest.mark.django_db

State = Attempt.State


def enroll(round_: Round, *, speed: float | None = BATCH, is_proven: bool = True, **fields: Any) -> Device:
    """A live, idle device that trains `speed` tokens a second on the round's experiment."""
    device = make_device(**fields)
    if is_proven:
        finished = make_round(experiment=make_experiment(state=Experiment.State.FINISHED), state=Round.State.CLOSED)
        make_attempt_in(State.MERGED, device=device, job=make_job(round_=finished))
    make_enrollment(device=device, experiment=round_.experiment, tokens_per_second=speed)
    return device


def offered(now: datetime) -> dict[int, int]:
    """Token budgets that a dispatch offers, by device."""
    return {attempt.device_id: attempt.token_budget for attempt in dispatch.dispatch(now=now)}


# Sizes


def split(remaining: int, *speeds: float | None, unproven_tokens: int | None = None) -> list[int]:
    """What devices of these speeds get; with `unproven_tokens` nobody has accepted work yet."""
    enrollments = [Enrollment(device=Device(pk=number), tokens_per_second=speed) for number, speed in enumerate(speeds)]
    for enrollment in enrollments:
        enrollment.is_proven = unproven_tokens is None  # type: ignore[attr-defined]
    shares = dispatch.split(
        remaining_tokens=remaining,
        enrollments=enrollments,
        job_seconds=100,
        batch_tokens=BATCH,
        unproven_tokens=unproven_tokens or 0,
    )
    return [share.num_tokens for share in shares]


def test_a_job_lasts_job_seconds_on_its_device_in_whole_steps() -> None:
    assert split(10**9, 1_000.0, 50.0) == [24 * BATCH, BATCH]


def test_a_slow_device_gets_one_step() -> None:
    assert split(10**9, 0.01) == [BATCH]


def test_where_less_is_left_all_are_scaled_down_alike() -> None:
    assert split(100 * BATCH, BATCH * 1.0, BATCH * 3.0) == [25 * BATCH, 75 * BATCH]


def test_a_rest_smaller_than_a_step_is_given_to_nobody() -> None:
    assert split(BATCH - 1, 1_000.0) == []


def test_where_steps_are_too_few_the_first_devices_get_them() -> None:
    assert split(2 * BATCH, 1.0, 1.0, 1.0) == [BATCH, BATCH]


def test_an_unproven_device_gets_a_bounded_first_job_whatever_speed_it_claims() -> None:
    assert split(100 * BATCH, 1e9, unproven_tokens=25 * BATCH) == [25 * BATCH]
    assert split(100 * BATCH, BATCH * 0.1, unproven_tokens=25 * BATCH) == [10 * BATCH]
    assert split(100 * BATCH, 1e9, unproven_tokens=BATCH - 1) == [BATCH]


@given(st.integers(0, 2**50), st.lists(st.floats(0, 1e9), max_size=20))
def test_shares_are_whole_steps_within_what_is_left(remaining: int, speeds: list[float]) -> None:
    shares = split(remaining, *speeds)
    assert sum(shares) <= remaining
    assert all(share >= BATCH and share % BATCH == 0 for share in shares)
    assert bool(shares) == (bool(speeds) and remaining >= BATCH)


def test_a_claimed_speed_counts_in_full_once_work_of_the_device_was_accepted(now: datetime) -> None:
    round_ = make_open_round(target=100 * BATCH)
    liar = enroll(round_, speed=1e9, is_proven=False)
    assert offered(now) == {liar.pk: 25 * BATCH}
    Attempt.objects.filter(device=liar).update(state=State.ACCEPTED, verified_tokens=25 * BATCH)
    assert offered(now) == {liar.pk: 75 * BATCH}


# Whom


def test_an_idle_measured_device_is_offered_a_job_and_rung(now: datetime) -> None:
    round_ = make_open_round()
    device = enroll(round_)
    (attempt,) = dispatch.dispatch(now=now)
    assert (attempt.device, attempt.state, attempt.token_budget) == (device, State.OFFERED, 100 * BATCH)
    assert (attempt.job.round, attempt.job.token_budget) == (round_, 100 * BATCH)


@pytest.mark.parametrize(
    "fields",
    [
        {"state": DeviceState.MEASURING},
        {"state": DeviceState.TRAINING},
        {"state": DeviceState.LEAVING},
        {"speed": None},
        {"speed": 0.0},
        {"last_seen_at": datetime.fromisoformat("2026-05-01T11:58:30Z")},
    ],
)
def test_a_device_that_is_busy_unmeasured_or_silent_is_offered_nothing(fields: Any, now: datetime) -> None:
    round_ = make_open_round()
    enroll(round_, **fields)
    assert offered(now) == {}


def test_a_banned_contributors_device_is_offered_nothing(now: datetime) -> None:
    enroll(make_open_round(), contributor=make_contributor(banned_at=now))
    assert offered(now) == {}


@pytest.mark.parametrize("state", [State.OFFERED, State.RUNNING])
def test_a_device_with_an_attempt_under_way_is_offered_nothing(state: str, now: datetime) -> None:
    round_ = make_open_round()
    make_attempt_in(state, job=make_job(round_=round_), device=enroll(round_))
    assert offered(now) == {}


def test_a_device_that_chose_another_experiment_is_left_to_it(now: datetime) -> None:
    before, chosen = make_open_round(), make_open_round()
    device = enroll(before, last_seen_at=now - timedelta(seconds=5))
    make_enrollment(device=device, experiment=chosen.experiment, updated_at=now)
    (attempt,) = dispatch.dispatch(now=now)
    assert attempt.job.round == chosen


@pytest.mark.parametrize(
    ("ends", "age", "is_offered"),
    [
        ([State.FAILED, State.REJECTED, State.FAILED], timedelta(minutes=29), False),
        ([State.FAILED, State.REJECTED, State.FAILED], timedelta(minutes=30), True),
        ([State.FAILED, State.REJECTED], timedelta(0), True),
        ([State.RELEASED, State.LEASE_EXPIRED, State.OFFER_EXPIRED, State.CANCELLED], timedelta(0), True),
    ],
)
def test_a_device_rests_after_three_faults_of_its_own(
    ends: list[str], age: timedelta, is_offered: bool, now: datetime
) -> None:
    round_ = make_open_round()
    device = enroll(round_)
    for state in ends:
        make_attempt_in(state, device=device, ended_at=now - age)
    assert (device.pk in offered(now)) is is_offered


@pytest.mark.parametrize("state", sorted(set(Experiment.State) - {Experiment.State.RUNNING}))
def test_an_experiment_that_does_not_run_offers_nothing(state: str, now: datetime) -> None:
    enroll(make_open_round(state=state))
    assert offered(now) == {}


@pytest.mark.parametrize("state", sorted(set(Round.State) - {Round.State.OPEN}))
def test_a_round_that_is_not_open_offers_nothing(state: str, now: datetime) -> None:
    round_ = make_open_round()
    enroll(round_)
    Round.objects.update(state=state)
    assert offered(now) == {}
    assert dispatch.fill(round_pk=round_.pk, now=now) == []


def test_a_pause_between_two_looks_stops_the_offers(now: datetime) -> None:
    round_ = make_open_round()
    enroll(round_)
    Experiment.objects.update(state=Experiment.State.PAUSED)
    assert dispatch.fill(round_pk=round_.pk, now=now) == []


# How much


def test_the_target_is_never_exceeded_whatever_is_under_way(now: datetime) -> None:
    round_ = make_open_round(target=100 * BATCH + 17)
    make_attempt_in(State.RUNNING, job=make_job(round_=round_, token_budget=30 * BATCH))
    make_attempt_in(State.ACCEPTED, job=make_job(round_=round_, token_budget=20 * BATCH))
    for _ in range(3):
        enroll(round_)
    budgets = offered(now)
    assert sum(budgets.values()) <= 50 * BATCH + 17
    assert len(budgets) == 3
    enroll(round_)
    offered(now)
    allocation = rounds.allocation(round_)
    assert allocation.accepted_tokens + allocation.live_tokens <= allocation.target_tokens


def test_a_second_dispatch_offers_only_what_the_first_left(now: datetime) -> None:
    round_ = make_open_round(target=150 * BATCH)
    first = enroll(round_)
    assert offered(now) == {first.pk: 100 * BATCH}
    second = enroll(round_)
    assert offered(now) == {second.pk: 50 * BATCH}
    enroll(round_)
    assert offered(now) == {}


# Jobs


def spoil(job: Job, state: str, times: int) -> None:
    for _ in range(times):
        make_attempt_in(state, job=job)


def test_an_orphan_is_offered_before_a_new_job(now: datetime) -> None:
    round_ = make_open_round()
    orphan = make_job(round_=round_, token_budget=BATCH)
    spoil(orphan, State.LEASE_EXPIRED, 1)
    device = enroll(round_)
    (attempt,) = dispatch.dispatch(now=now)
    # The budget is the device's, not that of the device which lost the job.
    assert (attempt.job, attempt.device, attempt.token_budget) == (orphan, device, 100 * BATCH)


@pytest.mark.parametrize(
    ("state", "times", "is_orphan"),
    [
        (State.OFFER_EXPIRED, 5, True),
        (State.OFFER_EXPIRED, 6, False),
        (State.FAILED, 2, True),
        (State.FAILED, 3, False),
        (State.REJECTED, 1, True),
        (State.REJECTED, 2, False),
        (State.RELEASED, 5, True),
        (State.SUBMITTED, 1, False),
        (State.ACCEPTED, 1, False),
        (State.MERGED, 1, False),
        (State.LATE, 1, False),
    ],
)
def test_a_job_is_given_up_after_its_limits(state: str, times: int, is_orphan: bool) -> None:
    job = make_job(round_=make_open_round())
    spoil(job, state, times)
    assert dispatch.orphan_jobs(job.round).contains(job) is is_orphan


def test_a_given_up_job_does_not_keep_its_tokens_from_the_round(now: datetime) -> None:
    round_ = make_open_round(target=100 * BATCH)
    given_up = make_job(round_=round_, token_budget=100 * BATCH)
    spoil(given_up, State.REJECTED, 2)
    enroll(round_)
    (attempt,) = dispatch.dispatch(now=now)
    assert attempt.job != given_up
    assert attempt.token_budget == 100 * BATCH


def test_new_jobs_go_round_the_shards_with_seeds_of_their_own(now: datetime) -> None:
    round_ = make_open_round()
    make_shard(experiment=round_.experiment)
    for _ in range(4):
        enroll(round_)
    new = [attempt.job for attempt in dispatch.dispatch(now=now)]
    assert [job.index for job in new] == [0, 1, 2, 3]
    assert len({job.seed for job in new}) == 4
    assert [job.shard_id for job in new[:2]] == [job.shard_id for job in new[2:]]
    assert new[0].shard_id != new[1].shard_id


def test_a_job_has_the_same_seed_wherever_it_is_made_again(now: datetime) -> None:
    round_ = make_open_round(slug="family-gpt")
    enroll(round_)
    (attempt,) = dispatch.dispatch(now=now)
    assert attempt.job.seed == 62_418_629_862_237_419


def test_an_experiment_without_shards_offers_nothing(now: datetime) -> None:
    round_ = make_round(experiment=make_experiment())
    enroll(round_)
    assert offered(now) == {}


def test_the_number_of_queries_does_not_grow_with_the_number_of_devices_but_by_their_offers(
    now: datetime, django_assert_max_num_queries: Any
) -> None:
    round_ = make_open_round(target=10**9)
    for _ in range(10):
        enroll(round_)
    # Per offer: savepoint, insert, release.
    with django_assert_max_num_queries(12 + 3 * 10):
        assert len(dispatch.dispatch(now=now)) == 10


# Redis


@pytest.mark.django_db(transaction=True)
def test_without_redis_the_offers_stand(now: datetime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.conf, "broker_url", "redis://127.0.0.1:1/0")
    round_ = make_open_round()
    device = enroll(round_)
    assert offered(now) == {device.pk: 100 * BATCH}
    assert Attempt.objects.claimable(now).filter(device=device).exists()


@pytest.mark.django_db(transaction=True)
def test_every_offered_device_is_rung(now: datetime, heard: Heard) -> None:
    round_ = make_open_round()
    devices = [enroll(round_) for _ in range(3)]
    attempts = {attempt.device_id: attempt for attempt in dispatch.dispatch(now=now)}
    for device in devices:
        attempt = attempts[device.pk]
        assert heard(f"w:{device.pk}:jobs") == [[attempt.pk, attempt.nonce]]
