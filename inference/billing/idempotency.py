"""Idempotency-Key: the same request again gets the first one's answer, and is billed once.

One row per key decides the race, unique in the database. It is written with the hold and gets its answer with the bill,
each in one transaction: a key is taken exactly as long as credits are held or were paid for it.
"""

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import IntegrityError, transaction

from contributors.models import ApiKey
from inference.models import Completion, IdempotentRequest

KEPT = timedelta(hours=24)
MAX_KEY_CHARS = 255
SWEEP_ROWS = 1_000
MAX_KEPT_BYTES = 4 * 2**20
"""An answer that is larger is billed and not kept."""
TOO_LARGE = b""
"""Kept in the place of such an answer."""


class KeyInvalid(ValueError):
    """The header's value is empty, too long, or not printable ASCII."""


class KeyReused(Exception):
    """The key came before, with another request."""


class AnswerTooLarge(Exception):
    """The first request was answered and paid, and its answer could not be kept."""


class InProgress(Exception):
    """The first request with this key is not over."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """What a request with an Idempotency-Key asks for."""

    key: str
    request_sha256: str
    content_type: str


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptAnswer:
    """The bytes that the first request was answered with."""

    content_type: str
    body: bytes


def read(key: str, *, path: str, body: Any, content_type: str) -> Claim:
    """The claim of a request; two JSON bodies that differ in spaces or order alone are the same.

    Raises: KeyInvalid.
    """
    if not 0 < len(key) <= MAX_KEY_CHARS or not key.isascii() or not key.isprintable():
        raise KeyInvalid(f"An Idempotency-Key has 1 to {MAX_KEY_CHARS} printable ASCII characters.")
    canonical = json.dumps([path, body], sort_keys=True)
    return Claim(key=key, request_sha256=hashlib.sha256(canonical.encode()).hexdigest(), content_type=content_type)


def find(claim: Claim, *, api_key: ApiKey, now: datetime) -> KeptAnswer | None:
    """The kept answer; None where the key is free.

    Raises: KeyReused, InProgress, AnswerTooLarge.
    """
    row = IdempotentRequest.objects.filter(line=api_key.root_id, key=claim.key).first()
    if row is None or (row.body is not None and row.expires_at <= now):
        return None
    if row.request_sha256 != claim.request_sha256:
        raise KeyReused("This Idempotency-Key came before with another request: choose a new key.")
    if row.body is None:
        raise InProgress("The first request with this Idempotency-Key is still under way: ask again later.")
    body = bytes(row.body)
    if body == TOO_LARGE:
        raise AnswerTooLarge(
            f"The first request with this Idempotency-Key was answered and paid; its answer had more than "
            f"{MAX_KEPT_BYTES} bytes and is not kept: choose a new key to ask anew."
        )
    return KeptAnswer(content_type=row.content_type, body=body)


def take(claim: Claim, *, completion: Completion, api_key: ApiKey, now: datetime) -> None:
    """Take the key, in the transaction that holds the credits.

    Raises: InProgress where another request was first.
    """
    mine = IdempotentRequest.objects.filter(line=api_key.root_id, key=claim.key)
    mine.filter(body__isnull=False, expires_at__lte=now).delete()
    try:
        with transaction.atomic():
            IdempotentRequest.objects.create(
                line_id=api_key.root_id,
                key=claim.key,
                request_sha256=claim.request_sha256,
                content_type=claim.content_type,
                completion=completion,
                expires_at=now + KEPT,
            )
    except IntegrityError as error:
        raise InProgress("Another request with this Idempotency-Key was first: ask again later.") from error


def end(*, completion: Completion, answer: bytes | None, now: datetime) -> None:
    """Keep the answer, or free the key where there is none, in the transaction that settles the bill."""
    rows = IdempotentRequest.objects.filter(completion=completion)
    if answer is None:
        rows.delete()
    else:
        rows.update(body=answer, expires_at=now + KEPT)


def sweep(*, now: datetime) -> int:
    """Number of answers that were deleted, since their time is over."""
    over = IdempotentRequest.objects.filter(body__isnull=False, expires_at__lte=now).order_by("pk").values("pk")
    return IdempotentRequest.objects.filter(pk__in=list(over[:SWEEP_ROWS].values_list("pk", flat=True))).delete()[0]
