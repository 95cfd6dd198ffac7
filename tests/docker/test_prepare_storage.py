"""docker/prepare_storage.py against a store of a few lines that speaks HTTP."""

import runpy
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from storages.backends.s3 import S3Storage

from tests.docker.compose import DOCKER

SCRIPT = runpy.run_path(str(DOCKER / "prepare_storage.py"))
make_bucket, StorageNotReady = SCRIPT["make_bucket"], SCRIPT["StorageNotReady"]


class Store(ThreadingHTTPServer):
    """Answers HEAD and PUT on buckets; the first `failures` requests get `failure_status`."""

    def __init__(self, *, failures: int = 0, failure_status: int = 503) -> None:
        super().__init__(("127.0.0.1", 0), StoreHandler)
        self.failures = failures
        self.failure_status = failure_status
        self.buckets: set[str] = set()
        self.num_puts = 0

    def as_storage(self) -> S3Storage:
        return S3Storage(
            bucket_name="fai",
            endpoint_url=f"http://127.0.0.1:{self.server_port}",
            access_key="key",
            secret_key="secret",
            signature_version="s3v4",
        )


class StoreHandler(BaseHTTPRequestHandler):
    server: Store

    def do_HEAD(self) -> None:
        self._answer(200 if self.path in self.server.buckets else 404)

    def do_PUT(self) -> None:
        self.server.num_puts += 1
        if self.server.failures <= 0:
            self.server.buckets.add(self.path)
        self._answer(200)

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def _answer(self, status: int) -> None:
        failing = self.server.failures > 0
        self.server.failures -= 1
        self.send_response(self.server.failure_status if failing else status)
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture
def store() -> Iterator[Store]:
    store = Store()
    thread = threading.Thread(target=store.serve_forever)
    thread.start()
    yield store
    store.shutdown()
    thread.join()
    store.server_close()


def test_a_missing_bucket_is_made_once(store: Store):
    make_bucket(store.as_storage(), patience_seconds=5, delay_seconds=0.01)
    make_bucket(store.as_storage(), patience_seconds=5, delay_seconds=0.01)
    assert store.buckets == {"/fai"}
    assert store.num_puts == 1


def test_a_store_that_is_still_starting_is_waited_for(store: Store):
    store.failures = 3
    make_bucket(store.as_storage(), patience_seconds=60, delay_seconds=0.01)
    assert store.buckets == {"/fai"}


def test_a_store_that_refuses_ends_with_a_sentence_that_names_the_bucket(store: Store):
    store.failures, store.failure_status = 10**6, 403
    with pytest.raises(StorageNotReady, match="bucket 'fai'"):
        make_bucket(store.as_storage(), patience_seconds=0.05, delay_seconds=0.01)
    assert store.buckets == set()
