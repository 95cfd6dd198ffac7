"""Rings that save waiting: to a device, that an offer waits; to the control plane, that there is work.

Losing a ring costs time, never work: the reaper finds in the database whatever nobody was told of. So nobody waits for
a Redis that is away or hangs: a ring gives up after TIMEOUT_SECONDS, and for QUIET_SECONDS afterwards none is tried.
"""

import functools
import logging
import time
from dataclasses import dataclass
from typing import Any

from celery import current_app
from kombu.connection import Connection
from kombu.entity import Queue
from kombu.exceptions import OperationalError
from kombu.pools import producers

from ml.protocol import TRAIN_TASK, queue_name

TIMEOUT_SECONDS = 1.0
QUIET_SECONDS = 5.0
STALE_SECONDS = 60.0
"""A busy control plane's queue forgets a ring after so long; the reaper has rung again by then."""

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Outage:
    """Until when, on the monotonic clock, Redis counts as away."""

    until: float = 0.0


_outage = _Outage()


def ring_device(*, device_id: int, attempt_id: int, nonce: str) -> None:
    """Push one message onto the device's own queue; it never goes stale, for the device's clock may be wrong."""
    name = queue_name(device_id)
    queue = Queue(name, exchange="", routing_key=name, no_declare=True)  # type: ignore[no-untyped-call]
    _send(TRAIN_TASK, attempt_id, nonce, queue=queue)


def ring_worker(task: str, pk: int) -> None:
    """Have the control plane run the task of that name on the row with that primary key."""
    _send(task, pk, expires=STALE_SECONDS)


def ring_validation(*, attempt_id: int) -> None:
    """Have a submitted delta validated at once."""
    ring_worker("training.tasks.validate", attempt_id)


def _send(task: str, *arguments: int | str, **options: Any) -> None:
    if time.monotonic() < _outage.until:
        return
    try:
        with producers[_connection(current_app.conf.broker_url)].acquire(block=True) as producer:
            current_app.send_task(task, args=arguments, producer=producer, retry=False, **options)
    except OperationalError as error:
        _outage.until = time.monotonic() + QUIET_SECONDS
        logger.warning("Redis is away, nobody was told of %s%s: %s", task, arguments, error)


@functools.cache
def _connection(url: str) -> Connection:
    """Names a pool of connections that are for ringing alone."""
    options = {"socket_connect_timeout": TIMEOUT_SECONDS, "socket_timeout": TIMEOUT_SECONDS, "max_retries": 0}
    connection: Connection = current_app.connection_for_write(url, transport_options=options)
    return connection
