"""The engine's loop in a thread, and a real Redis."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis

from fai_project.redis_server import RedisServer
from inference import engine as engine_module
from inference import wire
from inference.engine import Engine
from inference.mailbox import Mailbox
from inference.runner import Runner
from inference.wire import ChoiceTokens, Event, Failed, GenerationRequest, Started
from ml.generation import generate_tokens
from ml.sampling import SamplingParams
from tests.inference.make import make_gpt, make_request, make_runner


class RunningEngine:
    """An engine of its own thread that serves the model `study`."""

    def __init__(self, url: str) -> None:
        self.redis = Redis.from_url(url)
        self.stop = threading.Event()
        self.mailbox = Mailbox(url, engine_id="engine")
        self.engine = Engine(self.mailbox, engine_id="engine", stop=self.stop)
        self.thread = threading.Thread(target=self.engine.run)
        self._last_ids: dict[str, bytes] = {}

    def install(self, runner: Runner) -> None:
        self.engine.installed.put(("study", runner))

    def submit(self, request: GenerationRequest) -> None:
        self.redis.lpush(wire.queue_key(request.model), request.encode())

    def read(self, request_id: str) -> list[Event]:
        """The events that come next; at least one."""
        key = wire.stream_key(request_id)
        reply: Any = self.redis.xread({key: self._last_ids.get(request_id, b"0")}, block=5_000)
        assert reply, f"no event for {request_id} in 5 s"
        entries = reply[0][1]
        self._last_ids[request_id] = entries[-1][0]
        return [event for _, fields in entries for event in wire.decode_events(fields[wire.EVENT_FIELD.encode()])]

    def read_to_the_end(self, request: GenerationRequest) -> tuple[Started, dict[int, list[int]]]:
        """Who began, and the tokens of each choice."""
        events: list[Event] = []
        while sum(isinstance(event, ChoiceTokens) and event.finish_reason is not None for event in events) < (
            request.num_choices
        ):
            events += self.read(request.request_id)
        started, *others = events
        assert isinstance(started, Started)
        tokens: dict[int, list[int]] = {}
        for event in others:
            assert isinstance(event, ChoiceTokens)
            tokens.setdefault(event.index, []).extend(event.tokens)
        return started, tokens


@pytest.fixture
def running(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningEngine]:
    monkeypatch.setattr(engine_module, "IDLE_SECONDS", 0.1)
    engine = RunningEngine(redis_server.url)
    for key in engine.redis.scan_iter("fai:engine:*"):
        engine.redis.delete(key)
    engine.install(make_runner(num_slots=2))
    engine.thread.start()
    yield engine
    engine.stop.set()
    engine.thread.join()
    engine.redis.close()


def expected(request: GenerationRequest, index: int, *, seed: int = 0) -> list[int]:
    params = SamplingParams(seed=request.seed + index, max_tokens=request.max_tokens)
    return list(generate_tokens(make_gpt(seed=seed), request.prompts[index // request.n], params))


def test_a_request_is_answered_choice_by_choice(running: RunningEngine) -> None:
    request = make_request(prompts=((70, 71), (72,)), n=2)
    running.submit(request)
    started, tokens = running.read_to_the_end(request)
    assert started == Started(engine_id="engine", checkpoint_id=0, checkpoint_sha256="0" * 64)
    assert tokens == {index: expected(request, index) for index in range(4)}


def test_requests_share_the_steps(running: RunningEngine) -> None:
    requests = [make_request(f"r{number}", seed=number) for number in range(5)]
    for request in requests:
        running.submit(request)
    for request in requests:
        assert running.read_to_the_end(request)[1] == {0: expected(request, 0)}


def test_a_cancelled_choice_stops_within_a_step_and_the_others_go_on(running: RunningEngine) -> None:
    request = make_request(n=2, max_tokens=60)
    running.redis.sadd(wire.cancel_key("one"), 0)
    running.submit(request)
    events = []
    while not (events and isinstance(events[-1], ChoiceTokens) and events[-1].finish_reason):
        events += running.read("one")
    by_index = [event.index for event in events if isinstance(event, ChoiceTokens)]
    assert by_index.count(0) <= 1
    assert by_index.count(1) == 60


def test_a_request_that_the_model_cannot_take_fails_alone(running: RunningEngine) -> None:
    running.submit(make_request("bad", prompts=((5_000,),)))
    (failed,) = running.read("bad")
    assert isinstance(failed, Failed)
    assert "tokens that the model does not know" in failed.message
    request = make_request("good")
    running.submit(request)
    assert running.read_to_the_end(request)[1] == {0: expected(request, 0)}


def test_after_a_swap_old_requests_end_on_the_old_checkpoint(running: RunningEngine) -> None:
    old = make_request("old", max_tokens=61)
    running.submit(old)
    first = running.read("old")
    running.install(make_runner(num_slots=2, seed=1))
    while len(running.engine._runners) < 2 and running.engine._unfinished:
        time.sleep(0.001)
    new = make_request("new")
    running.submit(new)
    started, tokens = running.read_to_the_end(new)
    assert started.checkpoint_id == 1
    assert tokens == {0: expected(new, 0, seed=1)}
    del running._last_ids["old"]
    started, tokens = running.read_to_the_end(old)
    assert [started] == first[:1]
    assert tokens == {0: expected(old, 0)}


def test_a_stopped_engine_takes_nothing_more_and_fails_what_it_cannot_finish(
    running: RunningEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "GRACE_SECONDS", 0.0)
    running.submit(make_request("begun", max_tokens=61, n=8))
    running.read("begun")
    running.stop.set()
    running.submit(make_request("late"))
    running.thread.join(5)
    assert not running.thread.is_alive()
    del running._last_ids["begun"]
    assert isinstance(running.read("begun")[-1], Failed)
    assert running.redis.llen(wire.queue_key("study")) == 1


def test_an_engine_says_what_it_serves_until_it_leaves(running: RunningEngine) -> None:
    running.mailbox.beat(models=["study", "other"])
    assert running.redis.get(wire.alive_key("engine")) == b'["other", "study"]'
    assert 0 < running.redis.ttl(wire.alive_key("engine")) <= wire.ALIVE_SECONDS
    running.mailbox.leave()
    assert running.redis.get(wire.alive_key("engine")) is None
    assert not running.redis.sismember(wire.ENGINES_KEY, "engine")
