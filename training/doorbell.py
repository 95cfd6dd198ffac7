"""Rings that save waiting: to a device, that an offer waits; to the control plane, that a delta does.

Losing a ring costs time, never work: the reaper finds in the database whatever nobody was told of.
"""

import logging

from celery import current_app
from kombu.entity import Queue
from kombu.exceptions import OperationalError

from ml.protocol import TRAIN_TASK, queue_name

logger = logging.getLogger(__name__)


def ring_device(*, device_id: int, attempt_id: int, nonce: str) -> None:
    """Push one message onto the device's own queue."""
    name = queue_name(device_id)
    queue = Queue(name, exchange="", routing_key=name, no_declare=True)  # type: ignore[no-untyped-call]
    _send(TRAIN_TASK, attempt_id, nonce, queue=queue)


def ring_validation(*, attempt_id: int) -> None:
    """Have a submitted delta validated at once."""
    _send("training.tasks.validate", attempt_id)


def _send(task: str, *arguments: int | str, queue: Queue | None = None) -> None:
    try:
        current_app.send_task(task, args=arguments, queue=queue, retry=False)
    except OperationalError as error:
        logger.warning("Redis is away, nobody was told of %s%s: %s", task, arguments, error)
