"""Tells a device that an offer waits. Losing the message costs one offer's time, never work."""

from celery import current_app
from kombu import Queue

from ml.protocol import TRAIN_TASK, queue_name


def ring(*, device_id: int, attempt_id: int, nonce: str) -> None:
    """Push one message onto the device's own queue.

    Raises: kombu.exceptions.OperationalError when Redis is away.
    """
    name = queue_name(device_id)
    queue = Queue(name, exchange="", routing_key=name, no_declare=True)
    current_app.send_task(TRAIN_TASK, args=[attempt_id, nonce], queue=queue, retry=False)
