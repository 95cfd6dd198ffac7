"""The completion service in real processes: Redis, uvicorn, an engine, a database, and an untrained model."""

import json
import os
import socket
import sqlite3
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
import openai

from fai_project.processes import Process
from fai_project.redis_server import RedisServer

START_SECONDS = 90
MODEL = "study"


@dataclass(frozen=True, kw_only=True)
class Balance:
    """Units: credits."""

    balance: int
    held: int


class CompletionService:
    """Everything that /v1 needs, in `folder`; see completion_seed for what is in the database.

    `database_url` names an empty database other than the file of SQLite, which alone can be asked for balances.
    """

    def __init__(self, folder: Path, *, database_url: str = "") -> None:
        self.folder = folder
        self.redis = RedisServer(folder / "redis")
        self.port = _free_port()
        self.database = folder / "fai.sqlite3"
        self.database_url = database_url or f"sqlite:///{self.database}"
        self.keys: dict[str, str] = {}
        self.parts: dict[str, Process] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "fai_project.settings",
            "FAI_STATE_DIR": str(self.folder),
            "FAI_DATABASE_URL": self.database_url,
            "FAI_SECRET_KEY": "only for these tests",
            "OMP_NUM_THREADS": "1",
            **self.redis.environment,
        }

    def __enter__(self) -> Self:
        self.redis.start()
        try:
            self.run("-m", "django", "migrate", "--verbosity", "0")
            self.keys = json.loads(self.shell("completion_seed.seed()"))
            self._start_web()
            self.start_engine()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop every part, Redis last."""
        for part in reversed(self.parts.values()):
            part.stop()
        self.redis.stop()

    @property
    def engine(self) -> Process:
        return self.parts["engine"]

    def start_engine(self) -> None:
        """Start an engine and return once a completion succeeds."""
        self._spawn("engine", "-m", "django", "serve_engine", "--slots", "4")
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            for part in self.parts.values():
                part.check()
            try:
                answer = httpx.post(
                    f"{self.url}/completions",
                    headers={"Authorization": f"Bearer {self.keys['rich']}"},
                    json={"model": MODEL, "prompt": "ready?", "max_tokens": 1},
                    timeout=10,
                )
            except httpx.TransportError:
                answer = None
            if answer is not None and answer.status_code == httpx.codes.OK:
                return
            time.sleep(0.2)
        raise TimeoutError(f"no completion after {START_SECONDS} s: {answer.text if answer else 'no answer'}")

    def client(self, who: str = "rich") -> openai.OpenAI:
        """OpenAI's own client, as strict as it can be, which asks once."""
        return openai.OpenAI(base_url=self.url, api_key=self.keys[who], max_retries=0, _strict_response_validation=True)

    def shell(self, expression: str) -> str:
        """What `expression` is, evaluated in the service's environment, as text."""
        code = f"from tests.e2e import completion_seed; print({expression})"
        return self.run("-m", "django", "shell", "--no-imports", "-c", code)

    def run(self, *arguments: str) -> str:
        """What one Python process prints, run to its end."""
        log = self.folder / "run.log"
        log.unlink(missing_ok=True)
        process = Process("python", [sys.executable, *arguments], environment=self.environment, log=log)
        process.start()
        code = process.wait(START_SECONDS)
        output = log.read_text(encoding="utf-8")
        assert code == 0, output
        return output

    def balance(self, who: str = "rich") -> Balance:
        rows = self._query(
            "SELECT balance, held FROM contributors_account a"
            " JOIN contributors_contributor c ON a.contributor_id = c.id"
            " WHERE c.nickname = ? AND a.kind = 'available'",
            who,
        )
        return Balance(balance=rows[0][0], held=rows[0][1]) if rows else Balance(balance=0, held=0)

    def last_completion(self) -> tuple[str, int, int, int]:
        """State, prompt tokens, generated tokens and credits of the newest request."""
        rows = self._query(
            "SELECT c.state, prompt_tokens, completion_tokens, captured_amount FROM inference_completion c"
            " JOIN contributors_hold h ON c.hold_id = h.id ORDER BY c.id DESC LIMIT 1"
        )
        state, prompt_tokens, completion_tokens, credits_paid = rows[0]
        return state, prompt_tokens, completion_tokens, credits_paid

    def wait_until_settled(self, *, seconds: float = 15) -> tuple[str, int, int, int]:
        """The newest request, once it is over."""
        deadline = time.monotonic() + seconds
        while self.last_completion()[0] == "running":
            assert time.monotonic() < deadline, "the request is still running"
            time.sleep(0.05)
        return self.last_completion()

    def _query(self, sql: str, *values: str) -> list[tuple[object, ...]]:
        connection = sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=20)
        try:
            return connection.execute(sql, values).fetchall()
        finally:
            connection.close()

    def _start_web(self) -> None:
        uvicorn = ("-m", "uvicorn", "fai_project.asgi:application", "--port", str(self.port), "--log-level", "warning")
        self._spawn("web", *uvicorn)

    def _spawn(self, name: str, *arguments: str) -> None:
        process = Process(
            name, [sys.executable, *arguments], environment=self.environment, log=self.folder / f"{name}.log"
        )
        self.parts[name] = process
        process.start()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
