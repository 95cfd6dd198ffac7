"""A completion service whose parts can be doubled, killed and frozen, and what its engines say of themselves."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx
import openai

from fai_project.processes import Process
from tests.e2e.completion_service import MODEL, START_SECONDS, CompletionService

T = TypeVar("T")
QUESTION: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "x"}], "temperature": 0}


class FaultyService(CompletionService):
    """One engine and one web process, until a test starts more."""

    def start_part(self, name: str, *arguments: str) -> Process:
        self._spawn(name, *arguments)
        return self.parts[name]

    def start_second_engine(self) -> Process:
        """Return once two engines serve the model."""
        engine = self.start_part("engine2", "-m", "django", "serve_engine")
        wait_for(lambda: len([status for status in self.engines() if status.models]) == 2, what="two engines")
        return engine

    def start_second_web(self, port: int) -> Process:
        """Return once it answers."""
        web = self.start_part(
            "web2", "-m", "uvicorn", "fai_project.asgi:application",
            "--port", str(port), "--log-level", "warning", "--no-access-log",
        )  # fmt: skip
        wait_for(lambda: is_up(port), what="the second web process")
        return web

    def end_part(self, name: str) -> None:
        self.parts.pop(name).stop()

    @contextmanager
    def chat(self, *, port: int | None = None, **options: Any) -> Iterator[openai.Stream[Any]]:
        """A stream that has begun, and is dropped where the context ends before it."""
        base_url = self.base_url if port is None else f"http://127.0.0.1:{port}/v1"
        asked = {**QUESTION, "stream_options": {"include_usage": True}, **options}
        with (
            openai.OpenAI(base_url=base_url, api_key=self.keys["rich"], max_retries=0) as client,
            client.chat.completions.create(**asked, stream=True) as chunks,
        ):
            next(chunks)
            yield chunks

    def post(self, **options: Any) -> httpx.Response:
        return httpx.post(
            f"{self.base_url}/chat/completions",
            headers={"Authorization": f"Bearer {self.keys['rich']}"},
            json={**QUESTION, "max_tokens": 1, **options},
            timeout=60,
        )


def is_up(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/api/v1/", timeout=5).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def wait_for(found: Callable[[], T], *, what: str, seconds: float = START_SECONDS) -> T:
    """The first true answer of `found`."""
    deadline = time.monotonic() + seconds
    while not (answer := found()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.1)
    return answer


@contextmanager
def frozen(part: Process) -> Iterator[None]:
    """The part stands still, and goes on afterwards."""
    assert part.pid is not None
    os.kill(part.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(part.pid, signal.SIGCONT)
