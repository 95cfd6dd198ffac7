"""Waiting for what the coordinator makes of work that was handed in."""

import threading
import time
from collections.abc import Callable

import httpx

from fai.client import Client, CoordinatorError, CoordinatorUnreachable
from ml.protocol import Receipt

FIRST_PAUSE_SECONDS = 0.5
MAX_PAUSE_SECONDS = 5.0
UNDECIDED_STATES = ("offered", "running", "submitted", "validating")
"""Running: a process that was killed has left the attempt to its lease."""


class Verdicts:
    """A thread that asks after handed-in attempts until each is decided."""

    def __init__(
        self,
        *,
        client: Client,
        on_verdict: Callable[[Receipt], None],
        settle: Callable[[int, Receipt | None], None],
    ) -> None:
        self._client = client
        self._on_verdict = on_verdict
        self._settle = settle
        self._waiting: dict[int, bool] = {}
        """Whether the volunteer waits for it too."""
        self._changed = threading.Condition()
        self._is_closed = False
        threading.Thread(target=self._run, name="fai-verdicts", daemon=True).start()

    def await_verdict(self, attempt_id: int) -> None:
        """Have the volunteer told, and the attempt settled."""
        self._wait_for(attempt_id, is_told=True)

    def ask_after(self, attempt_id: int) -> None:
        """Have the attempt settled; the volunteer knows what became of it, or has forgotten it."""
        self._wait_for(attempt_id, is_told=False)

    def close(self, *, patience_seconds: float) -> None:
        """Stop asking once the volunteer knows all, or after `patience_seconds`."""
        with self._changed:
            self._changed.wait_for(lambda: not any(self._waiting.values()), patience_seconds)
            self._is_closed = True
            self._changed.notify_all()

    def _wait_for(self, attempt_id: int, *, is_told: bool) -> None:
        with self._changed:
            self._waiting[attempt_id] = is_told or self._waiting.get(attempt_id, False)
            self._changed.notify_all()

    def _run(self) -> None:
        pause_seconds = FIRST_PAUSE_SECONDS
        while True:
            with self._changed:
                if not self._waiting:
                    pause_seconds = FIRST_PAUSE_SECONDS
                self._changed.wait_for(lambda: self._waiting or self._is_closed)
                if self._is_closed:
                    return
                attempt_ids = sorted(self._waiting)
            for attempt_id in attempt_ids:
                self._ask(attempt_id)
            time.sleep(pause_seconds)
            pause_seconds = min(MAX_PAUSE_SECONDS, 1.5 * pause_seconds)

    def _ask(self, attempt_id: int) -> None:
        try:
            receipt = self._client.attempt(attempt_id)
        except CoordinatorUnreachable:
            return
        except CoordinatorError as error:
            if error.status == httpx.codes.NOT_FOUND:
                self._settle(attempt_id, None)
            self._forget(attempt_id)
            return
        if receipt.state not in UNDECIDED_STATES:
            if self._waiting[attempt_id]:
                self._on_verdict(receipt)
            self._settle(attempt_id, receipt)
            self._forget(attempt_id)

    def _forget(self, attempt_id: int) -> None:
        with self._changed:
            del self._waiting[attempt_id]
            self._changed.notify_all()
