"""The guard before Django: a body that is too large, or whose size nobody knows, is refused before it is read."""

import asyncio
import json
from typing import Any

import pytest

from fai_project.body_limit import MAX_BODY_BYTES, Message, Receive, Send, limit_bodies
from ml.protocol import UPLOAD_CHUNK_BYTES


async def answer_ok(scope: Message, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


def ask(*headers: tuple[bytes, bytes], kind: str = "http", path: str = "/api/v1/me") -> tuple[list[Message], int]:
    """What the guarded application sent, and how often it read."""
    sent: list[Message] = []
    reads = 0

    async def receive() -> Message:
        nonlocal reads
        reads += 1
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    scope: dict[str, Any] = {"type": kind, "path": path, "headers": list(headers)}
    asyncio.run(limit_bodies(answer_ok)(scope, receive, send))
    return sent, reads


def test_one_piece_of_a_delta_fits() -> None:
    assert MAX_BODY_BYTES >= UPLOAD_CHUNK_BYTES


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"content-length", b"0")],
        [(b"content-length", str(MAX_BODY_BYTES).encode())],
        [(b"transfer-encoding", b"identity")],
    ],
)
def test_a_request_within_the_limit_passes(headers: list[tuple[bytes, bytes]]) -> None:
    sent, reads = ask(*headers)
    assert sent[0]["status"] == 200
    assert reads == 1


@pytest.mark.parametrize(
    "headers",
    [
        [(b"content-length", str(MAX_BODY_BYTES + 1).encode())],
        [(b"content-length", b"9" * 20)],
        [(b"content-length", b"9" * 10_000)],
        [(b"content-length", b"-1")],
        [(b"content-length", b"")],
        [(b"content-length", b"1e3")],
        [(b"transfer-encoding", b"chunked")],
        [(b"transfer-encoding", b"gzip, Chunked"), (b"content-length", b"1")],
    ],
)
def test_what_is_too_large_or_of_unknown_size_is_refused_unread(headers: list[tuple[bytes, bytes]]) -> None:
    sent, reads = ask(*headers)
    assert reads == 0
    assert sent[0]["status"] == 413
    assert (b"connection", b"close") in sent[0]["headers"]
    assert (b"content-type", b"application/problem+json") in sent[0]["headers"]
    problem = json.loads(sent[1]["body"])
    assert (problem["status"], problem["code"]) == (413, "body_too_large")


@pytest.mark.parametrize("kind", ["lifespan", "websocket"])
def test_other_protocols_pass(kind: str) -> None:
    sent, _ = ask((b"content-length", b"9" * 20), kind=kind)
    assert sent[0]["status"] == 200


def test_completions_are_refused_with_openais_error() -> None:
    sent, reads = ask((b"content-length", str(MAX_BODY_BYTES + 1).encode()), path="/v1/completions")
    assert (sent[0]["status"], reads) == (413, 0)
    assert json.loads(sent[1]["body"])["error"]["code"] == "request_too_large"
