"""The engine's loop in a thread, and a real Redis."""

import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from redis import Redis

from fai_project.redis_server import RedisServer
from inference import wire
from inference.engine import loop, metrics
from inference.engine.loop import Engine, choice_of
from inference.engine.mailbox import Mailbox
from inference.engine.runner import Choice, Generated, Runner
from inference.status import EngineStatus
from inference.wire import ChoiceTokens, Event, Failed, GenerationRequest, Started
from ml.generation import generate_tokens
from ml.inference_model import InferenceModel
from ml.sampling import SamplingParams
from tests.inference.engines import make_status
from tests.inference.make import make_gpt, make_request, make_runner

COUNTED = {
    "fai_engine_prompt_tokens_total": 3.0,
    "fai_engine_completion_tokens_total": 9.0,
    "fai_engine_queue_seconds_count": 1.0,
    "fai_engine_step_seconds_count": 9.0,
    "fai_engine_batch_texts_count": 9.0,
    "fai_engine_batch_texts_sum": 9.0,
}


class CountingRunner(Runner):
    """Counts its steps; may cancel the request `one` in one of them, or stop the engine before it takes any."""

    def __init__(self, redis: Redis, *, cancels_at: int = 0, stops: threading.Event | None = None) -> None:
        model = InferenceModel(make_gpt(seed=2), weight_format="fp32")
        super().__init__(model, checkpoint_id=2, sha256=f"{2:064d}", num_slots=2)
        self.num_steps = 0
        self._redis = redis
        self._cancels_at = cancels_at
        self._stops = stops

    def add(self, choices: Sequence[Choice]) -> None:
        super().add(choices)
        if self._stops is not None:
            self._stops.set()

    def step(self) -> list[Generated]:
        self.num_steps += 1
        if self.num_steps == self._cancels_at:
            self._redis.sadd(wire.cancel_key("one"), 0)
        return super().step()


class RunningEngine:
    """An engine of its own thread that serves the model `study`."""

    def __init__(self, url: str) -> None:
        self.redis = Redis.from_url(url)
        self.stop = threading.Event()
        self.mailbox = Mailbox(url, engine_id="engine")
        self.engine = Engine(self.mailbox, engine_id="engine", stop=self.stop, grace_seconds=5.0)
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
    monkeypatch.setattr(loop, "IDLE_SECONDS", 0.1)
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
    while len(running.engine._runners) < 2 and running.engine.underway:
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
    running: RunningEngine,
) -> None:
    running.engine._grace_seconds = 0.0
    running.submit(make_request("begun", max_tokens=61, n=8))
    while not any(isinstance(event, ChoiceTokens) for event in running.read("begun")):
        pass
    running.stop.set()
    running.submit(make_request("late"))
    running.thread.join(5)
    assert not running.thread.is_alive()
    del running._last_ids["begun"]
    assert isinstance(running.read("begun")[-1], Failed)
    assert running.redis.llen(wire.queue_key("study")) == 1


def test_an_engine_says_what_it_serves_until_it_leaves(running: RunningEngine) -> None:
    status = make_status()
    running.mailbox.beat(status)
    told: Any = running.redis.get(wire.alive_key("engine"))
    assert EngineStatus.decode(told) == status
    assert 0 < running.redis.ttl(wire.alive_key("engine")) <= wire.ALIVE_SECONDS
    running.mailbox.leave()
    assert running.redis.get(wire.alive_key("engine")) is None
    assert not running.redis.sismember(wire.ENGINES_KEY, "engine")


def test_a_request_is_cancelled_by_the_step_in_which_its_client_left(running: RunningEngine) -> None:
    """The fifth step itself cancels, so that it is known which one is the last that may come."""
    runner = CountingRunner(running.redis, cancels_at=5)
    running.install(runner)
    while running.engine.served[0].sha256 != runner.sha256:
        time.sleep(0.001)
    running.submit(make_request(max_tokens=60))
    while runner.num_steps == 0 or running.engine.underway:
        time.sleep(0.001)
    assert runner.num_steps == 5
    assert runner.is_idle


def test_what_is_not_begun_when_an_engine_stops_goes_to_another(running: RunningEngine) -> None:
    running.engine._grace_seconds = 0.0
    stopping = CountingRunner(running.redis, stops=running.stop)
    running.install(stopping)
    while running.engine.served[0].sha256 != stopping.sha256:
        time.sleep(0.001)
    request = make_request("one", n=2, max_tokens=60)
    running.submit(request)
    running.thread.join(5)
    assert running.redis.lrange(wire.queue_key("study"), 0, -1) == [request.encode().encode()]
    assert [type(event) for event in running.read("one")] == [Started]


def test_a_model_is_taken_away_and_what_runs_on_it_ends_first(running: RunningEngine) -> None:
    request = make_request(max_tokens=61)
    running.submit(request)
    running.read("one")
    running.engine.installed.put(("study", None))
    del running._last_ids["one"]
    assert running.read_to_the_end(request)[1] == {0: expected(request, 0)}
    while running.engine._runners:
        time.sleep(0.001)
    assert running.engine.served == ()


def test_one_runner_under_two_names_is_stepped_once(running: RunningEngine) -> None:
    runner = CountingRunner(running.redis)
    for name in ("study", "study@0"):
        running.engine.installed.put((name, runner))
    while len(running.engine.served) < 2:
        time.sleep(0.001)
    running.submit(make_request(model="study@0", max_tokens=7))
    while runner.num_steps == 0 or running.engine.underway:
        time.sleep(0.001)
    assert runner.num_steps == 7


def test_a_stopping_engine_offers_nothing(running: RunningEngine) -> None:
    running.submit(make_request(max_tokens=61))
    running.read("one")
    assert [model.num_running for model in running.engine.served] == [1]
    running.stop.set()
    assert running.engine.served == ()


def test_what_an_engine_does_is_counted(running: RunningEngine) -> None:
    def count(name: str, **labels: str) -> float:
        return metrics.REGISTRY.get_sample_value(name, {"model": "study", **labels}) or 0.0

    before = {name: count(name) for name in COUNTED}
    done = count("fai_engine_requests_total", outcome="done")
    request = make_request(max_tokens=9, queued_at=time.time())
    running.submit(request)
    running.read_to_the_end(request)
    while running.engine.underway:
        time.sleep(0.001)
    assert {name: count(name) - before[name] for name in COUNTED} == COUNTED
    assert count("fai_engine_requests_total", outcome="done") - done == 1
    assert running.engine.underway.tokens.per_second() > 0


def test_every_field_of_a_request_reaches_the_sampler() -> None:
    request = make_request(
        temperature=0.5,
        top_p=0.9,
        top_k=3,
        min_p=0.1,
        repetition_penalty=1.2,
        frequency_penalty=0.3,
        presence_penalty=0.4,
        logit_bias=((7, 1.5),),
        n=2,
    )
    params = choice_of(request, 1).params
    named = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty")
    assert {name: getattr(params, name) for name in named} == {name: getattr(request, name) for name in named}
    assert (params.logit_bias, params.seed, params.max_tokens) == (((7, 1.5),), request.seed + 1, 8)


def test_each_prompt_is_scored_by_one_of_its_choices() -> None:
    request = make_request(prompts=((1,), (2,)), n=2, num_logprobs=3, has_prompt_logprobs=True)
    choices = [choice_of(request, index) for index in range(4)]
    assert [(choice.prompt, choice.has_prompt_logprobs) for choice in choices] == [
        (0, True),
        (0, False),
        (1, True),
        (1, False),
    ]
    assert {choice.num_logprobs for choice in choices} == {3}
