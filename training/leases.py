"""Leases of the coordinator's own long work: a merge, evaluation or preparation that dies is begun again by another."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from django.db import OperationalError, connections
from django.utils import timezone

from training.models import Experiment, Round

WORK_LEASE = timedelta(seconds=120)
RENEW_SECONDS = 30.0

logger = logging.getLogger(__name__)


def until(now: datetime) -> datetime:
    """When work that is taken up at `now` and then never heard of counts as dead."""
    return now + WORK_LEASE


@contextmanager
def keep_alive(row: Round | Experiment) -> Iterator[None]:
    """Renew the row's timer from a thread for as long as the context lasts and the row is not given to another."""
    done = threading.Event()
    thread = threading.Thread(target=_renew, args=(row, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _renew(row: Round | Experiment, done: threading.Event) -> None:
    mine = {"epoch": row.epoch} if isinstance(row, Round) else {}
    rows = type(row)._default_manager.filter(pk=row.pk, state=row.state, **mine)
    try:
        while not done.wait(RENEW_SECONDS):
            try:
                if not rows.update(next_transition_at=until(timezone.now())):
                    return
            except OperationalError as error:
                # The database may be back before the lease is over.
                logger.warning("The lease of %s was not renewed: %s", row.pk, error)
                connections.close_all()
    finally:
        connections.close_all()
