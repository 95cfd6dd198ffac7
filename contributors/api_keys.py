"""API keys: fai_sk_<8: public prefix>_<43: secret>_<8: CRC-32 of what stands before>. Shown once, stored as SHA-256.

256 random bits need no stretching, so that checking a key costs a hash and one query. The checksum turns typing errors
away before the database is asked, and lets secret scanners recognise a leaked key.
"""

import hashlib
import re
import secrets
import string
import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Q

from contributors.models import ApiKey, Contributor, Scope

ALPHABET = string.ascii_letters + string.digits
PREFIX_CHARS = 8
SECRET_CHARS = 43
"""43 characters of 62 carry 256 bits."""
PATTERN = re.compile(rf"(fai_sk_([A-Za-z0-9]{{{PREFIX_CHARS}}})_[A-Za-z0-9]{{{SECRET_CHARS}}})_([0-9a-f]{{8}})")
TOUCH_EVERY = timedelta(minutes=1)
MAX_USABLE_KEYS = 50
MAX_OVERLAP = timedelta(days=7)
"""The longest that a key which was replaced may go on beside the one that replaced it."""


class KeyInvalid(Exception):
    """The key opens nothing; `code` says why, for programs: invalid_api_key, key_revoked, key_expired or banned."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class TooManyKeys(Exception):
    """The contributor has as many usable keys as one may have."""


class LimitsInvalid(ValueError):
    """A limit makes no sense, alone or beside the others; `field` is the one to change."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class KeyNotRotatable(Exception):
    """The key works no more, or has a successor already."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a key may spend, how fast and how long; None sets no limit of its own."""

    is_shared: bool = False
    credit_cap: int | None = None
    cap_period: str = ApiKey.CapPeriod.NONE
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    expires_at: datetime | None = None


NO_LIMITS = Limits()
LIMIT_FIELDS = tuple(Limits.__slots__)


def create(
    *, contributor: Contributor, name: str, scopes: Iterable[Scope], now: datetime, limits: Limits = NO_LIMITS
) -> tuple[ApiKey, str]:
    """A new key and its secret, which is nowhere stored and so never seen again.

    Raises: TooManyKeys, LimitsInvalid.
    """
    wanted = sorted(set(scopes))
    _require_sound(limits, scopes=wanted, now=now)
    _require_room(contributor, now=now)
    return _issue(contributor=contributor, name=name, scopes=wanted, created_at=now, **asdict(limits))


def change(*, key: ApiKey, limits: Limits, now: datetime) -> ApiKey:
    """The key with these limits in place of those that it had; what it spent in the period stays spent.

    Raises: LimitsInvalid.
    """
    _require_sound(limits, scopes=key.scopes, now=now)
    ApiKey.objects.filter(pk=key.pk).update(**asdict(limits))
    key.refresh_from_db(fields=LIMIT_FIELDS)
    return key


@transaction.atomic
def rotate(*, key: ApiKey, overlap: timedelta, now: datetime) -> tuple[ApiKey, str]:
    """A successor with the same name, scopes and limits, and its secret; the key itself ends after the overlap.

    Raises: KeyNotRotatable, TooManyKeys; ValueError unless 0 <= overlap <= MAX_OVERLAP.
    """
    if not timedelta() <= overlap <= MAX_OVERLAP:
        raise ValueError(f"keys overlap for 0 to {MAX_OVERLAP.days} days, not for {overlap}")
    old = ApiKey.objects.select_for_update().get(pk=key.pk)
    if old.replaced_by_id is not None or not ApiKey.objects.usable(now).filter(pk=old.pk).exists():
        raise KeyNotRotatable("This API key works no more, or was replaced before: rotate its successor.")
    if overlap:
        _require_room(old.contributor, now=now)
    limits = {name: getattr(old, name) for name in LIMIT_FIELDS}
    successor, secret = _issue(
        contributor=old.contributor,
        name=old.name,
        scopes=old.scopes,
        created_at=now,
        line_id=old.root_id,
        **limits,
    )
    old.replaced_by = successor
    old.expires_at = min(now + overlap, old.expires_at or now + overlap)
    old.save(update_fields=["replaced_by", "expires_at"])
    return successor, secret


