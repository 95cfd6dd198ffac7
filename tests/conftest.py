"""What every test shares: the PostgreSQL leg and a clock."""

from datetime import UTC, datetime

import pytest
from django.conf import settings

IS_POSTGRESQL = settings.DATABASES["default"]["ENGINE"].endswith("postgresql")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs PostgreSQL where the database is another; `make test` runs those in a leg of their own."""
    if IS_POSTGRESQL:
        return
    wanted = [item for item in items if item.get_closest_marker("postgresql") is None]
    config.hook.pytest_deselected(items=[item for item in items if item not in wanted])
    items[:] = wanted


@pytest.fixture
def now() -> datetime:
    return datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
