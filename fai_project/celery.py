"""The control plane's Celery application: celery -A fai_project worker --beat."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fai_project.settings")

app = Celery("fai_project")
app.config_from_object("fai_project.celery_settings")
app.autodiscover_tasks()
