import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fai.activity import Activity
from fai.measuring import Measuring
from fai.speed import Speed, Speeds
from fai.stop import Stop
from ml import hardware
from ml.protocol import DeviceState, Directives
from tests.fai.coordinator import NOTHING_TO_DO, Coordinator
from tests.fai.make import INNER, MODEL, RecordingScreen, make_client, make_experiment, wait_until

NAMED = dataclasses.replace(NOTHING_TO_DO, experiment="tiny", reason="speed_not_measured")


class Measurer:
    """A measuring, and what it told."""

    def __init__(self, coordinator: Coordinator, folder: Path) -> None:
        self.client = make_client(coordinator)
        self.speeds = Speeds(folder / "speeds.json", machine=hardware.detect())
        self.activity = Activity(experiment=None)
        self.screen = RecordingScreen()
        self.stops: list[Stop] = []
        self.measuring = Measuring(
            client=self.client,
            speeds=self.speeds,
            activity=self.activity,
            screen=self.screen,
            working=threading.Lock(),
            on_stop=self.stops.append,
        )

    def hear(self, directives: Directives, *, wanted: str | None = None, is_idle: bool = True) -> None:
        self.measuring.consider(directives, wanted=wanted, is_idle=is_idle)
        wait_until(lambda: not self.measuring.is_busy)


@pytest.fixture
def measurer(coordinator: Coordinator, tmp_path: Path) -> Iterator[Measurer]:
    coordinator.experiments["tiny"] = make_experiment()
    measurer = Measurer(coordinator, tmp_path)
    yield measurer
    measurer.client.close()


def test_a_named_experiment_is_measured_and_its_speed_told(measurer: Measurer) -> None:
    measurer.hear(NAMED)
    heartbeat = measurer.activity.heartbeat
    assert heartbeat.experiment == "tiny"
    assert heartbeat.tokens_per_second is not None
    assert heartbeat.tokens_per_second > 0
    assert heartbeat.state == DeviceState.IDLE
    assert measurer.screen.keys == ["measuring", "measured"]


def test_a_speed_that_is_known_is_told_without_measuring(measurer: Measurer) -> None:
    measurer.speeds.observe(MODEL, INNER, Speed(micro_batch=1, tokens_per_second=77.0))
    measurer.hear(NAMED)
    assert measurer.activity.heartbeat.tokens_per_second == 77.0
    assert measurer.screen.keys == []


def test_an_experiment_is_asked_for_once(measurer: Measurer, coordinator: Coordinator) -> None:
    measurer.speeds.observe(MODEL, INNER, Speed(micro_batch=1, tokens_per_second=77.0))
    measurer.hear(NAMED)
    measurer.hear(NAMED)
    assert coordinator.num_requests("GET", "experiments/tiny") == 1


def test_a_busy_device_measures_nothing(measurer: Measurer) -> None:
    measurer.hear(NAMED, is_idle=False)
    assert measurer.activity.heartbeat.tokens_per_second is None


@pytest.mark.parametrize("reason", ["experiment_finished", "experiment_paused"])
def test_a_device_without_a_wish_takes_any_again_when_its_experiment_rests(measurer: Measurer, reason: str) -> None:
    measurer.speeds.observe(MODEL, INNER, Speed(micro_batch=1, tokens_per_second=77.0))
    measurer.hear(NAMED)
    measurer.hear(dataclasses.replace(NAMED, reason=reason))
    assert measurer.activity.heartbeat.experiment is None
    assert measurer.activity.heartbeat.tokens_per_second is None


def test_a_device_with_a_wish_keeps_it(measurer: Measurer) -> None:
    measurer.speeds.observe(MODEL, INNER, Speed(micro_batch=1, tokens_per_second=77.0))
    measurer.hear(NAMED, wanted="tiny")
    measurer.hear(dataclasses.replace(NAMED, reason="experiment_paused"), wanted="tiny")
    assert measurer.activity.heartbeat.experiment == "tiny"


def test_an_experiment_that_cannot_be_read_is_told_and_tried_again(
    measurer: Measurer, coordinator: Coordinator
) -> None:
    coordinator.experiments["tiny"]["model"] = {"layers": 3}
    measurer.hear(NAMED)
    assert measurer.screen.keys == ["trouble"]
    coordinator.experiments["tiny"] = make_experiment()
    measurer.speeds.observe(MODEL, INNER, Speed(micro_batch=1, tokens_per_second=77.0))
    measurer.hear(NAMED)
    assert measurer.activity.heartbeat.tokens_per_second == 77.0
