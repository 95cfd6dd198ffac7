"""Celery's consumer, made to outlive everything that can happen to a volunteer's link to Redis."""

import random
import time
from typing import TYPE_CHECKING, Any, cast

from celery.exceptions import WorkerShutdown
from celery.worker.consumer import consumer
from celery.worker.state import maybe_shutdown

from fai.broker import ACCOUNT_REFUSED
from fai.client import CoordinatorUnreachable
from fai.messages import sentence
from fai.stop import Stop

if TYPE_CHECKING:
    from fai.session import Session

TICK_SECONDS = 0.5
"""How soon the loop sees that it should end or reconnect."""
FIRST_DELAY_SECONDS = 1.0
MAX_DELAY_SECONDS = 15.0


class RestartWanted(ConnectionError):
    """Raised inside the event loop to drop the connection: Celery treats it as a lost one and connects anew."""


class Consumer(consumer.Consumer):
    """Waits for Redis without end, registers again where Redis has forgotten the device, reconnects when told to."""

    @property
    def session(self) -> "Session":
        return cast("Session", self.app.session)

    def register_with_event_loop(self, hub: Any) -> None:
        """Called by Celery's loop each time that it begins on a connection; it cancels the timer when that is lost."""
        super().register_with_event_loop(hub)
        hub.timer.call_repeatedly(TICK_SECONDS, self._tick)

    def connect(self) -> Any:
        connection = self._connect()
        if self.hub:
            connection.transport.register_with_event_loop(connection.connection, self.hub)
        self.session.restart_wanted.clear()
        self.session.screen.show(trouble=None)
        self.session.screen.say("waiting_for_work")
        return connection

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        super().on_connection_error_after_connected(exc)
        if isinstance(exc, ACCOUNT_REFUSED):
            _pause(FIRST_DELAY_SECONDS)
            self._register_again()

    def _tick(self) -> None:
        if self.session.restart_wanted.is_set():
            raise RestartWanted("an offer waits, but its message did not come")

    def _connect(self) -> Any:
        delay_seconds = FIRST_DELAY_SECONDS
        while True:
            maybe_shutdown()
            connection = self.app.connection_for_read(heartbeat=self.amqheartbeat)
            try:
                connection.connect()
            except ACCOUNT_REFUSED:
                connection.release()
                self._register_again()
            except connection.connection_errors + connection.channel_errors as error:
                connection.release()
                self._tell(error, delay_seconds)
            else:
                return connection
            _pause(delay_seconds * random.uniform(0.5, 1.0))
            delay_seconds = min(MAX_DELAY_SECONDS, 2 * delay_seconds)

    def _register_again(self) -> None:
        self.session.screen.say("broker_refused")
        try:
            self.app.use_broker(self.session.register())
        except Stop as stop:
            self.session.stop(stop)
            raise WorkerShutdown(stop.exit_code) from stop
        except CoordinatorUnreachable:
            # Only a volunteer who leaves ends that wait.
            maybe_shutdown()

    def _tell(self, error: Exception, seconds: float) -> None:
        screen = self.session.screen
        screen.show(trouble=sentence(screen.language, "broker_away", why=error, seconds=seconds))
        screen.say("broker_away", why=str(error), seconds=seconds)


def _pause(seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        maybe_shutdown()
        time.sleep(min(left, TICK_SECONDS))
