"""Settings and entry points. The Celery application loads with Django, so that every process publishes through it."""

from fai_project.celery import app as celery_app

__all__ = ["celery_app"]
