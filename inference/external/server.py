"""The server of another engine, over HTTP: what it speaks, whether it answers, what it streams."""

import asyncio
import contextlib
import json
import math
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import httpx
from tokenizers import Tokenizer

from inference.external.dialects import VLLM, Chunk, Dialect, Json, LlamaServer, OpenAI

PROBE_SECONDS = 3.0
HEARD_SECONDS = 2.0
"""Who has streamed within this time answers."""
TRIES = 3
PAUSE_SECONDS = 0.5
"""Before a server is asked again."""
SILENCE_SECONDS = 120.0
"""A server that streams nothing for so long is given up; a long prompt takes its time."""
DATA = b"data:"
END = b"[DONE]"


class ServerFailed(Exception):
    """The server does not answer, or not with what it should."""


class ExternalServer:
    """At `url`, with or without /v1 at its end."""

    def __init__(self, url: str, *, api_key: str, tokenizer: Tokenizer) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        self._tokenizer = tokenizer
        self._dialect: Dialect | None = None
        self._heard_at = -math.inf
        timeout = httpx.Timeout(SILENCE_SECONDS, connect=PROBE_SECONDS)
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        limits = httpx.Limits(max_connections=None)
        self._client = httpx.AsyncClient(base_url=self.url, timeout=timeout, headers=headers, limits=limits)

    async def close(self) -> None:
        await self._client.aclose()

    async def probe(self) -> None:
        """Return if it answers; the first time, find out what it speaks.

        Who streams is not asked: llama-cpp-python serves one request at a time, and ends a stream for the next one.

        Raises: ServerFailed.
        """
        if time.monotonic() - self._heard_at < HEARD_SECONDS:
            return
        try:
            models = await self._models()
            if self._dialect is None:
                self._dialect = await self._choose(models[0])
        except (httpx.HTTPError, ValueError, KeyError, IndexError, TypeError) as error:
            raise ServerFailed(f"{self.url}/v1/models: {error or type(error).__name__}") from error

    async def stream(self, body: Json) -> AsyncGenerator[Chunk]:
        """One text as it comes, to its end. Whoever stops reading closes the connection, and so stops the server.

        A server that fails before it has said anything is asked again, up to TRIES times.

        Raises: ServerFailed.
        """
        for tries_left in reversed(range(TRIES)):
            has_begun = False
            try:
                async with aclosing(self._chunks(body)) as chunks:
                    async for chunk in chunks:
                        has_begun = True
                        yield chunk
            except ServerFailed:
                if has_begun or not tries_left:
                    raise
                await asyncio.sleep(PAUSE_SECONDS)
            else:
                return

    async def _chunks(self, body: Json) -> AsyncGenerator[Chunk]:
        """Raises: ServerFailed."""
        try:
            async with aclosing(self._events(body)) as events:
                async for data in events:
                    self._heard_at = time.monotonic()
                    chunk = self.dialect.read(data)
                    yield chunk
                    if chunk.finish_reason is not None:
                        await _drain(events)
                        return
        except (httpx.HTTPError, ValueError, KeyError, IndexError, TypeError) as error:
            raise ServerFailed(f"{self.url}: {error or type(error).__name__}") from error
        raise ServerFailed(f"{self.url} ended a stream before its end")

    @property
    def dialect(self) -> Dialect:
        """What it speaks; known once it was probed."""
        if self._dialect is None:
            raise ServerFailed(f"{self.url} has not answered yet")
        return self._dialect

    async def _models(self) -> list[Json]:
        answer = await self._client.get("/v1/models", timeout=PROBE_SECONDS)
        models: list[Json] = answer.raise_for_status().json()["data"]
        return models

    async def _choose(self, model: Json) -> Dialect:
        owner, name = model.get("owned_by"), str(model["id"])
        if owner == "vllm":
            return VLLM(name)
        if owner == "llamacpp":
            return LlamaServer()
        return OpenAI(name, self._tokenizer, takes_tokens=await self._takes_tokens(name))

    async def _takes_tokens(self, name: str) -> bool:
        """Whether it fails at tokens, which some do with 500, and not at a text. Raises: httpx.HTTPError."""
        if (await self._complete(name, [0])).is_success:
            return True
        (await self._complete(name, "a")).raise_for_status()
        return False

    async def _complete(self, name: str, prompt: str | list[int]) -> httpx.Response:
        return await self._client.post("/v1/completions", json={"model": name, "prompt": prompt, "max_tokens": 1})

    async def _events(self, body: Json) -> AsyncGenerator[Json]:
        async with self._client.stream("POST", self.dialect.path, json=body) as answer:
            if answer.is_error:
                raise ServerFailed(f"{self.url} answered {answer.status_code}")
            async for line in _lines(answer):
                data = line.removeprefix(DATA).strip() if line.startswith(DATA) else b""
                if data and data != END:
                    yield _checked(json.loads(data))


async def _lines(answer: httpx.Response) -> AsyncGenerator[bytes]:
    """Lines of an event stream: httpx's own end at U+2028 and its like too, which JSON may hold as they are."""
    rest = b""
    async for part in answer.aiter_bytes():
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            yield line
    yield rest


async def _drain(events: AsyncGenerator[Json]) -> None:
    """Read what follows a text's end: llama-cpp-python takes who closes before it for gone, and fails the next one."""
    with contextlib.suppress(httpx.HTTPError, ValueError):
        async for _ in events:
            pass


def _checked(data: Json) -> Json:
    """Raises: ServerFailed for an error in mid-stream."""
    if "error" in data:
        raise ServerFailed(f"the server reports an error in mid-stream{_kind(data['error'])}")
    return data


def _kind(error: Any) -> str:
    """What kind of error it is, without its words: they may be the prompt's, and this is logged."""
    kind = error.get("type") or error.get("code") if isinstance(error, dict) else None
    return f": {str(kind)[:50]}" if kind else ""
