"""Requests that no client of goodwill sends: each is refused in OpenAI's shape, by name, and costs nothing."""

import json
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.completion_service import MODEL, CompletionService

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CompletionService]:
    with CompletionService(tmp_path_factory.mktemp("hostile")) as running:
        yield running
        assert running.evaluate("violations()") == "[]"


def body(**fields: Any) -> bytes:
    return json.dumps({"model": MODEL, "prompt": "x", "max_tokens": 1, **fields}).encode()


def with_number(name: str, number: bytes) -> bytes:
    return b'{"model": "study", "prompt": "x", "%s": %s}' % (name.encode(), number)


BODIES = {
    "deep list": (b'{"model": "study", "prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400),
    "deep object": (b'{"a": ' * 50_000 + b"1" + b"}" * 50_000, 400),
    "three megabytes": (body(prompt="a " * 1_500_000), 400),
    "ten megabytes": (body(prompt="a " * 5_000_000), 413),
    "not a number": (with_number("temperature", b"NaN"), 400),
    "infinity": (with_number("temperature", b"-Infinity"), 400),
    "beyond a double": (with_number("temperature", b"1e999"), 400),
    "thousands of digits": (with_number("seed", b"1" * 4_000), 400),
    "more digits than are read": (with_number("max_tokens", b"1" * 5_000), 400),
    "digits in a bias": (b'{"model": "study", "prompt": "x", "logit_bias": {"' + b"9" * 5_000 + b'": 1}}', 400),
    "a huge token": (b'{"model": "study", "prompt": [' + b"1" * 4_000 + b"]}", 400),
    "no UTF-8": (b'{"model": "study", "prompt": "\xff\xfe"}', 400),
    "UTF-16": ('{"model": "study", "prompt": "x"}'.encode("utf-16"), 400),
    "half a surrogate pair": (body(prompt="\ud800"), 400),
    "half a surrogate pair as a model": (body(model="\ud800"), 404),
    "half a surrogate pair as a name": (b'{"model": "study", "prompt": "x", "\\ud800": 1}', 400),
    "NUL in a model": (body(model="a\0b"), 404),
    "a round beyond integers": (body(model=f"{MODEL}@{10**30}"), 404),
    "thousands of stops": (body(stop=[str(number) for number in range(5_000)]), 400),
    "null": (b"null", 400),
    "a list": (b"[]", 400),
    "nothing": (b"", 400),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_hostile_body_is_refused(service: CompletionService, name: str) -> None:
    content, status = BODIES[name]
    before = service.balance()
    answer = post(service, content)
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert service.balance() == before


@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data; boundary=x", "application/xml", ""])
def test_another_content_type_is_refused(service: CompletionService, kind: str) -> None:
    assert post(service, body(), **{"Content-Type": kind}).status_code == 415


@pytest.mark.parametrize("secret", ["_", "fai_sk_abcdefgh_\xe9", "a" * 60_000, "fai_sk_" + "_" * 5_000])
def test_a_hostile_key_is_refused(service: CompletionService, secret: str) -> None:
    answer = post(service, body(), Authorization=f"Bearer {secret}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")


@pytest.mark.parametrize("name", ["a" * 5_000, "two words", "<script>", "%0d%0aSet-Cookie:x=1"])
def test_a_hostile_request_id_is_replaced(service: CompletionService, name: str) -> None:
    answer = post(service, b"{}", **{"x-request-id": name})
    assert answer.headers["x-request-id"].startswith("req_")
    assert "Set-Cookie" not in answer.headers


def test_requests_in_one_packet_are_answered_in_turn(service: CompletionService) -> None:
    content = body()
    one = (
        f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {service.keys['rich']}\r\nContent-Length: {len(content)}\r\n"
    ).encode()
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as connection:
        connection.sendall((one + b"\r\n" + content) * 5 + one + b"Connection: close\r\n\r\n" + content)
        answers = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert answers.count(b"HTTP/1.1 200 OK") == 6


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells what a process takes")
def test_a_client_that_never_reads_is_not_generated_for_in_memory(service: CompletionService) -> None:
    content = body(prompt="x", max_tokens=900, n=64, stream=True, temperature=0)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2_048)
        connection.connect(("127.0.0.1", service.port))
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            + f"Authorization: Bearer {service.keys['rich']}\r\nContent-Length: {len(content)}\r\n\r\n".encode()
            + content
        )
        time.sleep(1)
        before = memory_bytes(service)
        time.sleep(3)
        assert memory_bytes(service) - before < 16 * 2**20
    deadline = time.monotonic() + 30
    while service.balance().held:
        assert time.monotonic() < deadline, "credits are still held"
        time.sleep(0.1)


def post(service: CompletionService, content: bytes, **headers: str) -> httpx.Response:
    fields = {
        "Authorization": f"Bearer {service.keys['rich']}",
        "Content-Type": "application/json",
        **headers,
    }
    encoded = {name.encode(): value.encode("latin-1") for name, value in fields.items()}
    return httpx.post(f"{service.base_url}/completions", content=content, headers=encoded, timeout=60)


def memory_bytes(service: CompletionService) -> int:
    """Of the web process, as Linux tells it."""
    return int(Path(f"/proc/{service.parts['web'].pid}/statm").read_text(encoding="ascii").split()[1]) * 4_096
