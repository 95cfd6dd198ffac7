"""Rings reach the right queue, and nobody waits for a Redis that is away or hangs."""

import socket
import time
from collections.abc import Iterator

import pytest

from fai_project.celery import app
from fai_project.redis_server import RedisServer
from tests.training.conftest import Heard
from training import doorbell


@pytest.fixture
def silent_address() -> Iterator[str]:
    """Something that accepts connections and never answers, as a Redis that is stopped."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"redis://127.0.0.1:{server.getsockname()[1]}/0"


def ring() -> float:
    """Seconds that a ring took."""
    begun = time.monotonic()
    doorbell.ring_device(device_id=7, attempt_id=42, nonce="abc")
    return time.monotonic() - begun


def test_a_device_hears_its_own_attempt_and_nonce(heard: Heard) -> None:
    ring()
    assert heard("w:7:jobs") == [[42, "abc"]]


def test_a_validation_is_asked_for_on_the_data_queue(heard: Heard) -> None:
    doorbell.ring_validation(attempt_id=42)
    assert heard("data") == [[42]]


def test_each_task_of_the_control_plane_is_rung_on_its_queue(heard: Heard) -> None:
    doorbell.ring_worker("training.tasks.merge", 1)
    doorbell.ring_worker("training.tasks.evaluate", 2)
    doorbell.ring_worker("training.tasks.prepare", 3)
    assert [heard(queue) for queue in ("merge", "evaluate", "data")] == [[[1]], [[2]], [[3]]]


def test_a_ring_without_redis_gives_up_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.conf, "broker_url", "redis://127.0.0.1:1/0")
    assert ring() < 3 * doorbell.TIMEOUT_SECONDS


def test_a_hanging_redis_stalls_one_ring_and_no_other(silent_address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.conf, "broker_url", silent_address)
    assert ring() < 3 * doorbell.TIMEOUT_SECONDS
    assert sum(ring() for _ in range(100)) < doorbell.TIMEOUT_SECONDS


def test_rings_are_heard_again_once_redis_is_back(
    redis_server: RedisServer, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.conf, "broker_url", "redis://127.0.0.1:1/0")
    monkeypatch.setattr(doorbell, "QUIET_SECONDS", 0.0)
    ring()
    monkeypatch.setattr(app.conf, "broker_url", redis_server.url)
    ring()
    with app.connection_for_read(redis_server.url) as connection:
        message = connection.default_channel.basic_get("w:7:jobs", no_ack=True)
    assert message.payload[0] == [42, "abc"]
