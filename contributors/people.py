"""Contributors: they join with a nickname alone, and may be banned."""

from datetime import datetime

from django.db import IntegrityError, transaction

from contributors import api_keys, broker, names
from contributors.models import ApiKey, Contributor, Scope

MAX_NICKNAME_CHARS = 40


class NicknameInvalid(ValueError):
    """The nickname is empty, too long, or holds characters that cannot be seen."""


class NicknameTaken(Exception):
    """Another contributor has this nickname, perhaps in other letter case."""


def join(*, nickname: str, now: datetime) -> tuple[Contributor, str]:
    """A new contributor, and the secret of a first API key that may both volunteer and spend what that earns.

    Raises: NicknameInvalid, NicknameTaken.
    """
    try:
        name = names.clean(nickname, max_chars=MAX_NICKNAME_CHARS)
    except names.NameInvalid as error:
        raise NicknameInvalid(str(error)) from error
    with transaction.atomic():
        contributor = _create(name, now=now)
        _, secret = api_keys.create(contributor=contributor, name="joined", scopes=list(Scope), now=now)
    return contributor, secret


def ban(*, contributor: Contributor, reason: str, now: datetime) -> None:
    """Shut the contributor out: keys revoked, devices off the broker at once. Repeating it repeats the second part.

    Raises: BrokerUnavailable where Redis is away; the ban stands, ban again to remove the devices' accounts.
    """
    with transaction.atomic():
        Contributor.objects.filter(pk=contributor.pk, banned_at=None).update(banned_at=now, ban_reason=reason)
        ApiKey.objects.filter(contributor=contributor, revoked_at=None).update(revoked_at=now)
    for device_id in contributor.devices.order_by("pk").values_list("pk", flat=True):
        broker.withdraw(device_id)


def unban(*, contributor: Contributor) -> None:
    """Let the contributor in again; revoked keys stay revoked, a person hands out a new one."""
    Contributor.objects.filter(pk=contributor.pk).update(banned_at=None, ban_reason="")


def _create(nickname: str, *, now: datetime) -> Contributor:
    try:
        with transaction.atomic():
            return Contributor.objects.create(nickname=nickname, created_at=now)
    except IntegrityError as error:
        raise NicknameTaken(f"The nickname {nickname!r} is taken: choose another.") from error
