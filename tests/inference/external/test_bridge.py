"""A bridge in front of a real llama.cpp server that has loaded our own export."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from fai_project.redis_server import RedisServer
from inference import wire
from inference.completions import provider
from inference.completions.provider import EngineGone, EngineRefused
from inference.external.bridge import Bridge, BridgeOptions
from inference.external.dialects import OpenAI
from inference.external.mail import ExternalMail
from inference.external.server import ExternalServer
from inference.redis_client import client
from inference.status import EngineStatus
from inference.wire import ChoicePiece, Event, Failed, GenerationRequest, Started
from ml.export.formats import export
from ml.export.source import Source
from ml.run import Run
from tests.inference.make import make_request
from tests.ml.export.llama import Llama
from tests.ml.export.make import make_run, our_continuation
from tests.training.make import make_checkpoint, make_experiment
from training.models import Checkpoint

PROMPT = (70, 71, 72)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("run") / "run", num_training_steps=10)


@pytest.fixture(scope="module")
def gguf(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("gguf") / "out"
    return export(Source.of_run(run), format_name="gguf", out=out, dtype="fp32").folder / "model.gguf"


@pytest.fixture(scope="module")
def llama(gguf: Path) -> Iterator[Llama]:
    with Llama(gguf) as server:
        yield server


@pytest.fixture
def checkpoint(db: None) -> Checkpoint:
    return make_checkpoint(experiment=make_experiment(slug="study"), number=3)


@asynccontextmanager
async def bridged(
    url: str, run: Run, checkpoint: Checkpoint, redis: RedisServer, **options: Any
) -> AsyncIterator[Bridge]:
    server = ExternalServer(url, api_key="", tokenizer=run.tokenizer)
    mail = ExternalMail(redis.url, engine_id="bridge")
    async for key in client().scan_iter("fai:engine:*"):
        await client().delete(key)
    bridge = Bridge(
        server,
        mail,
        BridgeOptions(
            engine_id="bridge",
            checkpoint=checkpoint,
            tokenizer=run.tokenizer,
            **{"num_slots": 4, "grace_seconds": 5.0, **options},
        ),
    )
    working = asyncio.create_task(bridge.run())
    try:
        yield bridge
    finally:
        bridge.stop()
        await working
        await server.close()
        await mail.close()
        await client().aclose()


async def until_served() -> None:
    while "study" not in await provider.served_models():
        await asyncio.sleep(0.05)


async def read(request: GenerationRequest) -> tuple[Started, list[ChoicePiece]]:
    """Who began, and all pieces."""
    pieces: list[ChoicePiece] = []
    started: list[Started] = []
    async with aclosing(provider.events(request)) as events:
        async for event in events:
            if isinstance(event, Started):
                started.append(event)
            else:
                assert isinstance(event, ChoicePiece)
                pieces.append(event)
            if sum(piece.finish_reason is not None for piece in pieces) == request.num_choices:
                break
    return started[0], pieces


async def read_on(events: AsyncIterator[Event]) -> None:
    async for _ in events:
        pass


def text_of(pieces: list[ChoicePiece], index: int = 0) -> str:
    return "".join(piece.text for piece in pieces if piece.index == index)


async def test_a_request_is_answered_as_our_own_engine_would(
    run: Run, llama: Llama, checkpoint: Checkpoint, redis_settings: RedisServer
) -> None:
    request = make_request(prompts=(PROMPT, (75, 80)), n=2, max_tokens=20, temperature=0.0)
    async with bridged(f"{llama.address}/v1/", run, checkpoint, redis_settings):
        await until_served()
        await provider.submit(request)
        started, pieces = await read(request)
    assert (started.checkpoint_id, started.checkpoint_sha256) == (checkpoint.pk, checkpoint.blob_id)
    for index in range(4):
        ours = our_continuation(run, list(request.prompts[index // 2]), num_tokens=20)
        assert text_of(pieces, index) == run.tokenizer.decode(ours)
        assert sum(piece.num_tokens for piece in pieces if piece.index == index) == len(ours)
        offsets = [piece.offset for piece in pieces if piece.index == index]
        assert offsets == sorted(offsets)


@pytest.mark.parametrize("takes_tokens", [True, False])
async def test_a_server_that_tells_no_tokens_is_counted_by_its_text(
    run: Run, llama: Llama, checkpoint: Checkpoint, redis_settings: RedisServer, takes_tokens: bool
) -> None:
    request = make_request(prompts=(PROMPT,), max_tokens=20, temperature=0.0)
    async with bridged(llama.address, run, checkpoint, redis_settings) as bridge:
        await until_served()
        bridge._server._dialect = OpenAI("any", run.tokenizer, takes_tokens=takes_tokens)
        await provider.submit(request)
        _, pieces = await read(request)
    text = text_of(pieces)
    assert text == run.tokenizer.decode(our_continuation(run, list(PROMPT), num_tokens=20))
    num_encoded = len(run.tokenizer.encode(text).ids)
    assert num_encoded > request.max_tokens, "an untrained model writes what no tokenizer would split so"
    assert sum(piece.num_tokens for piece in pieces) == request.max_tokens
    assert all(piece.num_tokens >= 0 for piece in pieces)


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("num_logprobs", 2, "logprobs"),
        ("has_prompt_logprobs", True, "logprobs"),
        ("frequency_penalty", 0.5, "frequency_penalty"),
        ("presence_penalty", 0.5, "presence_penalty"),
    ],
)
async def test_what_the_server_cannot_do_is_refused_by_name(
    run: Run, llama: Llama, checkpoint: Checkpoint, redis_settings: RedisServer, field: str, value: object, param: str
) -> None:
    async with bridged(llama.address, run, checkpoint, redis_settings):
        await until_served()
        refused = make_request("refused", **{field: value})
        await provider.submit(refused)
        with pytest.raises(EngineRefused, match=f"cannot do '{param}'") as caught:
            await read(refused)
        assert caught.value.param == param
        good = make_request("good", temperature=0.0)
        await provider.submit(good)
        await read(good)


async def test_a_cancelled_request_frees_the_server(
    run: Run, llama: Llama, checkpoint: Checkpoint, redis_settings: RedisServer
) -> None:
    request = make_request(max_tokens=60, n=4, temperature=0.0, logit_bias=((0, -100.0), (4, -100.0)))
    async with bridged(llama.address, run, checkpoint, redis_settings) as bridge:
        await until_served()
        await provider.submit(request)
        async with aclosing(provider.events(request)) as events:
            await anext(events)
            await provider.cancel(request, range(4))
        while bridge.underway or bridge._choices:
            await asyncio.sleep(0.01)
        while any(slot["is_processing"] for slot in httpx.get(f"{llama.address}/slots").json()):
            await asyncio.sleep(0.01)


async def test_a_server_that_is_down_is_not_announced(
    run: Run, checkpoint: Checkpoint, redis_settings: RedisServer
) -> None:
    async with bridged("http://127.0.0.1:1/v1", run, checkpoint, redis_settings):
        while not (engines := await provider.engines()):
            await asyncio.sleep(0.05)
    assert engines[0].models == ()
    assert [problem.subject for problem in engines[0].problems] == ["http://127.0.0.1:1"]


async def test_a_server_that_dies_in_mid_stream_fails_the_request(
    run: Run, gguf: Path, checkpoint: Checkpoint, redis_settings: RedisServer
) -> None:
    request = make_request(max_tokens=60, temperature=0.0, logit_bias=((0, -100.0), (4, -100.0)))
    with Llama(gguf) as doomed:
        async with bridged(doomed.address, run, checkpoint, redis_settings) as bridge:
            await until_served()
            await provider.submit(request)
            async with aclosing(provider.events(request)) as events:
                assert isinstance(await anext(events), Started)
                await asyncio.to_thread(doomed.kill)
                with pytest.raises(EngineGone, match="failed in mid-stream"):
                    await read_on(events)
            while bridge.is_up:
                await asyncio.sleep(0.05)


async def test_a_stopped_bridge_gives_back_what_it_has_not_begun(
    run: Run, llama: Llama, checkpoint: Checkpoint, redis_settings: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is asked for nothing: the request has begun, and no token of it is there."""

    async def silent(*_: object) -> AsyncIterator[Event]:
        await asyncio.sleep(3_600)
        yield Failed(message="")

    request = make_request()
    async with bridged(llama.address, run, checkpoint, redis_settings, grace_seconds=0.0) as bridge:
        await until_served()
        monkeypatch.setattr(bridge, "_events", silent)
        await provider.submit(request)
        while not bridge.underway:
            await asyncio.sleep(0.01)
        bridge.stop()
        while bridge.underway:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert await client().lrange(wire.queue_key("study"), 0, -1) == [request.encode()]


