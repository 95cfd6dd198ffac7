"""The project as an app: its templates, its commands, and Celery's application for every thread of the web process."""

from pathlib import Path

from django.apps import AppConfig
from django.conf import settings

from fai_project.celery import app


class FaiProjectConfig(AppConfig):
    name = "fai_project"

    def ready(self) -> None:
        """Make the control plane's application the one that shared tasks are sent by.

        Celery keeps the current application per thread; under ASGI each request runs in a thread of its own.
        """
        app.set_default()
        # WhiteNoise warns of a missing folder; until collectstatic fills it, files come from the finders.
        Path(settings.STATIC_ROOT).mkdir(parents=True, exist_ok=True)
