"""ASGI entry point: uvicorn fai_project.asgi:application."""

import os

from django.core.asgi import get_asgi_application

from fai_project.body_limit import limit_bodies

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fai_project.settings")
application = limit_bodies(get_asgi_application())
