"""Plays many clients that stream completions, cheaply: it shares the cores with the service that it measures.

One event loop over plain connections. Of each chunk no more is read than when it came; JSON is read of the last ones.
"""

import asyncio
import json
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

DATA = b"data: "
END = b"data: [DONE]"
IS_TEXT = b'"usage":null'
TIMEOUT_SECONDS = 120


@dataclass(kw_only=True, slots=True)
class Stream:
    """What a client saw of one request."""

    began_at: float
    arrivals: list[float] = field(default_factory=list)
    """When each chunk with text came."""
    ended_at: float = 0.0
    completion_id: str = ""
    usage: dict[str, int] = field(default_factory=dict)
    finish_reason: str = ""
    error: str = ""

    @property
    def first_token_seconds(self) -> float:
        return self.arrivals[0] - self.began_at

    @property
    def tokens(self) -> int:
        return self.usage.get("completion_tokens", 0)


def play(bodies: Sequence[dict[str, Any]], *, port: int, api_key: str, num_connections: int) -> list[Stream]:
    """Stream every completion, `num_connections` at a time, each over a connection that is kept."""
    return asyncio.run(_play(bodies, port, api_key, num_connections))


async def _play(bodies: Sequence[dict[str, Any]], port: int, api_key: str, num_connections: int) -> list[Stream]:
    waiting = iter([_request(body, api_key) for body in bodies])
    streams: list[Stream] = []
    async with asyncio.timeout(TIMEOUT_SECONDS):
        await asyncio.gather(*(_work(waiting, streams, port) for _ in range(num_connections)))
    return streams


async def _work(waiting: Any, streams: list[Stream], port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with closing(writer):
        for request in waiting:
            stream = Stream(began_at=time.perf_counter())
            streams.append(stream)
            writer.write(request)
            await _read(reader, stream)
            stream.ended_at = time.perf_counter()
    await writer.wait_closed()


async def _read(reader: asyncio.StreamReader, stream: Stream) -> None:
    """One answer, chunked where it is a stream and whole where it is an error."""
    head = await reader.readuntil(b"\r\n\r\n")
    if b"transfer-encoding: chunked" not in head.lower():
        length = next(line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
        stream.error = (await reader.readexactly(int(length))).decode()
        return
    last: list[bytes] = []
    while size := int(await reader.readline(), 16):
        chunk = (await reader.readexactly(size + 2))[:-2]
        if IS_TEXT in chunk:
            stream.arrivals.append(time.perf_counter())
        last = [*last, *chunk.strip().split(b"\n\n")][-3:]
    await reader.readline()
    _note_end(stream, last)


def _note_end(stream: Stream, last: Sequence[bytes]) -> None:
    """Of the last three events: the last text, the usage, the end."""
    if last[-1] != END:
        stream.error = last[-1].decode()
        return
    text, usage = (json.loads(event.removeprefix(DATA)) for event in last[-3:-1])
    stream.completion_id = usage["id"]
    stream.usage = usage["usage"]
    stream.finish_reason = text["choices"][0]["finish_reason"]


def _request(body: dict[str, Any], api_key: str) -> bytes:
    content = json.dumps({**body, "stream": True, "stream_options": {"include_usage": True}}).encode()
    fields = {
        "Host": "127.0.0.1",
        "Authorization": f"Bearer {api_key}",
        "Content-Type": "application/json",
        "Content-Length": str(len(content)),
    }
    head = ["POST /v1/completions HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return "\r\n".join(head).encode() + content
