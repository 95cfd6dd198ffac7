"""The engine process: the loop in the main thread; a pulse, a loader and a page for Prometheus beside it."""

import logging
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass

from django.conf import settings
from django.db import connections
from redis.exceptions import RedisError

from inference.engine import metrics
from inference.engine.loader import POLL_SECONDS, RETRY_SECONDS, WANTED_SECONDS, Loader
from inference.engine.loop import Engine
from inference.engine.mailbox import Mailbox
from inference.engine.pages import EnginePages
from inference.engine.presence import Pulse, can_reach, make_engine_id, stop_on_signals
from inference.status import EngineStatus
from ml import hardware

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class ServingOptions:
    """How an engine serves."""

    experiment: str | None
    """None: the newest ones."""
    num_slots: int
    max_extra_models: int
    grace_seconds: float
    metrics_address: tuple[str, int] | None
    """None: no pages."""


def serve(options: ServingOptions) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = stop_on_signals()
    engine_id = make_engine_id()
    mailbox = Mailbox(settings.REDIS_URL, engine_id=engine_id)
    engine = Engine(mailbox, engine_id=engine_id, stop=stop, grace_seconds=options.grace_seconds)
    device = hardware.detect().device
    loader = Loader(
        experiment=options.experiment,
        num_slots=options.num_slots,
        device=device,
        max_extra_models=options.max_extra_models,
    )
    describe = _Description(engine, loader, engine_id=engine_id, device=str(device), num_slots=options.num_slots)
    loading = threading.Thread(target=keep_loaded, args=(engine, loader, mailbox, stop), name="loader")
    with ExitStack() as stack:
        stack.enter_context(Pulse(mailbox, describe, is_stuck=lambda: engine.is_stuck))
        if options.metrics_address is not None:
            pages = EnginePages(
                options.metrics_address,
                registry=metrics.REGISTRY,
                is_live=lambda: not engine.is_stuck,
                is_ready=lambda: bool(engine.served) and can_reach(mailbox),
            )
            stack.enter_context(pages)
        loading.start()
        try:
            engine.run()
        finally:
            stop.set()
            loading.join()


class _Description:
    """What the engine says of itself, also to Prometheus."""

    def __init__(self, engine: Engine, loader: Loader, *, engine_id: str, device: str, num_slots: int) -> None:
        self._engine = engine
        self._loader = loader
        self._engine_id = engine_id
        self._device = device
        self._num_slots = num_slots
        self._started_at = time.time()
        metrics.MODELS.set_function(lambda: len(engine.served))
        metrics.RUNNING.set_function(lambda: engine.underway.num_all)
        metrics.SLOT_COUNT.set_function(lambda: num_slots * len(engine.served))
        metrics.PROBLEMS.set_function(lambda: len(loader.problems))

    def __call__(self) -> EngineStatus:
        return EngineStatus(
            engine_id=self._engine_id,
            kind=self._device,
            started_at=self._started_at,
            beat_at=time.time(),
            num_slots=self._num_slots,
            models=self._engine.served,
            tokens_per_second=self._engine.underway.tokens.per_second(),
            requests_per_second=self._engine.underway.requests.per_second(),
            problems=self._loader.problems,
        )


def keep_loaded(engine: Engine, loader: Loader, mailbox: Mailbox, stop: threading.Event) -> None:
    """Hand checkpoints that are newly published, or asked for, to the engine, until told to stop."""

    def is_idle(name: str) -> bool:
        return engine.underway.num_running(name) == 0 and mailbox.num_queued(name) == 0

    try:
        while not stop.is_set():
            pause_seconds = POLL_SECONDS
            try:
                wanted = mailbox.wanted(since=time.time() - WANTED_SECONDS)
                for change in loader.poll(wanted=wanted, is_idle=is_idle):
                    engine.installed.put(change)
            except RedisError as error:
                logger.debug("nobody can be asked what is wanted: %s", error)
            except Exception as error:  # noqa: BLE001 - without this thread the engine would never load anything again
                loader.note("loader", f"Checkpoints cannot be looked for: {error!r}")
                pause_seconds = RETRY_SECONDS
            stop.wait(pause_seconds)
    finally:
        connections.close_all()
