"""The completion service in real processes: a whole coordinator, and an untrained model that its engine serves."""

import json
import sqlite3
import time
from dataclasses import dataclass
from typing import Any

import httpx
import openai
from redis import Redis
from redis.exceptions import RedisError

from fai_project.local import LocalCoordinator
from fai_project.processes import Process
from inference import wire
from inference.status import EngineStatus

START_SECONDS = 90
MODEL = "study"


@dataclass(frozen=True, kw_only=True)
class Balance:
    """Units: credits."""

    balance: int
    held: int


@dataclass(frozen=True, kw_only=True)
class Bill:
    """What became of one request."""

    state: str
    prompt_tokens: int
    completion_tokens: int
    credits_paid: int


class CompletionService(LocalCoordinator):
    """See completion_seed for what is in the database; only a file of SQLite can be asked for balances and bills."""

    keys: dict[str, str]

    def start(self, *, engine: bool = True) -> None:
        """Start everything and return once a completion succeeds."""
        super().start(engine=False)
        try:
            self.keys = json.loads(self.evaluate("seed()"))
            self.start_engine()
        except BaseException:
            self.stop()
            raise

    @property
    def engine(self) -> Process:
        return self.parts["engine"]

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    def start_engine(self) -> None:
        """Start an engine and return once a completion succeeds."""
        self._spawn("engine", "-m", "django", "serve_engine")
        deadline = time.monotonic() + START_SECONDS
        while (answer := self._try()).status_code != httpx.codes.OK:
            self.check()
            assert time.monotonic() < deadline, answer.text
            time.sleep(0.2)

    def client(self, who: str = "rich") -> openai.OpenAI:
        """OpenAI's own client, as strict as it can be, which asks once."""
        return openai.OpenAI(
            base_url=self.base_url, api_key=self.keys[who], max_retries=0, _strict_response_validation=True
        )

    def evaluate(self, expression: str) -> str:
        """What a call of completion_seed returns, as text, in the service's environment."""
        log = self.log_dir / "shell.log"
        log.unlink(missing_ok=True)
        code = f"from tests.e2e import completion_seed; print(completion_seed.{expression})"
        self.run_manage("shell", "--no-imports", "-c", code)
        return log.read_text(encoding="utf-8").strip()

    def engines(self) -> list[EngineStatus]:
        """What the living engines say; nothing while Redis is away."""
        with Redis.from_url(self.redis.url) as redis:
            try:
                keys = [wire.alive_key(name.decode()) for name in redis.smembers(wire.ENGINES_KEY)]
                return [EngineStatus.decode(told) for key in keys if (told := redis.get(key)) is not None]
            except RedisError:
                return []

    def num_running(self) -> int:
        """Requests that engines work on."""
        return sum(model.num_running for engine in self.engines() for model in engine.models)

    def balance(self, who: str = "rich") -> Balance:
        rows = self._query(
            "SELECT balance, held FROM contributors_account a"
            " JOIN contributors_contributor c ON a.contributor_id = c.id"
            " WHERE c.nickname = ? AND a.kind = 'available'",
            who,
        )
        return Balance(balance=rows[0][0], held=rows[0][1])

    def wait_for_bill(self, *, seconds: float = 15) -> Bill:
        """The newest request's, once it is over."""
        deadline = time.monotonic() + seconds
        while (bill := self._last_bill()).state == "running":
            assert time.monotonic() < deadline, "the request is still running"
            time.sleep(0.05)
        return bill

    def count(self, state: str) -> int:
        """Requests in that state."""
        return int(self._query("SELECT count(*) FROM inference_completion WHERE state = ?", state)[0][0])

    def _last_bill(self) -> Bill:
        rows = self._query(
            "SELECT c.state, prompt_tokens, completion_tokens, captured_amount FROM inference_completion c"
            " JOIN contributors_hold h ON c.hold_id = h.id ORDER BY c.id DESC LIMIT 1"
        )
        state, prompt_tokens, completion_tokens, credits_paid = rows[0]
        return Bill(
            state=state,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            credits_paid=credits_paid,
        )

    def _try(self) -> httpx.Response:
        return httpx.post(
            f"{self.base_url}/completions",
            headers={"Authorization": f"Bearer {self.keys['rich']}"},
            json={"model": MODEL, "prompt": "ready?", "max_tokens": 1},
            timeout=30,
        )

    def _query(self, sql: str, *values: str) -> list[tuple[Any, ...]]:
        connection = sqlite3.connect(f"file:{self.folder / 'fai.sqlite3'}?mode=ro", uri=True, timeout=20)
        try:
            return connection.execute(sql, values).fetchall()
        finally:
            connection.close()
