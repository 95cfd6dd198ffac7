"""Django settings. Every FAI_* environment variable that the server knows is read here, once."""

import os
from pathlib import Path
from typing import Any

import dj_database_url
from botocore.config import Config
from django.core.exceptions import ImproperlyConfigured
from django.core.management.utils import get_random_secret_key

from fai_project import admin_settings
from fai_project.log_settings import logging_settings
from ml.protocol import UPLOAD_CHUNK_BYTES

BASE_DIR = Path(__file__).resolve().parent.parent


def _flag(name: str, *, default: bool) -> bool:
    value = os.environ.get(name, str(default)).lower()
    if value not in {"true", "false", "1", "0"}:
        raise ImproperlyConfigured(f"{name} must be true or false, not {value!r}.")
    return value in {"true", "1"}


def _one_of(name: str, values: tuple[str, ...]) -> str:
    """What the variable says, the first of the values where it is not set."""
    value = os.environ.get(name, values[0])
    if value not in values:
        raise ImproperlyConfigured(f"{name} must be {' or '.join(values)}, not {value!r}.")
    return value


def _secret_key(state_dir: Path) -> str:
    """Key from the environment, else one that is made once and kept, for its owner alone, in the state folder."""
    if key := os.environ.get("FAI_SECRET_KEY"):
        return key
    path = state_dir / "secret_key"
    state_dir.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(get_random_secret_key())
    except FileExistsError:
        pass
    return path.read_text(encoding="ascii")


STATE_DIR = Path(os.environ.get("FAI_STATE_DIR", BASE_DIR / ".state")).resolve()
DEBUG = _flag("FAI_DEBUG", default=False)
SECRET_KEY = _secret_key(STATE_DIR)
ALLOWED_HOSTS = os.environ.get("FAI_ALLOWED_HOSTS", "127.0.0.1,localhost,[::1]").split(",")
CSRF_TRUSTED_ORIGINS = [origin for origin in os.environ.get("FAI_CSRF_TRUSTED_ORIGINS", "").split(",") if origin]
BEHIND_PROXY = _flag("FAI_BEHIND_PROXY", default=False)
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if BEHIND_PROXY else None
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = BEHIND_PROXY

INSTALLED_APPS = [
    "unfold",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "drf_spectacular",
    "contributors",
    "training",
    "inference",
    "fai_project",
]