async def test_a_stopped_bridge_gives_back_nothing_of_which_text_was_told(
    run: Run, llama: Llama, checkpoint: Checkpoint, redis_settings: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Text whose tokens are not counted before its word ends."""

    async def uncounted(*_: object) -> AsyncIterator[tuple[Event, int]]:
        yield ChoicePiece(index=0, offset=0, text="Wid", num_tokens=0), 0
        await asyncio.sleep(3_600)

    request = make_request()
    async with bridged(llama.address, run, checkpoint, redis_settings, grace_seconds=0.0) as bridge:
        await until_served()
        monkeypatch.setattr(bridge, "_events", uncounted)
        await provider.submit(request)
        while await client().xlen(wire.stream_key(request.request_id)) < 2:
            await asyncio.sleep(0.01)
        bridge.stop()
        while bridge.underway:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert await client().llen(wire.queue_key("study")) == 0


async def test_a_server_is_asked_for_as_many_texts_as_it_has_slots(
    run: Run, llama: Llama, checkpoint: Checkpoint, redis_settings: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    running = 0
    request = make_request(n=9, max_tokens=3)
    async with bridged(llama.address, run, checkpoint, redis_settings, num_slots=2) as bridge:
        await until_served()
        stream = bridge._server.stream

        async def counted(body: dict[str, Any]) -> AsyncIterator[Any]:
            nonlocal running
            running += 1
            counts.append(running)
            async with aclosing(stream(body)) as chunks:
                async for chunk in chunks:
                    yield chunk
            running -= 1

        monkeypatch.setattr(bridge._server, "stream", counted)
        await provider.submit(request)
        await read(request)
    assert max(counts) == 2
    assert len(counts) == 9


async def test_a_bridge_says_what_it_serves(
    run: Run, llama: Llama, checkpoint: Checkpoint, redis_settings: RedisServer
) -> None:
    async with bridged(llama.address, run, checkpoint, redis_settings):
        await until_served()
        (status,) = await provider.engines()
    assert isinstance(status, EngineStatus)
    assert status.kind == llama.address
    assert status.model_names == ["study", "study@3"]
