"""WSGI entry point, for tools that need one; streaming wants the ASGI one."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fai_project.settings")
application = get_wsgi_application()
