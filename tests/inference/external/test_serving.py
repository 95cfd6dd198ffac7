"""A bridge's own pages, over HTTP."""

import asyncio

import httpx
import pytest

from fai_project.redis_server import RedisServer
from inference.engine.mailbox import Mailbox
from inference.external.bridge import Bridge, BridgeOptions
from inference.external.mail import ExternalMail
from inference.external.server import ExternalServer
from inference.external.serving import make_pages
from tests.ml.make import make_tokenizer
from tests.training.make import make_checkpoint, make_experiment

pytestmark = pytest.mark.django_db
NOBODY = "127.0.0.1:1"


@pytest.fixture
def bridge() -> Bridge:
    """One that reaches neither its server nor Redis."""
    tokenizer = make_tokenizer()
    return Bridge(
        ExternalServer(f"http://{NOBODY}", api_key="", tokenizer=tokenizer),
        ExternalMail(f"redis://{NOBODY}/0", engine_id="bridge"),
        BridgeOptions(
            engine_id="bridge",
            checkpoint=make_checkpoint(experiment=make_experiment()),
            tokenizer=tokenizer,
            num_slots=1,
            grace_seconds=0.0,
        ),
    )


def ask(bridge: Bridge, page: str, *, redis_url: str = f"redis://{NOBODY}/0") -> int:
    with make_pages(bridge, Mailbox(redis_url, engine_id="bridge"), ("127.0.0.1", 0)) as pages:
        return httpx.get(f"http://127.0.0.1:{pages.port}{page}").status_code


def test_it_is_ready_while_its_server_and_redis_answer(bridge: Bridge, redis_server: RedisServer) -> None:
    assert ask(bridge, "/ready", redis_url=redis_server.url) == 503
    bridge.is_up = True
    assert ask(bridge, "/ready", redis_url=redis_server.url) == 200
    assert ask(bridge, "/ready") == 503
    bridge.stop()
    assert ask(bridge, "/ready", redis_url=redis_server.url) == 503


async def test_it_lives_while_its_loop_turns_whoever_is_away(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inference.external.bridge.STUCK_SECONDS", 1.0)
    running = asyncio.create_task(bridge.run())
    await asyncio.sleep(1.5)
    assert await asyncio.to_thread(ask, bridge, "/health") == 200
    bridge.stop()
    await running
    await asyncio.sleep(1.5)
    assert await asyncio.to_thread(ask, bridge, "/health") == 503
