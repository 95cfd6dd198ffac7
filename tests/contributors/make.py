"""Contributors, keys, credits and devices for tests."""

from datetime import UTC, datetime, timedelta

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from contributors import api_keys, ledger
from contributors.models import ApiKey, Contributor, Hold, Scope

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)


def connect(url: str) -> redis.Redis:
    """A client that tries once: redis-py's own retries a refused login for four seconds."""
    return redis.Redis.from_url(url, retry=Retry(NoBackoff(), 0))


def make_contributor(nickname: str = "mina", *, credits_: int = 0) -> Contributor:
    contributor = Contributor.objects.create(nickname=nickname, created_at=NOW)
    if credits_:
        make_earning(contributor, credits_, source=f"gift:{nickname}")
    return contributor


def make_earning(
    contributor: Contributor, amount: int, *, source: str = "attempt:1", release_at: datetime | None = None
) -> None:
    ledger.earn(contributor=contributor, amount=amount, source=source, release_at=release_at, now=NOW)


def make_hold(contributor: Contributor, amount: int = 80, *, source: str = "completion:1") -> Hold:
    return ledger.hold(
        contributor=contributor, amount=amount, source=source, expires_at=NOW + timedelta(minutes=10), now=NOW
    )


def make_key(contributor: Contributor, *scopes: Scope) -> tuple[ApiKey, str]:
    return api_keys.create(contributor=contributor, name="laptop", scopes=scopes or list(Scope), now=NOW)
