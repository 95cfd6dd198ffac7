"""Celery's worker program, made to need no flags and to leave as a volunteer expects."""

import logging
import warnings
from typing import Any, NoReturn

from celery import signals
from celery.apps import worker
from celery.exceptions import SecurityWarning
from celery.utils.log import mlevel

from fai.client import CoordinatorUnreachable
from fai.config import WorkerConfig, preferred_language, read_options, worker_config
from fai.departure import exit_at_once
from fai.screen import Screen, open_screen
from fai.session import Session
from fai.stop import Stop, print_stop

FIXED_OPTIONS: dict[str, Any] = {
    "without_gossip": True,
    "without_mingle": True,
    "without_heartbeat": True,
    "pool_cls": "threads",
    "concurrency": 1,
    "beat": False,
    "queues": None,
    "purge": False,
    "autoscale": None,
    "quiet": True,
}
"""What the account on Redis and one model in memory allow, whatever the command line says."""


class Worker(worker.Worker):
    """A worker whose broker, queue and account come from the coordinator."""

    session: Session
    exitcode: int | None

    def __init__(self, app: Any = None, **options: Any) -> None:
        super().__init__(app, **{**options, **FIXED_OPTIONS})

    def on_before_init(self, **options: Any) -> None:
        """Meet the coordinator before Celery looks at its broker settings."""
        config = self.app.config_for_worker or _config()
        screen = open_screen(config.language)
        _log_to(screen, options.get("loglevel"))
        self.session = self.app.session = Session(config, screen)
        try:
            self.app.use_broker(self.session.start())
        except Stop as stop:
            self.session.stop(stop)
            self._leave(stop.exit_code)
        except CoordinatorUnreachable:
            self._leave(0)
        with warnings.catch_warnings():
            # It warns of root, for the sake of pickle, which this worker does not accept.
            warnings.simplefilter("ignore", SecurityWarning)
            super().on_before_init(**options)

    def install_platform_tweaks(self, worker: Any) -> None:
        """The session has its own signal handling."""

    def start(self) -> None:
        super().start()
        stop = self.session.stopped_by
        self._leave(stop.exit_code if stop else self.exitcode or 0)

    def _leave(self, exit_code: int) -> NoReturn:
        self.session.close()
        if self.session.stopped_by is not None:
            print_stop(self.session.stopped_by, self.session.config.language)
        exit_at_once(exit_code)


class ScreenHandler(logging.Handler):
    """Celery's and kombu's own words, where they matter."""

    def __init__(self, screen: Screen) -> None:
        super().__init__()
        self._screen = screen

    def emit(self, record: logging.LogRecord) -> None:
        self._screen.say("trouble", text=self.format(record))


def _config() -> WorkerConfig:
    try:
        return worker_config(read_options())
    except Stop as stop:
        print_stop(stop, preferred_language())
        raise SystemExit(stop.exit_code) from stop


def _log_to(screen: Screen, loglevel: int | str | None) -> None:
    """Show Celery's errors as events, and no more unless the volunteer asks for it with --loglevel."""
    level = mlevel(loglevel or logging.ERROR)
    handler = ScreenHandler(screen)
    for name in ("celery", "kombu"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(level if level < logging.WARNING else logging.ERROR)


@signals.setup_logging.connect
def _leave_logging_alone(**_: Any) -> None:
    """A receiver of this signal keeps Celery from setting up logging of its own."""
