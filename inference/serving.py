"""The engine process: the loop in the main thread, a pulse and a loader beside it."""

import logging
import os
import secrets
import signal
import socket
import threading
import time

from django.conf import settings
from django.db import connections
from redis.exceptions import RedisError

from inference import wire
from inference.engine import Engine
from inference.loader import POLL_SECONDS, Loader
from inference.mailbox import Mailbox
from ml import hardware

logger = logging.getLogger(__name__)

STUCK_SECONDS = 60.0
"""An engine whose loop has not turned for so long no longer says that it lives."""


def serve(*, experiment: str | None, num_slots: int) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    engine_id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    mailbox = Mailbox(settings.REDIS_URL, engine_id=engine_id)
    engine = Engine(mailbox, engine_id=engine_id, stop=stop)
    loader = Loader(experiment=experiment, num_slots=num_slots, device=hardware.detect().device)
    threads = [
        threading.Thread(target=_beat, args=(engine, mailbox, stop), name="pulse"),
        threading.Thread(target=_load, args=(engine, loader, stop), name="loader"),
    ]
    for thread in threads:
        thread.start()
    try:
        engine.run()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        _leave(mailbox)


def _beat(engine: Engine, mailbox: Mailbox, stop: threading.Event) -> None:
    """Say every BEAT_SECONDS which models are served, as long as the loop turns."""
    while not stop.wait(wire.BEAT_SECONDS):
        if not engine.models or time.monotonic() - engine.last_step_at > STUCK_SECONDS:
            continue
        try:
            mailbox.beat(models=engine.models)
        except RedisError as error:
            logger.debug("no heartbeat: %s", error)


def _load(engine: Engine, loader: Loader, stop: threading.Event) -> None:
    """Hand newly published checkpoints to the engine."""
    try:
        while not stop.is_set():
            for model, runner in loader.poll():
                engine.installed.put((model, runner))
            stop.wait(POLL_SECONDS)
    finally:
        connections.close_all()


def _leave(mailbox: Mailbox) -> None:
    try:
        mailbox.leave()
    except RedisError as error:
        logger.warning("left without saying so: %s", error)
