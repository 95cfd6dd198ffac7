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
from datetime import datetime, timedelta

from django.db.models import Q

from contributors.models import ApiKey, Contributor, Scope

ALPHABET = string.ascii_letters + string.digits
PREFIX_CHARS = 8
SECRET_CHARS = 43
"""43 characters of 62 carry 256 bits."""
PATTERN = re.compile(rf"(fai_sk_([A-Za-z0-9]{{{PREFIX_CHARS}}})_[A-Za-z0-9]{{{SECRET_CHARS}}})_([0-9a-f]{{8}})")
TOUCH_EVERY = timedelta(minutes=1)
MAX_USABLE_KEYS = 50


class KeyInvalid(Exception):
    """The key opens nothing; `code` says why, for programs: invalid_api_key, key_revoked, key_expired or banned."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class TooManyKeys(Exception):
    """The contributor has as many usable keys as one may have."""


def create(*, contributor: Contributor, name: str, scopes: Iterable[Scope], now: datetime) -> tuple[ApiKey, str]:
    """A new key and its secret, which is nowhere stored and so never seen again.

    Raises: TooManyKeys.
    """
    if ApiKey.objects.usable(now).filter(contributor=contributor).count() >= MAX_USABLE_KEYS:
        raise TooManyKeys(f"You have {MAX_USABLE_KEYS} usable API keys: revoke one that you no longer need first.")
    prefix = _random(PREFIX_CHARS)
    body = f"fai_sk_{prefix}_{_random(SECRET_CHARS)}"
    secret = f"{body}_{_checksum(body)}"
    key = ApiKey.objects.create(
        contributor=contributor,
        name=name,
        prefix=prefix,
        secret_sha256=_sha256(secret),
        scopes=sorted(set(scopes)),
        created_at=now,
    )
    return key, secret


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
