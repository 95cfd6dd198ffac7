"""The thread that loads checkpoints, beside an engine that is not running, over a real Redis."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis

from fai_project.redis_server import RedisServer
from inference import wire
from inference.engine import serving
from inference.engine.loader import Loader
from inference.engine.loop import Engine
from inference.engine.mailbox import Mailbox
from tests.inference.make import make_served_experiment

pytestmark = pytest.mark.django_db(transaction=True)
NO_NAME = b"\xff"
"""What no web process writes among the wanted names, and nobody foresaw."""


@pytest.fixture
def redis(redis_server: RedisServer) -> Iterator[Redis]:
    with Redis.from_url(redis_server.url) as client:
        client.delete(wire.WANTED_KEY)
        yield client
        client.delete(wire.WANTED_KEY)


def wait_for(found: Callable[[], object], *, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_loading_thread_survives_what_nobody_foresaw_and_says_so(
    storage: Path,
    tmp_path: Path,
    redis_server: RedisServer,
    redis: Redis,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(serving, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(serving, "POLL_SECONDS", 0.01)
    checkpoint = make_served_experiment(tmp_path).checkpoints.get()
    redis.zadd(wire.WANTED_KEY, {NO_NAME: time.time()})
    stop = threading.Event()
    mailbox = Mailbox(redis_server.url, engine_id="engine")
    engine = Engine(mailbox, engine_id="engine", stop=stop, grace_seconds=0)
    loader = Loader(experiment=None, num_slots=1, device="cpu", max_extra_models=1)
    thread = threading.Thread(target=serving.keep_loaded, args=(engine, loader, mailbox, stop))
    thread.start()
    try:
        wait_for(lambda: loader.problems)
        assert [problem.subject for problem in loader.problems] == ["loader"]
        assert "UnicodeDecodeError" in loader.problems[0].message
        assert "Traceback" in caplog.text
        redis.zrem(wire.WANTED_KEY, NO_NAME)
        name, runner = engine.installed.get(timeout=20)
        assert (name, runner.sha256 if runner else "") == ("study", checkpoint.blob_id)
        wait_for(lambda: not loader.problems)
    finally:
        stop.set()
        thread.join()
