"""The thread that tells the coordinator that this device lives, and hears what it wants."""

import threading
import time
from collections.abc import Callable

from fai.activity import Activity
from fai.client import Client, Contact, CoordinatorError, CoordinatorUnreachable
from ml.protocol import DeviceState, Directives, Heartbeat

RETRY_SECONDS = 3.0
"""Pause after a heartbeat that did not arrive, so that a coordinator that returns hears soon of every lease."""
LEAST_PAUSE_SECONDS = 0.2
"""Changes that follow each other closely are told together."""
FAREWELL_TIMEOUT_SECONDS = 2.0


class Heart:
    """Sends a heartbeat every `interval_seconds`, and at each change of what the device does."""

    def __init__(
        self,
        *,
        client: Client,
        contact: Contact,
        activity: Activity,
        device_id: int,
        interval_seconds: float,
        on_directives: Callable[[Heartbeat, Directives], None],
        on_refusal: Callable[[CoordinatorError], None],
    ) -> None:
        self._client = client
        self._contact = contact
        self._activity = activity
        self._device_id = device_id
        self._interval_seconds = interval_seconds
        self._on_directives = on_directives
        self._on_refusal = on_refusal
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fai-heartbeat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stop, and tell the coordinator that the device is leaving; at most a few seconds."""
        self._closed.set()
        self._activity.change(state=DeviceState.LEAVING)
        self._thread.join(FAREWELL_TIMEOUT_SECONDS)

    def _run(self) -> None:
        while not self._closed.is_set():
            self._activity.wait_for_change(self._beat())
            self._closed.wait(LEAST_PAUSE_SECONDS)
        self._beat(timeout_seconds=FAREWELL_TIMEOUT_SECONDS)

    def _beat(self, *, timeout_seconds: float = 10.0) -> float:
        """Seconds until the next heartbeat."""
        heartbeat = self._activity.heartbeat
        try:
            directives = self._client.heartbeat(self._device_id, heartbeat, timeout_seconds=timeout_seconds)
        except CoordinatorUnreachable as error:
            if not self._closed.is_set():
                self._contact.lost(str(error), RETRY_SECONDS)
            return min(RETRY_SECONDS, self._interval_seconds)
        except CoordinatorError as error:
            self._on_refusal(error)
            return self._interval_seconds
        self._on_directives(heartbeat, directives)
        return self._interval_seconds


class DeafnessWatch:
    """Notices that an offer has waited for `limit_seconds` while the device was idle: its consumer is deaf."""

    def __init__(self, *, limit_seconds: float) -> None:
        self._limit_seconds = limit_seconds
        self._pending_since: float | None = None

    def is_deaf(self, heartbeat: Heartbeat, directives: Directives) -> bool:
        """Whether to reconnect, said once for each `limit_seconds`."""
        if not directives.offer_pending or heartbeat.state != DeviceState.IDLE:
            self._pending_since = None
            return False
        now = time.monotonic()
        if self._pending_since is None:
            self._pending_since = now
        if now - self._pending_since < self._limit_seconds:
            return False
        self._pending_since = None
        return True
