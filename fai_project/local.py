"""A whole coordinator on this machine, each part a process of its own: Redis, web, control plane, engine."""

import json
import os
import secrets
import socket
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from fai_project.processes import Process
from fai_project.redis_server import RedisServer

START_SECONDS = 90


class NotReady(RuntimeError):
    """The web process did not answer in time; the message has its last words."""


class LocalCoordinator:
    """SQLite or `database_url`, an embedded Redis, files in `folder`, everything on loopback and a free port."""

    def __init__(self, folder: Path, *, database_url: str = "", timers: dict[str, str] | None = None) -> None:
        self.folder = folder.resolve()
        self.port = _free_port()
        self.redis = RedisServer(self.folder / "redis")
        self.log_dir = self.folder / "logs"
        self._own = {
            "DJANGO_SETTINGS_MODULE": "fai_project.settings",
            "FAI_STATE_DIR": str(self.folder),
            "FAI_DATABASE_URL": database_url or f"sqlite:///{self.folder / 'fai.sqlite3'}",
            "FAI_SECRET_KEY": secrets.token_urlsafe(48),
            "OMP_NUM_THREADS": "1",
            # Threads that spin while they wait would take the cores from the volunteers on the same machine.
            "OMP_WAIT_POLICY": "PASSIVE",
            **(timers or {}),
        }
        self.parts: dict[str, Process] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """For every process of the coordinator."""
        return {**os.environ, **self._own, **self.redis.environment}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, *, engine: bool = True) -> None:
        """Start everything and return once pages are served.

        Raises: redis_server.RedisMissing, RedisFailed; NotReady.
        """
        try:
            self.start_web()
            self._spawn(
                "control", "-m", "celery", "-A", "fai_project", "worker", "--beat", "--pool", "threads",
                "--concurrency", "4", "--queues", "control,data,merge,evaluate", "--loglevel", "INFO",
                "--schedule", str(self.folder / "beat"), "--without-gossip", "--without-mingle",
            )  # fmt: skip
            if engine:
                self._spawn("engine", "-m", "django", "serve_engine")
            self.wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def start_web(self, *, num_workers: int = 1) -> None:
        """Start Redis and the web processes on a migrated database, and nothing else; they may not answer yet.

        Raises: redis_server.RedisMissing, RedisFailed; processes.ProcessDied.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self.redis.start()
        self.run_manage("migrate", "--verbosity", "0")
        self._spawn(
            "web", "-m", "uvicorn", "fai_project.asgi:application",
            "--port", str(self.port), "--workers", str(num_workers), "--log-level", "warning", "--no-access-log",
        )  # fmt: skip

    def stop(self) -> None:
        """Stop everything, Redis last."""
        for part in reversed(self.parts.values()):
            part.stop()
        self.redis.stop()

    def run_manage(self, *arguments: str) -> None:
        """Run one management command to its end.

        Raises: processes.ProcessDied when it fails.
        """
        command = Process(
            f"manage.py {arguments[0]}",
            [sys.executable, "-m", "django", *arguments],
            environment=self.environment,
            log=self.log_dir / f"{arguments[0]}.log",
        )
        command.start()
        if command.wait(START_SECONDS):
            command.check()

    def wait_until_ready(self) -> None:
        """Raises: NotReady, processes.ProcessDied."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            self.parts["web"].check()
            try:
                if httpx.get(f"{self.url}/api/v1/", timeout=5).status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:
                time.sleep(0.1)
        raise NotReady(f"the web process does not answer:\n{self.parts['web'].last_lines()}")

    def check(self) -> None:
        """Raises: processes.ProcessDied when a part has ended."""
        for part in self.parts.values():
            part.check()

    def _spawn(self, name: str, *arguments: str) -> None:
        part = Process(
            name,
            [sys.executable, *arguments],
            environment=self.environment,
            log=self.log_dir / f"{name}.log",
        )
        self.parts[name] = part
        part.start()


class LocalVolunteer:
    """One volunteer: a nickname, a configuration folder of its own, and a `celery -A fai worker` process."""

    def __init__(self, folder: Path, *, url: str, nickname: str, experiment: str | None = None) -> None:
        self.folder = folder.resolve()
        self.nickname = nickname
        self.url = url
        self._experiment = experiment
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("FAI_", "DJANGO_"))},
            "FAI_CONFIG_DIR": str(self.folder / "config"),
            "FAI_CACHE_DIR": str(self.folder / "cache"),
            "FAI_DEVICE": nickname,
            "FAI_THREADS": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
        }
        self.worker = Process(
            f"volunteer {nickname}",
            [sys.executable, "-m", "celery", "-A", "fai", "worker"],
            environment=self.environment,
            log=self.folder / "worker.log",
        )

    def join(self) -> None:
        """`fai join URL --name NICKNAME`.

        Raises: processes.ProcessDied when it fails.
        """
        chosen = ["--experiment", self._experiment] if self._experiment else []
        joining = Process(
            f"fai join ({self.nickname})",
            [str(Path(sys.executable).with_name("fai")), "join", self.url, "--name", self.nickname, *chosen],
            environment=self.environment,
            log=self.folder / "join.log",
        )
        joining.start()
        if joining.wait(START_SECONDS):
            joining.check()

    def api_key(self) -> str:
        """The key that joining stored."""
        stored = json.loads((self.folder / "config" / "credentials.json").read_text(encoding="utf-8"))
        return str(stored["servers"][stored["current"]]["api_key"])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