def find(secret: str, *, now: datetime) -> ApiKey:
    """The usable key with that secret, its contributor loaded with it, marked as used.

    Raises: KeyInvalid.
    """
    match = PATTERN.fullmatch(secret)
    if match is None or not secrets.compare_digest(_checksum(match[1]), match[3]):
        raise KeyInvalid("invalid_api_key", "This is not an API key of this service: copy it again, whole.")
    key = ApiKey.objects.select_related("contributor").filter(prefix=match[2]).first()
    if key is None or not secrets.compare_digest(key.secret_sha256, _sha256(secret)):
        raise KeyInvalid("invalid_api_key", "No such API key: join again, or make a new key.")
    _require_usable(key, now=now)
    _touch(key, now=now)
    return key


def revoke(*, key: ApiKey, now: datetime) -> None:
    """End the key for good; the first revocation's time stands."""
    ApiKey.objects.filter(pk=key.pk, revoked_at=None).update(revoked_at=now)


def _issue(*, contributor: Contributor, **fields: Any) -> tuple[ApiKey, str]:
    prefix = _random(PREFIX_CHARS)
    body = f"fai_sk_{prefix}_{_random(SECRET_CHARS)}"
    secret = f"{body}_{_checksum(body)}"
    key = ApiKey.objects.create(contributor=contributor, prefix=prefix, secret_sha256=_sha256(secret), **fields)
    return key, secret


def _require_room(contributor: Contributor, *, now: datetime) -> None:
    if ApiKey.objects.usable(now).filter(contributor=contributor).count() >= MAX_USABLE_KEYS:
        raise TooManyKeys(f"You have {MAX_USABLE_KEYS} usable API keys: revoke one that you no longer need first.")


def _require_sound(limits: Limits, *, scopes: Iterable[str], now: datetime) -> None:
    is_periodic = limits.cap_period != ApiKey.CapPeriod.NONE
    if limits.is_shared and list(scopes) != [Scope.COMPLETION]:
        raise LimitsInvalid("scopes", "A shared key may only complete: give it the scope 'completion' alone.")
    if limits.is_shared and (limits.credit_cap is None or not is_periodic):
        raise LimitsInvalid("credit_cap", "A shared key needs a credit cap and the period for which it holds.")
    if is_periodic and limits.credit_cap is None:
        raise LimitsInvalid("credit_cap", "A cap period needs a credit cap.")
    if limits.expires_at is not None and limits.expires_at <= now:
        raise LimitsInvalid("expires_at", "The key would have expired already: choose a later time.")


def _require_usable(key: ApiKey, *, now: datetime) -> None:
    if key.contributor.banned_at is not None:
        raise KeyInvalid("banned", f"This contributor is banned: {key.contributor.ban_reason}")
    if key.revoked_at is not None:
        raise KeyInvalid("key_revoked", "This API key was revoked: make a new one.")
    if key.expires_at is not None and key.expires_at <= now:
        raise KeyInvalid("key_expired", "This API key has expired: make a new one.")


def _touch(key: ApiKey, *, now: datetime) -> None:
    """Note the use, at most once a minute: a write on every request would cost more than the request."""
    stale = Q(last_used_at=None) | Q(last_used_at__lte=now - TOUCH_EVERY)
    if key.last_used_at is None or key.last_used_at <= now - TOUCH_EVERY:
        ApiKey.objects.filter(stale, pk=key.pk).update(last_used_at=now)


def _random(num_chars: int) -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(num_chars))


def _checksum(body: str) -> str:
    return f"{zlib.crc32(body.encode('ascii')):08x}"


def _sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode("ascii")).hexdigest()
