"""The service that is measured, and the same engine without it; what each process takes of the cores."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from benchmarks.serving.service_load import play
from benchmarks.serving.service_rows import MODEL
from fai_project.local import LocalCoordinator

NUM_CORES = 2
NUM_STREAMS = 8
NUM_SLOTS = 64
"""Of the service's engine, where not said otherwise: nobody waits for a place."""
PROMPT_TOKENS = 16
MAX_TOKENS = 192
START_SECONDS = 90


class ServiceNotReady(RuntimeError):
    """No completion succeeded in time; the message is the last answer."""


class MeasuredService(LocalCoordinator):
    """A coordinator with a model of random weights."""

    num_threads: int | None = None
    """Of an engine; None: its own choice."""
    num_slots = NUM_SLOTS
    keys: dict[str, str]

    def start(self, *, engine: bool = True, preset: str = "m4") -> None:
        super().start(engine=False)
        try:
            self.run_rows("make", preset)
            self.keys = json.loads((self.folder / "keys.json").read_text())
            self.start_engine("engine")
        except BaseException:
            self.stop()
            raise

    def start_engine(self, name: str) -> None:
        """Start one more, which may not serve yet."""
        threads = [] if self.num_threads is None else ["--threads", str(self.num_threads)]
        self._spawn(name, "-m", "django", "serve_engine", "--slots", str(self.num_slots), *threads)

    def wait_until_served(self) -> None:
        """Return once a completion succeeds.

        Raises: ServiceNotReady.
        """
        deadline = time.monotonic() + START_SECONDS
        asked = [body(0, max_tokens=2)]
        while error := play(asked, port=self.port, api_key=self.keys["rich"], num_connections=1)[0].error:
            self.check()
            if time.monotonic() > deadline:
                raise ServiceNotReady(error)
            time.sleep(0.5)

    @property
    def checkpoint(self) -> Path:
        """The largest file in storage."""
        return max((self.folder / "storage").rglob("*"), key=lambda path: path.stat().st_size)

    def cpu_seconds(self) -> dict[str, float]:
        """What each part, and this process with its clients, has taken of the cores so far."""
        pids = {
            "redis": self.redis.pid,
            **{name: part.pid for name, part in self.parts.items()},
            "clients": os.getpid(),
        }
        return {name: cpu_seconds(pid) for name, pid in pids.items() if pid is not None}

    def run_rows(self, call: str, *arguments: str) -> None:
        command = [sys.executable, "-m", "benchmarks.serving.service_rows", call, str(self.folder), *arguments]
        subprocess.run(command, env=self.environment, check=True)

    def read_bills(self) -> dict[str, Any]:
        self.run_rows("bills")
        bills: dict[str, Any] = json.loads((self.folder / "bills.json").read_text())
        return bills


class OwnRate:
    """The engine alone in a process of its own, which sleeps between measurements."""

    def __init__(self, checkpoint: Path, *, num_rounds: int, environment: dict[str, str]) -> None:
        numbers = (NUM_STREAMS, NUM_CORES, PROMPT_TOKENS, MAX_TOKENS, num_rounds)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.serving.service_engine", str(checkpoint), *map(str, numbers)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def measure(self) -> float:
        """Units: tokens a second."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())


def cpu_seconds(pid: int) -> float:
    """User and system time of a process; 0 where the system does not tell."""
    path = Path(f"/proc/{pid}/stat")
    if not path.exists():
        return 0.0
    fields = path.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def keep_to_cores(num_cores: int) -> None:
    """Keep this process, and all that it starts, to so many cores, where the system can."""
    if sys.platform == "linux":
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:num_cores])


@contextmanager
def started(
    preset: str, num_threads: int | None = None, *, num_slots: int = NUM_SLOTS, database_url: str = ""
) -> Iterator[MeasuredService]:
    with tempfile.TemporaryDirectory(prefix="fai-serving-") as folder:
        service = MeasuredService(Path(folder), database_url=database_url)
        service.num_threads, service.num_slots = num_threads, num_slots
        try:
            service.start(preset=preset)
            service.wait_until_served()
            yield service
        finally:
            service.stop()


def body(number: int, *, max_tokens: int) -> dict[str, Any]:
    """A greedy completion with a prompt of its own."""
    prompt = [100 + number + place for place in range(PROMPT_TOKENS)]
    return {"model": MODEL, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0}
