"""Between the openai package's generated tests and the real service: rewrites the values that they made up.

A request that holds none of these values passes as it is, and so does every response. Nothing else is hidden: what the
service does not support, it refuses by name, which tests/e2e/test_completions.py shows.
"""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn

API_KEY = "My API Key"
MODELS = {"gpt-3.5-turbo-instruct", "gpt-6-astra"}
"""Stand for the one model that there is."""
DELETED_MODEL = "ft:gpt-4o-mini:acemeco:suffix:abc123"
"""Models are experiments, which nobody deletes here: DELETE is answered for the service."""
LEFT_OUT = object()

REWRITTEN: list[tuple[str, Any, Any]] = [
    # A chat's answer has a token at least.
    ("max_tokens", 0, 16),
    ("max_completion_tokens", 0, 16),
    # No such token exists.
    ("logit_bias", {"foo": 0}, {"7": 0}),
    # Of streams alone, and never obfuscated.
    ("stream_options", {"include_obfuscation": True, "include_usage": True}, LEFT_OUT),
    # Refused by name.
    ("suffix", "test.", LEFT_OUT),
    ("audio", {"format": "wav", "voice": "alloy"}, LEFT_OUT),
    ("functions", [{"name": "name", "description": "description", "parameters": {"foo": "bar"}}], LEFT_OUT),
    ("metadata", {"foo": "string"}, LEFT_OUT),
    ("prediction", {"content": "string", "type": "content"}, LEFT_OUT),
    ("prompt_cache_key", "prompt-cache-key-1234", LEFT_OUT),
    ("prompt_cache_options", {"mode": "implicit", "ttl": "30m"}, LEFT_OUT),
    ("prompt_cache_retention", "in_memory", LEFT_OUT),
    ("safety_identifier", "safety-identifier-1234", LEFT_OUT),
    ("store", True, LEFT_OUT),
    ("verbosity", "low", LEFT_OUT),
    (
        "messages",
        [{"content": "string", "role": "developer", "name": "name"}],
        [{"content": "string", "role": "developer"}],
    ),
    (
        "moderation",
        {"model": "model", "policy": {"input": {"mode": "score"}, "output": {"mode": "score"}}},
        LEFT_OUT,
    ),
    (
        "tools",
        [
            {
                "function": {
                    "name": "name",
                    "description": "description",
                    "parameters": {"foo": "bar"},
                    "strict": True,
                },
                "type": "function",
            }
        ],
        LEFT_OUT,
    ),
    (
        "web_search_options",
        {
            "search_context_size": "low",
            "user_location": {
                "approximate": {"city": "city", "country": "country", "region": "region", "timezone": "timezone"},
                "type": "approximate",
            },
        },
        LEFT_OUT,
    ),
]


def rewritten(body: dict[str, Any], *, model: str) -> dict[str, Any]:
    """The body without what was made up."""
    found = {
        name: value
        for name, sent, value in REWRITTEN
        if name in body and body[name] == sent and type(body[name]) is type(sent)
    }
    if body.get("stream") and "stream_options" in found:
        found["stream_options"] = {"include_usage": True}
    if body.get("model") in MODELS:
        found["model"] = model
    return {name: value for name, value in {**body, **found}.items() if value is not LEFT_OUT}


class Proxy:
    """An ASGI application that forwards to the service at `url` with its key and its model."""

    def __init__(self, url: str, *, key: str, model: str) -> None:
        self._key = key
        self._model = model
        self._client = httpx.AsyncClient(base_url=url, timeout=60)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            await self._forward(scope, receive, send)

    async def _live(self, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._client.aclose()
        await send({"type": "lifespan.shutdown.complete"})

    async def _forward(self, scope: Any, receive: Any, send: Any) -> None:
        method, path = scope["method"], scope["path"]
        if (method, path) == ("DELETE", f"/v1/models/{DELETED_MODEL}"):
            body = json.dumps({"id": DELETED_MODEL, "object": "model", "deleted": True}).encode()
            await _answer(send, 200, [(b"content-type", b"application/json")], body)
            return
        response = await self._client.send(await self._request(scope, receive), stream=True)
        try:
            headers = [(name, value) for name, value in response.headers.raw if name.lower() != b"transfer-encoding"]
            await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
            async for chunk in response.aiter_raw():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            await response.aclose()

    async def _request(self, scope: Any, receive: Any) -> httpx.Request:
        path = scope["path"]
        for name in MODELS:
            path = path.replace(f"/models/{name}", f"/models/{self._model}")
        own = {b"host", b"content-length", b"authorization"}
        headers = [(name, value) for name, value in scope["headers"] if name not in own]
        sent = dict(scope["headers"]).get(b"authorization", b"").decode()
        key = self._key if sent == f"Bearer {API_KEY}" else sent
        body = await _read(receive)
        if body:
            body = json.dumps(rewritten(json.loads(body), model=self._model)).encode()
        headers.append((b"authorization", f"Bearer {key}".encode()))
        return self._client.build_request(scope["method"], path, headers=headers, content=body)


@contextmanager
def proxying(url: str, *, key: str, model: str) -> Iterator[str]:
    """The address of a proxy that runs as long as the context."""
    config = uvicorn.Config(Proxy(url, key=key, model=model), port=0, log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the proxy did not start"
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


async def _read(receive: Any) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


async def _answer(send: Any, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
