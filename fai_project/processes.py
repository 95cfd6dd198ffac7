"""Child processes that end with us: stopped in order when we stop, by a watchdog should we be killed."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

STOP_SECONDS = 15
# The pipe on its standard input closes when this process dies, however it dies; $1 is the child's process group.
_WATCHDOG = 'read -r _; kill -TERM "-$1" 2>/dev/null'


class ProcessDied(RuntimeError):
    """A child ended although nobody asked it to; the message has its last words."""


class Process:
    """One child in a session of its own, so that Ctrl+C in a terminal reaches us and we stop it in our order."""

    def __init__(self, name: str, command: Sequence[str], *, environment: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.log = log
        self._command = list(command)
        self._environment = dict(environment)
        self._child: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child else None

    @property
    def is_running(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def start(self) -> None:
        """Start the child; its output is appended to the log."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._watchdog = subprocess.Popen(
            ["sh", "-c", _WATCHDOG, "sh", str(self._child.pid)], stdin=subprocess.PIPE, start_new_session=True
        )

    def check(self) -> None:
        """Raises: ProcessDied."""
        if not self.is_running:
            raise ProcessDied(f"{self.name} ended unexpectedly; its log is {self.log}:\n{self.last_lines()}")

    def interrupt(self) -> None:
        """What Ctrl+C does."""
        self._signal(signal.SIGINT)

    def kill(self) -> None:
        """kill -9, and nothing else: the child gets no chance to tidy up."""
        self._signal(signal.SIGKILL)
        self._wait()

    def stop(self) -> int | None:
        """Ask the child to end, wait, and insist; its exit code, None if it was never started."""
        self._signal(signal.SIGTERM)
        return self._wait()

    def wait(self, seconds: float) -> int:
        """Exit code of a child that ends by itself.

        Raises: subprocess.TimeoutExpired.
        """
        assert self._child is not None
        code = self._child.wait(seconds)
        self._wait()
        return code

    def last_lines(self, num_lines: int = 12) -> str:
        """The end of the log."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-num_lines:])

    def _signal(self, number: signal.Signals) -> None:
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(number)

    def _end_orphans(self) -> None:
        """Kill what the child has left behind in its session, such as the beat of a killed control plane."""
        assert self._child is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGKILL)

    def _wait(self) -> int | None:
        if self._child is None:
            return None
        try:
            code = self._child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._child.kill()
            code = self._child.wait()
        self._end_orphans()
        if self._watchdog is not None:
            self._watchdog.kill()
            self._watchdog.wait()
            if self._watchdog.stdin is not None:
                self._watchdog.stdin.close()
            self._watchdog = None
        return code
