"""How an engine's process shows others that it lives, and is told to stop."""

import logging
import os
import secrets
import signal
import socket
import threading
from collections.abc import Callable

from redis.exceptions import RedisError

from inference import wire
from inference.engine.mailbox import Mailbox
from inference.status import EngineStatus

logger = logging.getLogger(__name__)

STUCK_SECONDS = 60.0
"""An engine whose loop has not turned for so long no longer says that it lives."""


def stop_on_signals() -> threading.Event:
    """What SIGTERM and SIGINT set from then on."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def make_engine_id() -> str:
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


def can_reach(mailbox: Mailbox) -> bool:
    """Whether Redis answers."""
    try:
        mailbox.ping()
    except RedisError:
        return False
    return True


class Pulse:
    """Says every BEAT_SECONDS that the engine lives, for as long as its loop turns: while it finishes, too."""

    def __init__(self, mailbox: Mailbox, describe: Callable[[], EngineStatus], *, is_stuck: Callable[[], bool]) -> None:
        self._mailbox = mailbox
        self._describe = describe
        self._is_stuck = is_stuck
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pulse")

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        try:
            self._mailbox.leave()
        except RedisError as error:
            logger.warning("left without saying so: %s", error)

    def _run(self) -> None:
        while not self._ended.wait(wire.BEAT_SECONDS):
            if self._is_stuck():
                continue
            try:
                self._mailbox.beat(self._describe())
            except RedisError as error:
                logger.debug("no heartbeat: %s", error)
