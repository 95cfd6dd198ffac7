"""ASGI entry point: uvicorn fai_project.asgi:application."""

import gc
import os

from django.core.asgi import get_asgi_application

from fai_project.body_limit import limit_bodies
from fai_project.threaded import ThreadedHandler, choose

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fai_project.settings")
pages_and_streams = get_asgi_application()
application = limit_bodies(choose(short=ThreadedHandler(), other=pages_and_streams))

# What is loaded by now lives as long as the process. The collector went through its 200,000 objects again and again.
gc.collect()
gc.freeze()
