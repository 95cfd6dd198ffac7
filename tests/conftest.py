"""What every test shares: the PostgreSQL leg, a clock, a Redis, and a ledger that can be emptied between tests."""

import importlib
import signal
import socket
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.db import connection
from django.db.backends.sqlite3.base import DatabaseOperations
from hypothesis import settings as hypothesis_settings
from redis import Redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from fai_project.redis_server import RedisServer, find_executable

# How long an example takes says more about the machine than about the code.
hypothesis_settings.register_profile("fai", deadline=None)
hypothesis_settings.load_profile("fai")

IS_POSTGRESQL = settings.DATABASES["default"]["ENGINE"].endswith("postgresql")


def pytest_configure() -> None:
    """Take Ctrl+C, which tests send: a shell starts its background jobs without it, and their children inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Whole systems first, so that no core is idle while the last of them ends; without what needs PostgreSQL here.

    Where the database is PostgreSQL, `make test` runs those that need it, in a leg of their own.
    """
    items.sort(key=lambda item: item.get_closest_marker("e2e") is None)
    if IS_POSTGRESQL:
        return
    unwanted = [item for item in items if item.get_closest_marker("postgresql") is not None]
    config.hook.pytest_deselected(items=unwanted)
    items[:] = [item for item in items if item.get_closest_marker("postgresql") is None]


@pytest.fixture(scope="session", autouse=True)
def _flush_empties_the_ledger() -> Iterator[None]:
    """Lift the append-only triggers for the flush after a test with `transaction=True`: on SQLite it is a DELETE FROM.

    PostgreSQL's flush is a TRUNCATE, which row triggers do not see.
    """
    triggers = importlib.import_module("contributors.migrations.0002_append_only")
    sql_flush = DatabaseOperations.sql_flush

    def lift(self: DatabaseOperations, style: Any, tables: list[str], **options: Any) -> list[str]:
        return [*triggers.sqlite_drop(), *sql_flush(self, style, tables, **options), *triggers.sqlite_create()]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DatabaseOperations, "sql_flush", lift)
        yield


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """The embedded Redis, one for the whole run."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis_settings(redis_server: RedisServer, settings: Any) -> RedisServer:
    """The embedded Redis, and Django settings that use it."""
    settings.REDIS_URL = redis_server.url
    settings.REDIS_ACL_URL = redis_server.acl_url
    settings.REDIS_PUBLIC_URL = redis_server.public_url
    return redis_server


@pytest.fixture
def refusing_redis(tmp_path: Path) -> Iterator[str]:
    """Address of a Redis that reads and refuses to write, as one whose disk is full; it needs no key."""
    port = _free_port()
    command = [find_executable(), "--port", str(port), "--save", "", "--dir", tmp_path, "--min-replicas-to-write", "1"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        url = f"redis://127.0.0.1:{port}/0"
        Redis.from_url(url, retry=Retry(ConstantBackoff(0.05), 100)).ping()
        yield url
        process.terminate()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def now() -> datetime:
    return datetime(2026, 5, 1, 12, 0, tzinfo=UTC)


@pytest.fixture
def wide_pool(transactional_db: None) -> Iterator[None]:
    """Forty connections for PostgreSQL's threads, waited for a minute: many really meet, and none is refused."""
    options: dict[str, Any] = connection.settings_dict["OPTIONS"]
    kept = options["pool"]
    connection.close_pool()  # type: ignore[attr-defined]
    options["pool"] = {"min_size": 0, "max_size": 40, "timeout": 60}
    yield
    connection.close_pool()  # type: ignore[attr-defined]
    options["pool"] = kept
