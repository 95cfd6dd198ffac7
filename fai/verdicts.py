"""Waiting for what the coordinator makes of work that was handed in."""

import threading
import time
from collections.abc import Callable

from fai.client import Client, CoordinatorError, CoordinatorUnreachable
from ml.protocol import Receipt

FIRST_PAUSE_SECONDS = 0.5
MAX_PAUSE_SECONDS = 5.0
UNDECIDED_STATES = ("submitted", "validating")


class Verdicts:
    """A thread that asks after handed-in attempts until each is decided."""

    def __init__(self, *, client: Client, on_verdict: Callable[[Receipt], None]) -> None:
        self._client = client
        self._on_verdict = on_verdict
        self._waiting: set[int] = set()
        self._changed = threading.Condition()
        self._is_closed = False
        threading.Thread(target=self._run, name="fai-verdicts", daemon=True).start()

    def await_verdict(self, attempt_id: int) -> None:
        with self._changed:
            self._waiting.add(attempt_id)
            self._changed.notify_all()

    def close(self, *, patience_seconds: float) -> None:
        """Stop asking once all is decided, or after `patience_seconds`."""
        deadline = time.monotonic() + patience_seconds
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting, max(0.0, deadline - time.monotonic()))
            self._is_closed = True
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
        except CoordinatorError:
            self._forget(attempt_id)
            return
        if receipt.state not in UNDECIDED_STATES:
            self._on_verdict(receipt)
            self._forget(attempt_id)

    def _forget(self, attempt_id: int) -> None:
        with self._changed:
            self._waiting.discard(attempt_id)
            self._changed.notify_all()
