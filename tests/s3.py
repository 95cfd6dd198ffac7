"""S3 stores that do not work, over real HTTP, and the settings that lead to them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from botocore.config import Config

NOWHERE = "http://127.0.0.1:1"


def storages(settings: Any, *, endpoint_url: str = NOWHERE) -> dict[str, Any]:
    """STORAGES with the default one at `endpoint_url`, which is asked once and not again."""
    options = {
        "bucket_name": "fai",
        "endpoint_url": endpoint_url,
        "access_key": "key",
        "secret_key": "secret",
        "client_config": Config(signature_version="s3v4", retries={"max_attempts": 0}),
    }
    return {**settings.STORAGES, "default": {"BACKEND": "storages.backends.s3.S3Storage", "OPTIONS": options}}


class _Refusing(BaseHTTPRequestHandler):
    """Knows nobody."""

    def do_HEAD(self) -> None:
        self.send_response(403)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()

    def do_PUT(self) -> None:
        self.do_HEAD()

    def do_DELETE(self) -> None:
        self.do_HEAD()

    def log_message(self, format: str, *arguments: object) -> None:
        pass


class _BreakingOff(_Refusing):
    """Promises a file, and ends in its midst."""

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(b"half")


@contextmanager
def refusing_store() -> Iterator[str]:
    """Address of a store that refuses every call."""
    with _serving(_Refusing) as url:
        yield url


@contextmanager
def store_that_breaks_off() -> Iterator[str]:
    """Address of a store that has every file, and never sends one whole."""
    with _serving(_BreakingOff) as url:
        yield url


@contextmanager
def _serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
