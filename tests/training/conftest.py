"""Storage of each test's own, and a broker in memory whose queues can be looked into."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection

from fai_project.celery import app
from training import doorbell

Heard = Callable[[str], list[Any]]


@pytest.fixture(autouse=True)
def storage(settings: Any, tmp_path: Path) -> Path:
    """The folder that holds stored files; uploads and scratch lie beside it."""
    location = tmp_path / "storage"
    settings.STATE_DIR = tmp_path
    settings.UPLOAD_DIR = tmp_path / "uploads"
    local = {"BACKEND": "django.core.files.storage.FileSystemStorage"}
    settings.STORAGES = {
        **settings.STORAGES,
        "default": {**local, "OPTIONS": {"location": location, "allow_overwrite": True}},
    }
    return location


@pytest.fixture(autouse=True)
def heard(monkeypatch: pytest.MonkeyPatch) -> Heard:
    """Arguments of the messages that were sent to a queue since it was asked last."""
    monkeypatch.setattr(app.conf, "broker_url", "memory://")
    monkeypatch.setattr(doorbell, "_outage", doorbell._Outage())

    def take(queue: str) -> list[Any]:
        with Connection("memory://") as connection, connection.channel() as channel:
            messages = []
            while message := channel.basic_get(queue, no_ack=True):
                messages.append(message.decode()[0])
            return messages

    for queue in ("control", "data", "merge", "evaluate"):
        take(queue)
    return take
