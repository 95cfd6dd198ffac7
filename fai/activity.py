"""What the device is doing, as its heartbeat tells it."""

import dataclasses
import threading
from typing import Any

from ml.protocol import DeviceState, Heartbeat

IDLE = Heartbeat(
    state=DeviceState.IDLE,
    experiment=None,
    tokens_per_second=None,
    attempt_id=None,
    progress_tokens=None,
    progress_loss=None,
)


class Activity:
    """The next heartbeat, written by whoever works, read by the heart."""

    def __init__(self, *, experiment: str | None) -> None:
        self._changed = threading.Condition()
        self._is_changed = False
        self._heartbeat = dataclasses.replace(IDLE, experiment=experiment)

    @property
    def heartbeat(self) -> Heartbeat:
        return self._heartbeat

    def change(self, **fields: Any) -> None:
        """Change the heartbeat and have it sent soon."""
        with self._changed:
            self._heartbeat = dataclasses.replace(self._heartbeat, **fields)
            self._is_changed = True
            self._changed.notify_all()

    def progress(self, *, tokens: int, loss: float) -> None:
        """Change what the next regular heartbeat says."""
        with self._changed:
            self._heartbeat = dataclasses.replace(self._heartbeat, progress_tokens=tokens, progress_loss=loss)

    def rest(self, state: DeviceState) -> None:
        """No attempt any more."""
        self.change(state=state, attempt_id=None, progress_tokens=None, progress_loss=None)

    def wake(self) -> None:
        """Have the next heartbeat sent at once."""
        self.change()

    def wait_for_change(self, seconds: float) -> None:
        """Return at the next change, or after `seconds`."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_changed, seconds)
            self._is_changed = False
