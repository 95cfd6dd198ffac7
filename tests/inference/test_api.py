"""What /v1 answers without an engine: errors, in OpenAI's shape."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import OperationalError
from django.test import AsyncClient
from redis import Redis

from contributors import ledger
from contributors.models import Scope
from fai_project.redis_server import RedisServer
from inference import catalogue, wire
from inference.completions import provider, sessions
from inference.endpoint import BodyParser
from inference.models import Completion
from tests import s3
from tests.contributors.make import make_contributor, make_key
from tests.inference.engines import make_status, say_that_it_lives
from tests.inference.make import make_served_experiment
from tests.training.make import NOW
from training.models import Checkpoint

pytestmark = pytest.mark.django_db(transaction=True)
ASKED = {"model": "study", "prompt": "x"}
CHAT = [{"role": "user", "content": "x"}]


class Api:
    """A client of /v1 with a key that has credits."""

    def __init__(self, folder: Path, redis: Redis) -> None:
        self.checkpoint = make_served_experiment(folder, credits_per_completion_token=2).checkpoints.get()
        self.contributor = make_contributor(credits_=1_000)
        _, self.secret = make_key(self.contributor)
        self.redis = redis
        self._client = AsyncClient()

    async def send(
        self,
        body: Any,
        *,
        path: str = "completions",
        secret: str | None = None,
        content_type: str = "application/json",
        **headers: str,
    ) -> Any:
        return await self._client.post(
            f"/v1/{path}",
            body if isinstance(body, bytes) else json.dumps(body),
            content_type=content_type,
            headers={"Authorization": f"Bearer {secret or self.secret}", **headers},
        )

    async def post(self, body: Any, **options: Any) -> tuple[int, Any]:
        """Status and body."""
        response = await self.send(body, **options)
        return response.status_code, response.json()

    async def ask(self, path: str, *, secret: str | None = None) -> Any:
        """What a GET with the key is answered with."""
        response = await self.get(path, Authorization=f"Bearer {secret or self.secret}")
        assert response.status_code == 200
        return response.json()["data"]

    async def get(self, path: str, **headers: str) -> Any:
        return await self._client.get(path, headers=headers)

    def pretend_an_engine_lives(self) -> None:
        say_that_it_lives(self.redis, make_status())


@pytest.fixture
def api(storage: Path, tmp_path: Path, redis_settings: RedisServer) -> Iterator[Api]:
    with Redis.from_url(redis_settings.url) as redis:
        for pattern in ("fai:engine:*", "fai:limit:*"):
            for key in redis.scan_iter(pattern):
                redis.delete(key)
        yield Api(tmp_path, redis)


async def test_every_error_has_all_four_members(api: Api) -> None:
    status, body = await api.post({**ASKED, "model": "nobody"})
    assert status == 404
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("path", ["/v1/", "/v1/engines", "/v1/models/study/delta", "/v1/chat"])
async def test_an_unknown_address_is_json(api: Api, path: str) -> None:
    response = await api.get(path)
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "unknown_url"
    assert response.headers["x-request-id"].startswith("req_")


async def test_a_wrong_method_is_json(api: Api) -> None:
    response = await api.get("/v1/chat/completions")
    assert (response.status_code, response.headers["Allow"]) == (405, "POST")
    assert response.json()["error"]["code"] == "method_not_supported"
    status, body = await api.post(ASKED, path="models/study")
    assert (status, body["error"]["code"]) == (405, "method_not_supported")


async def test_a_body_of_another_kind_is_refused(api: Api) -> None:
    for content_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        status, body = await api.post(ASKED, content_type=content_type)
        assert (status, body["error"]["code"]) == (415, "unsupported_media_type")


async def test_a_body_beyond_the_bound_is_refused(api: Api) -> None:
    status, body = await api.post(b'{"prompt": "' + b"x" * BodyParser.max_bytes)
    assert (status, body["error"]["code"]) == (413, "request_too_large")


async def test_whatever_a_client_accepts_it_gets_json(api: Api) -> None:
    for accept in ("text/event-stream", "image/png", "nonsense"):
        response = await api.get("/v1/models", Authorization=f"Bearer {api.secret}", Accept=accept)
        assert [model["id"] for model in response.json()["data"]] == ["study"]


async def test_a_banned_contributors_key_is_refused(api: Api) -> None:
    api.contributor.banned_at = NOW
    await api.contributor.asave()
    status, body = await api.post(ASKED)
    assert (status, body["error"]["code"]) == (401, "invalid_api_key")


@pytest.mark.parametrize("header", ["", "Basic abc", "Bearer ", "Bearer fai_sk_nobody", "Bearer \xff"])
async def test_without_a_usable_key_nothing_is_answered(api: Api, header: str) -> None:
    response = await api.get("/v1/models", Authorization=header)
    assert response.status_code == 401
    assert response.json()["error"]["code"] == "invalid_api_key"


async def test_a_key_for_volunteering_completes_nothing(api: Api) -> None:
    _, secret = await asyncio.to_thread(make_key, api.contributor, Scope.VOLUNTEER)
    status, body = await api.post(ASKED, secret=secret)
    assert (status, body["error"]["code"]) == (403, "insufficient_permissions")


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"5", b'{"a": NaN}', b"\xff", b"[" * 100_000, b'{"model": 1e999, "prompt": "x"}']
)
async def test_a_body_that_is_no_object_is_refused(api: Api, body: bytes) -> None:
    status, answer = await api.post(body)
    assert status == 400
    assert answer["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("completions", {"prompt": "x", "max_tokens": 6, "n": 4, "logprobs": 4}, "logprobs"),
        ("completions", {"prompt": "x", "max_tokens": 6, "best_of": 4, "logprobs": 4}, "logprobs"),
        ("completions", {"prompt": [70] * 11, "max_tokens": 0, "n": 2, "echo": True, "logprobs": 4}, "logprobs"),
        ("chat/completions", {"messages": CHAT, "max_tokens": 6, "n": 4, "logprobs": True, "top_logprobs": 4},
         "top_logprobs"),
        ("chat/completions", {"messages": CHAT, "max_tokens": 30, "n": 4, "logprobs": True}, "logprobs"),
    ],
)  # fmt: skip
async def test_more_log_probabilities_than_an_answer_holds_are_refused_by_name(
    api: Api, monkeypatch: pytest.MonkeyPatch, path: str, body: dict[str, Any], param: str
) -> None:
    status, answer = await api.post({"model": "study", **body}, path=path)
    assert status == 503
    monkeypatch.setattr(sessions, "MAX_LOGPROBS", 119)
    status, answer = await api.post({"model": "study", **body}, path=path)
    assert (status, answer["error"]["code"], answer["error"]["param"]) == (400, "invalid_value", param)
    assert "120" in answer["error"]["message"]


async def test_without_an_engine_the_answer_is_503_at_once_and_nothing_is_held(api: Api) -> None:
    require_unavailable(await api.send(ASKED))
    assert await Completion.objects.acount() == 0


async def test_without_redis_the_answer_is_503(api: Api, settings: Any) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    require_unavailable(await api.send(ASKED))


@pytest.mark.parametrize("asked", [{"prompt": "x"}, {"messages": [{"role": "user", "content": "x"}]}])
async def test_while_the_store_is_away_the_answer_is_503_and_goes_on_once_it_is_back(
    asked: dict[str, Any], api: Api, settings: Any
) -> None:
    local = settings.STORAGES
    settings.STORAGES = s3.storages(settings)
    path = "chat/completions" if "messages" in asked else "completions"
    refused = await api.send({"model": "study", **asked}, path=path)
    require_unavailable(refused, "files cannot be read")
    settings.STORAGES = local
    require_unavailable(await api.send({"model": "study", **asked}, path=path), "No engine")


async def test_while_the_database_is_away_the_answer_is_503(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(model: str) -> Checkpoint:
        raise OperationalError("the connection is lost")

    monkeypatch.setattr(catalogue, "find", fail)
    require_unavailable(await api.send(ASKED), "database")


async def test_before_the_first_checkpoint_and_without_a_tokenizer_the_answer_is_503(api: Api) -> None:
    experiment = api.checkpoint.experiment
    experiment.tokenizer = None
    await experiment.asave()
    require_unavailable(await api.send(ASKED), "no tokenizer")
    await experiment.checkpoints.aupdate(published_at=None)
    require_unavailable(await api.send(ASKED), "no checkpoint")


def require_unavailable(response: Any, reason: str = "") -> None:
    """A 503 that says when to come back."""
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["type"]) == (503, "service_unavailable", "server_error")
    assert int(response.headers["Retry-After"]) > 0
    assert reason in error["message"]


async def test_a_full_queue_is_refused_and_the_hold_released(api: Api) -> None:
    api.pretend_an_engine_lives()
    api.redis.lpush(wire.queue_key("study"), *["{}"] * wire.MAX_QUEUED_REQUESTS)
    response = await api.send(ASKED)
    assert response.status_code == 429
    assert response.json()["error"]["code"] == "rate_limit_exceeded"
    assert int(response.headers["Retry-After"]) > 0
    await require_released(api)


async def test_a_request_that_was_lost_with_one_engine_after_the_other_is_given_up(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider, "POLL_MS", 20)
    api.pretend_an_engine_lives()
    asking = asyncio.create_task(api.send(ASKED))
    num_lost = 0
    while not asking.done():
        num_lost += api.redis.rpop(wire.queue_key("study")) is not None
        await asyncio.sleep(0.01)
    require_unavailable(await asking)
    assert num_lost == wire.MAX_TRIES
    await require_released(api)


async def test_a_queued_request_is_taken_back_when_the_last_engine_dies(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider, "POLL_MS", 20)
    api.pretend_an_engine_lives()
    asking = asyncio.create_task(api.post(ASKED))
    while not api.redis.llen(wire.queue_key("study")):
        await asyncio.sleep(0.01)
    api.redis.delete(wire.alive_key("pretended"))
    assert (await asking)[0] == 503
    assert api.redis.llen(wire.queue_key("study")) == 0
    await require_released(api)


async def require_released(api: Api) -> None:
    completion = await Completion.objects.aget()
    assert completion.state == Completion.State.FAILED
    balance = await asyncio.to_thread(ledger.balance, api.contributor)
    assert balance == ledger.Balance(available=1_000, held=0, escrow=0)
    assert await asyncio.to_thread(ledger.violations, now=NOW) == []
