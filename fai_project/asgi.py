"""ASGI entry point: uvicorn fai_project.asgi:application."""

import gc
import os
from pathlib import Path

from django.conf import settings
from django.core.asgi import get_asgi_application

from fai_project.body_limit import limit_bodies
from fai_project.threaded import ThreadedHandler, choose

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fai_project.settings")
if settings.METRICS_DIR:
    Path(settings.METRICS_DIR).mkdir(parents=True, exist_ok=True)
    # Before prometheus_client is loaded, which looks for it then. Engines, which share the settings, have pages of
    # their own.
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = settings.METRICS_DIR
pages_and_streams = get_asgi_application()
application = limit_bodies(choose(short=ThreadedHandler(), other=pages_and_streams))

# What is loaded by now lives as long as the process. The collector went through its 200,000 objects again and again.
gc.collect()
gc.freeze()
