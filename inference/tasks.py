"""Upkeep of completions, driven by beat."""

from celery import shared_task
from django.utils import timezone

from inference import billing


@shared_task(name="inference.tasks.reap")
def reap() -> None:
    """Give up requests whose web process died."""
    billing.reap(now=timezone.now())
