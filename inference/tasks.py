"""Upkeep of completions, driven by beat."""

from datetime import datetime

from celery import shared_task
from django.utils import timezone

from inference.billing import charges, idempotency
from inference.completions import orphans


@shared_task(name="inference.tasks.reap")
def reap() -> None:
    """Give up requests whose web process died."""
    give_up(now=timezone.now())


@shared_task(name="inference.tasks.sweep")
def sweep() -> None:
    """Delete answers that were kept for their time."""
    idempotency.sweep(now=timezone.now())


def give_up(*, now: datetime) -> int:
    """Number of requests that are free since their web process died, and that engines work on no longer."""
    request_ids = charges.reap(now=now)
    if request_ids:
        orphans.cancel(request_ids)
    return len(request_ids)