MIDDLEWARE = [
    "inference.monitoring.tracing.trace_requests",
    "fai_project.charset.read_as_utf8",
    "django.middleware.security.SecurityMiddleware",
    "fai_project.static_files.StaticFilesMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "fai_project.urls"
ASGI_APPLICATION = "fai_project.asgi.application"
WSGI_APPLICATION = "fai_project.wsgi.application"
APPEND_SLASH = False

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.template.context_processors.i18n",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]


def _database(url: str) -> dict[str, Any]:
    database: dict[str, Any] = dict(dj_database_url.parse(url))
    if database["ENGINE"].endswith("sqlite3"):
        database["OPTIONS"] = {
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        }
    else:
        database["OPTIONS"] = {
            **database.get("OPTIONS", {}),
            # Under ASGI a request may run in a thread of its own, so a connection outlives it only in a pool.
            # A pool that has lost its server tries again after pauses that double: given up and begun anew by the next
            # caller, they stay within seconds, and bills and leases outlive an outage.
            "pool": {"min_size": 2, "max_size": 16, "timeout": 10, "reconnect_timeout": 10},
            # A host that is gone without a word is noticed after so many s and ms, not after the system's quarter hour.
            "connect_timeout": 5,
            "tcp_user_timeout": 15_000,
            # PostgreSQL plans a statement once per connection, and not at each of a request's five.
            "server_side_binding": True,
            "prepare_threshold": 5,
        }
    return database


DATABASES = {"default": _database(os.environ.get("FAI_DATABASE_URL", f"sqlite:///{STATE_DIR / 'fai.sqlite3'}"))}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

S3_BUCKET = os.environ.get("FAI_S3_BUCKET", "")
STORAGES: dict[str, Any] = {
    "default": (
        {
            "BACKEND": "storages.backends.s3.S3Storage",
            "OPTIONS": {
                "bucket_name": S3_BUCKET,
                "endpoint_url": os.environ.get("FAI_S3_ENDPOINT_URL") or None,
                "access_key": os.environ.get("FAI_S3_ACCESS_KEY"),
                "secret_key": os.environ.get("FAI_S3_SECRET_KEY"),
                # A host that answers nothing is given up before those who wait for it are.
                "client_config": Config(signature_version="s3v4", connect_timeout=5),
                "file_overwrite": True,
                "querystring_expire": 3_600,
            },
        }
        if S3_BUCKET
        else {
            "BACKEND": "django.core.files.storage.FileSystemStorage",
            "OPTIONS": {"location": STATE_DIR / "storage", "allow_overwrite": True},
        }
    ),
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedStaticFilesStorage"},
}
# Names are hashes of the content, so writing a file twice writes the same bytes.
DATA_UPLOAD_MAX_MEMORY_SIZE = UPLOAD_CHUNK_BYTES
UPLOAD_DIR = STATE_DIR / "uploads"
"""Deltas that are still being received; web processes of one coordinator share it."""

STATIC_URL = "/static/"
STATIC_ROOT = STATE_DIR / "static"
WHITENOISE_USE_FINDERS = True

LANGUAGE_CODE = "en"
LANGUAGES = [("en", "English"), ("ko", "한국어")]
LOCALE_PATHS = [BASE_DIR / "fai_project" / "locale"]
TIME_ZONE = "UTC"
USE_TZ = True

REDIS_URL = os.environ.get("FAI_REDIS_URL", "redis://127.0.0.1:6379/0")
"""The coordinator's own account: control queues, publishing to devices, the engine's requests and streams."""
REDIS_ACL_URL = os.environ.get("FAI_REDIS_ACL_URL", REDIS_URL)
"""The account that may create and delete devices' accounts."""
REDIS_PUBLIC_URL = os.environ.get("FAI_REDIS_PUBLIC_URL", REDIS_URL)
"""Where volunteers reach Redis; user name and password in it are ignored."""
REDIS_CA_FILE = os.environ.get("FAI_REDIS_CA_FILE", "")
"""Certificate authority of a broker whose certificate is privately signed; handed to devices."""

VOLUNTEER_REQUIREMENT = os.environ.get("FAI_VOLUNTEER_REQUIREMENT", ".")
"""What the join page tells people to `pip install`: a wheel's or a Git address; by default the project's own folder."""

TICK_SECONDS = float(os.environ.get("FAI_TICK_SECONDS", "2"))
"""How often beat dispatches and reaps."""
OFFER_SECONDS = int(os.environ.get("FAI_OFFER_SECONDS", "90"))
HEARTBEAT_SECONDS = int(os.environ.get("FAI_HEARTBEAT_SECONDS", "30"))
LEASE_SECONDS = int(os.environ.get("FAI_LEASE_SECONDS", "150"))

REQUESTS_PER_MINUTE = int(os.environ.get("FAI_REQUESTS_PER_MINUTE", "3000"))
TOKENS_PER_MINUTE = int(os.environ.get("FAI_TOKENS_PER_MINUTE", "2000000"))
"""Of one API key that has no limits of its own, in completions; 0: no limit."""
OWNER_REQUESTS_PER_MINUTE = int(os.environ.get("FAI_OWNER_REQUESTS_PER_MINUTE", "6000"))
OWNER_TOKENS_PER_MINUTE = int(os.environ.get("FAI_OWNER_TOKENS_PER_MINUTE", "4000000"))
"""Of all keys of one contributor together; 0: no limit."""

UPSTREAM_API_KEY = os.environ.get("FAI_UPSTREAM_API_KEY", "")
"""What an external engine's server asks for."""
METRICS_TOKEN = os.environ.get("FAI_METRICS_TOKEN", "")
"""Who may read /metrics; empty: there is no such page."""
METRICS_DIR = os.environ.get("FAI_METRICS_DIR", "")
"""Where the web processes of one server keep what they count, so that any of them can tell it for all."""

LOG_PROMPTS = _flag("FAI_LOG_PROMPTS", default=False)
LOGGING = logging_settings(_one_of("FAI_LOG_FORMAT", ("line", "json")))

REST_FRAMEWORK = {
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["contributors.parsers.BoundedJSONParser"],
    "DEFAULT_AUTHENTICATION_CLASSES": ["contributors.authentication.ApiKeyAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "contributors.problems.problem_details",
    "UNAUTHENTICATED_USER": None,
    # None would believe any X-Forwarded-For, and so let everyone choose the address that throttles count.
    "NUM_PROXIES": 1 if BEHIND_PROXY else 0,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "FAI",
    "DESCRIPTION": "Join, train, earn, and complete. Volunteers use /api/v1, any OpenAI client uses /v1.",
    "VERSION": "1",
    "SERVE_INCLUDE_SCHEMA": False,
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "contributors.problem_schemas.document_problems",
    ],
    "ENUM_NAME_OVERRIDES": {
        "ExperimentState": "training.models.Experiment.State",
        "RoundState": "training.models.Round.State",
        "DeviceState": "ml.protocol.DeviceState",
    },
}
UNFOLD = admin_settings.UNFOLD
