"""Heartbeats: what they keep alive, what they answer, and the reason for every idle second."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from contributors import ledger
from contributors.models import Device
from ml.protocol import DeviceState, Directives, Heartbeat, Reason
from tests.training.conftest import Heard
from tests.training.make import (
    make_attempt_in,
    make_contributor,
    make_device,
    make_enrollment,
    make_experiment,
    make_job,
    make_round,
)
from training import devices
from training.models import Attempt, Enrollment, Experiment, Round

pytestmark = pytest.mark.django_db

State = Attempt.State


@pytest.fixture
def device() -> Device:
    return make_device(last_seen_at=None)


def beat(device: Device, now: datetime, **fields: Any) -> Directives:
    heartbeat: dict[str, Any] = {
        "state": DeviceState.IDLE,
        "experiment": None,
        "tokens_per_second": None,
        "attempt_id": None,
        "progress_tokens": None,
        "progress_loss": None,
    }
    return devices.beat(device=device, heartbeat=Heartbeat(**{**heartbeat, **fields}), now=now)


def test_a_device_is_found_by_its_contributor_alone(device: Device) -> None:
    assert devices.find(device_id=device.pk, contributor=device.contributor) == device
    with pytest.raises(devices.DeviceNotFound):
        devices.find(device_id=device.pk, contributor=make_contributor())


def test_a_sign_of_life_is_recorded_with_state_and_reason(device: Device, now: datetime) -> None:
    beat(device, now)
    device.refresh_from_db()
    assert (device.last_seen_at, device.state, device.idle_reason) == (now, "idle", Reason.NO_EXPERIMENT)
    beat(device, now, state=DeviceState.TRAINING)
    device.refresh_from_db()
    assert (device.state, device.idle_reason) == ("training", "")


# Choosing an experiment


def test_a_device_without_a_wish_works_on_the_newest_that_runs(device: Device, now: datetime) -> None:
    make_experiment(started_at=now - timedelta(days=2))
    newest = make_experiment(started_at=now - timedelta(days=1))
    make_experiment(started_at=now, state=Experiment.State.PAUSED)
    assert beat(device, now).experiment == newest.slug
    assert Enrollment.objects.get(device=device).experiment == newest


def test_a_device_gets_the_experiment_that_it_names(device: Device, now: datetime) -> None:
    make_experiment(started_at=now)
    wanted = make_experiment(started_at=now - timedelta(days=9))
    assert beat(device, now, experiment=wanted.slug).experiment == wanted.slug


def test_an_unknown_experiment_is_none(device: Device, now: datetime) -> None:
    directives = beat(device, now, experiment="unknown")
    assert (directives.experiment, directives.reason) == (None, Reason.NO_EXPERIMENT)


def test_a_measured_speed_stays_until_it_is_measured_again(device: Device, now: datetime) -> None:
    make_experiment()
    for measured, known in ((None, None), (900.0, 900.0), (None, 900.0), (800.0, 800.0)):
        beat(device, now, tokens_per_second=measured)
        assert Enrollment.objects.get().tokens_per_second == known


def test_an_enrollment_is_as_fresh_as_the_last_heartbeat(device: Device, now: datetime) -> None:
    make_experiment()
    beat(device, now)
    beat(device, now + timedelta(seconds=30))
    assert Enrollment.objects.get().updated_at == now + timedelta(seconds=30)


# Reasons


def make_idle_world(*, speed: float | None = 1_000.0, **fields: Any) -> tuple[Device, Round]:
    round_ = make_round(experiment=make_experiment(round_tokens=100_000, **fields))
    device = make_device()
    make_enrollment(device=device, experiment=round_.experiment, tokens_per_second=speed)
    return device, round_


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (Experiment.State.DRAFT, Reason.EXPERIMENT_PREPARING),
        (Experiment.State.PREPARING, Reason.EXPERIMENT_PREPARING),
        (Experiment.State.PAUSED, Reason.EXPERIMENT_PAUSED),
        (Experiment.State.FINISHED, Reason.EXPERIMENT_FINISHED),
    ],
)
def test_a_device_on_an_experiment_that_does_not_run_is_told_why(state: str, reason: Reason, now: datetime) -> None:
    device, round_ = make_idle_world(state=state)
    assert beat(device, now, experiment=round_.experiment.slug).reason == reason


def test_an_unmeasured_device_is_told_to_measure(now: datetime) -> None:
    device, _ = make_idle_world(speed=None)
    assert beat(device, now).reason == Reason.SPEED_UNKNOWN


def test_a_device_that_will_be_offered_work_next_is_given_no_reason(now: datetime) -> None:
    device, _ = make_idle_world()
    assert beat(device, now).reason is None


def test_a_device_is_told_that_the_round_is_given_out(now: datetime) -> None:
    device, round_ = make_idle_world()
    make_attempt_in(State.RUNNING, job=make_job(round_=round_, token_budget=100_000))
    assert beat(device, now).reason == Reason.ROUND_FULL


@pytest.mark.parametrize("state", [Round.State.MERGING, Round.State.EVALUATING, Round.State.CLOSED])
def test_a_device_between_two_rounds_is_told_that_the_round_is_merged(state: str, now: datetime) -> None:
    device, round_ = make_idle_world()
    Round.objects.filter(pk=round_.pk).update(state=state)
    assert beat(device, now).reason == Reason.ROUND_CLOSING


def test_a_device_that_rests_after_faults_is_told_so(now: datetime) -> None:
    device, round_ = make_idle_world()
    for _ in range(3):
        make_attempt_in(State.REJECTED, job=make_job(round_=round_), device=device, ended_at=now)
    assert beat(device, now).reason == Reason.TOO_MANY_FAULTS


@pytest.mark.parametrize("state", sorted(set(DeviceState) - {DeviceState.IDLE}))
def test_a_device_that_is_busy_needs_no_reason(state: DeviceState, device: Device, now: datetime) -> None:
    assert beat(device, now, state=state).reason is None


# Offers


def make_offer(device: Device, now: datetime, *, age: timedelta = timedelta(0)) -> Attempt:
    return make_attempt_in(State.OFFERED, device=device, offered_at=now - age)


def test_a_pending_offer_is_said(device: Device, now: datetime) -> None:
    make_offer(device, now)
    directives = beat(device, now)
    assert (directives.offer_pending, directives.reason) == (True, Reason.OFFER_PENDING)


def test_an_offer_that_ran_out_is_not_pending(device: Device, now: datetime) -> None:
    make_attempt_in(State.OFFERED, device=device, next_transition_at=now)
    assert not beat(device, now).offer_pending


@pytest.mark.parametrize(
    ("age", "state", "rings"),
    [
        (devices.RING_AGAIN, DeviceState.IDLE, 1),
        (devices.RING_AGAIN - timedelta(microseconds=1), DeviceState.IDLE, 0),
        (devices.RING_AGAIN, DeviceState.MEASURING, 0),
    ],
)
def test_an_idle_device_that_did_not_hear_of_an_offer_is_rung_again(
    age: timedelta, state: DeviceState, rings: int, device: Device, now: datetime, heard: Heard
) -> None:
    offer = make_offer(device, now, age=age)
    beat(device, now, state=state)
    assert heard(f"w:{device.pk}:jobs") == [[offer.pk, offer.nonce]] * rings


def test_a_device_that_leaves_gives_its_offer_back(device: Device, now: datetime) -> None:
    offer = make_offer(device, now)
    beat(device, now, state=DeviceState.LEAVING)
    offer.refresh_from_db()
    assert (offer.state, offer.reason) == (State.RELEASED, Reason.RELEASED)


# Attempts under way


def test_a_heartbeat_keeps_the_attempt_and_its_progress(device: Device, now: datetime) -> None:
    attempt = make_attempt_in(State.RUNNING, device=device)
    directives = beat(
        device, now, state=DeviceState.TRAINING, attempt_id=attempt.pk, progress_tokens=512, progress_loss=6.0
    )
    assert (directives.cancel_attempt, directives.reason) == (False, None)
    attempt.refresh_from_db()
    assert (attempt.progress_tokens, attempt.progress_loss) == (512, 6.0)


@pytest.mark.parametrize("state", [DeviceState.TRAINING, DeviceState.IDLE])
def test_a_lost_attempt_is_cancelled_with_its_reason(state: DeviceState, device: Device, now: datetime) -> None:
    attempt = make_attempt_in(State.CANCELLED, device=device, reason=Reason.EXPERIMENT_FINISHED)
    directives = beat(device, now, state=state, attempt_id=attempt.pk)
    assert (directives.cancel_attempt, directives.reason) == (True, Reason.EXPERIMENT_FINISHED)


def test_an_attempt_of_nobody_is_cancelled(device: Device, now: datetime) -> None:
    assert beat(device, now, state=DeviceState.TRAINING, attempt_id=10**6).cancel_attempt


# Credits


def test_the_contributors_credits_and_what_is_quoted_are_said(now: datetime) -> None:
    contributor = make_contributor()
    device = make_device(contributor=contributor)
    ledger.earn(contributor=contributor, amount=70, source="attempt:1", release_at=None, now=now)
    ledger.earn(contributor=contributor, amount=5, source="attempt:2", release_at=now + timedelta(days=1), now=now)
    for number, state in enumerate(State):
        make_attempt_in(state, device=make_device(contributor=contributor), quoted_credits=10**number)
    directives = beat(device, now)
    assert (directives.available_credits, directives.escrow_credits) == (70, 5)
    # RUNNING, SUBMITTED and VALIDATING; an offer that nobody claimed is no income.
    assert directives.pending_credits == 10 + 100 + 1_000


# Who is live


@pytest.mark.parametrize(
    ("seen", "state", "is_live"),
    [
        (timedelta(seconds=89), DeviceState.TRAINING, True),
        (timedelta(seconds=90), DeviceState.TRAINING, False),
        (timedelta(seconds=0), DeviceState.LEAVING, False),
    ],
)
def test_a_device_is_live_for_three_heartbeats(
    seen: timedelta, state: DeviceState, is_live: bool, now: datetime
) -> None:
    device = make_device(last_seen_at=now - seen, state=state)
    assert devices.live(now=now).contains(device) is is_live


# Cost


def test_a_working_devices_heartbeat_costs_at_most_six_queries(
    device: Device, now: datetime, django_assert_max_num_queries: Any
) -> None:
    attempt = make_attempt_in(State.RUNNING, device=device)
    with django_assert_max_num_queries(6):
        beat(device, now, state=DeviceState.TRAINING, attempt_id=attempt.pk)


def test_an_idle_devices_heartbeat_costs_at_most_ten_queries(now: datetime, django_assert_max_num_queries: Any) -> None:
    device, _ = make_idle_world()
    with django_assert_max_num_queries(10):
        beat(device, now, tokens_per_second=1_000.0)
