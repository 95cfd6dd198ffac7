import dataclasses
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fai import heartbeat as heartbeat_module
from fai.activity import IDLE, Activity
from fai.client import CoordinatorError
from fai.contact import PatientContact
from fai.heartbeat import DeafnessWatch, Heart
from ml.protocol import DeviceState, Directives, Heartbeat
from tests.fai.coordinator import NOTHING_TO_DO, Coordinator, Problem
from tests.fai.make import make_client, wait_until

PENDING = dataclasses.replace(NOTHING_TO_DO, offer_pending=True)


class Beating:
    """A heart and what it heard."""

    def __init__(self, coordinator: Coordinator, *, interval_seconds: float) -> None:
        self.activity = Activity(experiment="tiny")
        self.heard: list[tuple[Heartbeat, Directives]] = []
        self.refusals: list[CoordinatorError] = []
        self.client = make_client(coordinator)
        self.heart = Heart(
            client=self.client,
            contact=PatientContact(),
            activity=self.activity,
            device_id=1,
            interval_seconds=interval_seconds,
            on_directives=lambda beat, directives: self.heard.append((beat, directives)),
            on_refusal=self.refusals.append,
        )
        self.heart.start()


@pytest.fixture
def beat(coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[float], Beating]]:
    monkeypatch.setattr(heartbeat_module, "LEAST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(heartbeat_module, "RETRY_SECONDS", 0.05)
    started: list[Beating] = []

    def start(interval_seconds: float) -> Beating:
        started.append(Beating(coordinator, interval_seconds=interval_seconds))
        return started[-1]

    yield start
    for one in started:
        one.heart.close()
        one.client.close()


def test_a_heart_beats_at_its_interval(coordinator: Coordinator, beat: Callable[[float], Beating]) -> None:
    beating = beat(0.05)
    wait_until(lambda: len(coordinator.heartbeats) >= 3)
    assert coordinator.heartbeats[0]["experiment"] == "tiny"
    assert beating.heard[0][1] == NOTHING_TO_DO


def test_a_change_of_state_is_told_at_once(coordinator: Coordinator, beat: Callable[[float], Beating]) -> None:
    beating = beat(3_600)
    wait_until(lambda: len(coordinator.heartbeats) == 1)
    beating.activity.change(state=DeviceState.TRAINING, attempt_id=4)
    wait_until(lambda: len(coordinator.heartbeats) == 2)
    assert (coordinator.heartbeats[1]["state"], coordinator.heartbeats[1]["attempt_id"]) == ("training", 4)


def test_progress_waits_for_the_next_beat(coordinator: Coordinator, beat: Callable[[float], Beating]) -> None:
    beating = beat(0.3)
    wait_until(lambda: len(coordinator.heartbeats) == 1)
    beating.activity.progress(tokens=64, loss=2.5)
    wait_until(lambda: len(coordinator.heartbeats) == 2)
    assert (coordinator.heartbeats[1]["progress_tokens"], coordinator.heartbeats[1]["progress_loss"]) == (64, 2.5)


def test_a_heart_outlives_a_coordinator_that_is_away(
    coordinator: Coordinator, beat: Callable[[float], Beating]
) -> None:
    beating = beat(0.05)
    wait_until(lambda: len(beating.heard) >= 1)
    coordinator.stop()
    num_heard = len(beating.heard)
    threading.Event().wait(0.3)
    coordinator.start()
    wait_until(lambda: len(beating.heard) > num_heard + 1)


def test_a_refusal_is_passed_on(coordinator: Coordinator, beat: Callable[[float], Beating]) -> None:
    def hook(method: str, path: str) -> None:
        raise Problem(401, "key_revoked")

    coordinator.hook = hook
    beating = beat(3_600)
    wait_until(lambda: len(beating.refusals) == 1)
    assert beating.refusals[0].is_final_for_device


def test_a_closed_heart_has_said_that_it_leaves(coordinator: Coordinator, beat: Callable[[float], Beating]) -> None:
    beating = beat(3_600)
    wait_until(lambda: len(coordinator.heartbeats) == 1)
    beating.heart.close()
    assert coordinator.heartbeats[-1]["state"] == "leaving"


def test_an_idle_device_whose_offer_waits_is_deaf(tmp_path: Path) -> None:
    watch = DeafnessWatch(limit_seconds=0.0)
    assert watch.is_deaf(IDLE, PENDING)


def test_a_device_is_not_deaf_before_the_limit() -> None:
    watch = DeafnessWatch(limit_seconds=3_600)
    assert not watch.is_deaf(IDLE, PENDING)
    assert not watch.is_deaf(IDLE, PENDING)


@pytest.mark.parametrize(
    ("beat_", "directives"),
    [(dataclasses.replace(IDLE, state=DeviceState.TRAINING), PENDING), (IDLE, NOTHING_TO_DO)],
)
def test_a_busy_device_or_one_without_an_offer_is_not_deaf(beat_: Heartbeat, directives: Directives) -> None:
    assert not DeafnessWatch(limit_seconds=0.0).is_deaf(beat_, directives)
