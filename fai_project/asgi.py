"""ASGI entry point: uvicorn fai_project.asgi:application."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fai_project.settings")
application = get_asgi_application()
