"""What servers answer that llama-server does not, by one that says what it is told to."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from inference.external.server import ExternalServer, ServerFailed
from tests.ml.make import make_tokenizer

SECRET_WORD = "Kaninchenbau"


@dataclass
class Script:
    url: str
    owner: str = "llamacpp"
    statuses: list[int] = field(default_factory=list)
    """Of the next answers to POST; 200 afterwards."""
    body: bytes = b""
    num_posts: int = 0


@pytest.fixture
def script() -> Iterator[Script]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Quiet."""

        def do_GET(self) -> None:
            self.answer(200, json.dumps({"data": [{"id": "m", "owned_by": told.owner}]}).encode())

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            told.num_posts += 1
            self.answer(told.statuses.pop(0) if told.statuses else 200, told.body)

        def answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        told = Script(url=f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield told
        server.shutdown()
        thread.join()


def event(**data: Any) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\n\n"


def piece(text: str, num_tokens: int, *, is_last: bool = False) -> bytes:
    return event(content=text, tokens_predicted=num_tokens, stop=is_last, stop_type="limit")


async def read(script: Script) -> str:
    server = ExternalServer(script.url, api_key="", tokenizer=make_tokenizer())
    try:
        await server.probe()
        return "".join([chunk.text async for chunk in server.stream({"prompt": SECRET_WORD})])
    finally:
        await server.close()


@pytest.mark.parametrize("line_end", ["\u2028", "\u2029", "\u0085", "\v", "\f", "\x1c"])
async def test_a_text_may_hold_what_other_texts_end_a_line_with(script: Script, line_end: str) -> None:
    text = f"a{line_end}b"
    script.body = piece(text, 2) + piece("c", 3, is_last=True)
    assert await read(script) == f"{text}c"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, json.dumps({"error": {"message": SECRET_WORD, "type": "too_long"}}).encode()),
        (200, event(error={"message": SECRET_WORD, "type": "too_long"})),
        (200, event(error=SECRET_WORD)),
    ],
)
async def test_an_errors_words_are_not_told_since_they_may_be_the_prompts(
    script: Script, status: int, body: bytes
) -> None:
    script.statuses, script.body = [status] * 3, body
    with pytest.raises(ServerFailed) as error:
        await read(script)
    assert SECRET_WORD not in str(error.value)


@pytest.mark.parametrize(("statuses", "takes_tokens"), [([200], True), ([422, 200], False), ([500, 200], False)])
async def test_a_server_that_takes_a_text_is_asked_whether_it_takes_tokens(
    script: Script, statuses: list[int], *, takes_tokens: bool
) -> None:
    script.owner, script.statuses = "somebody", [*statuses]
    server = ExternalServer(script.url, api_key="", tokenizer=make_tokenizer())
    await server.probe()
    await server.close()
    assert server.dialect._takes_tokens is takes_tokens
    assert script.num_posts == len(statuses)


async def test_a_server_that_is_busy_as_it_is_asked_first_is_asked_again(script: Script) -> None:
    script.owner, script.statuses = "somebody", [503, 503]
    server = ExternalServer(script.url, api_key="", tokenizer=make_tokenizer())
    with pytest.raises(ServerFailed, match="503"):
        await server.probe()
    await server.probe()
    await server.close()
    assert server.dialect._takes_tokens
