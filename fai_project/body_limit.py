"""Refuses oversized bodies before a byte of them is kept: Django under ASGI spools a body before any view runs."""

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from ml.protocol import UPLOAD_CHUNK_BYTES

MAX_BODY_BYTES = UPLOAD_CHUNK_BYTES
Scope = dict[str, Any]
Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

SENTENCE = f"A request body may have at most {MAX_BODY_BYTES} bytes and must announce its length."
PROBLEM = {
    "type": "about:blank",
    "title": "Content Too Large",
    "status": 413,
    "code": "body_too_large",
    "detail": SENTENCE,
}


def limit_bodies(app: App) -> App:
    """`app` behind a guard that answers 413 to a body that is announced larger than MAX_BODY_BYTES, or not announced.

    A server keeps the body to its announced length, so nothing else need be counted.
    """

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and _is_too_large(dict(scope["headers"])):
            content_type, body = _refusal(scope["path"])
            headers = [(b"content-type", content_type), (b"connection", b"close")]
            await send({"type": "http.response.start", "status": 413, "headers": headers})
            await send({"type": "http.response.body", "body": body})
            return
        await app(scope, receive, send)

    return guarded


def _refusal(path: str) -> tuple[bytes, bytes]:
    """Content type and body, in the form that this part of the site speaks."""
    if path.startswith("/v1/"):
        error = {"message": SENTENCE, "type": "invalid_request_error", "param": None, "code": "request_too_large"}
        return b"application/json", json.dumps({"error": error}).encode()
    return b"application/problem+json", json.dumps(PROBLEM).encode()


def _is_too_large(headers: dict[bytes, bytes]) -> bool:
    if b"chunked" in headers.get(b"transfer-encoding", b"").lower():
        return True
    length = headers.get(b"content-length", b"0")
    # More digits than 20 are no length that any server keeps, and int() refuses thousands of them.
    return not length.isdigit() or len(length) > 20 or int(length) > MAX_BODY_BYTES
