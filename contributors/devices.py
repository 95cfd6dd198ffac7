"""A contributor's machines, each with a broker account of its own."""

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.conf import settings

from contributors import broker, names
from contributors.models import Contributor, Device
from ml.protocol import PROTOCOL_VERSION, DeviceAccount

MAX_DEVICE_NAME_CHARS = 60
MAX_DEVICES = 100
MAX_HARDWARE_FIELDS = 32
MAX_HARDWARE_CHARS = 200
LARGEST_INTEGER = 2**63 - 1


class DeviceInvalid(ValueError):
    """The name or the description of the hardware cannot be taken; the message says why."""


class ProtocolUnsupported(Exception):
    """The device speaks another protocol version than this coordinator."""


class TooManyDevices(Exception):
    """The contributor has as many devices as one may have."""


class ContributorBanned(Exception):
    """The contributor was banned while the device registered."""


def register(
    *, contributor: Contributor, name: str, hardware: Mapping[str, Any], protocol_version: int, now: datetime
) -> DeviceAccount:
    """The device of that name, made or found again, and a fresh broker account; an older one stops working at once.

    Raises: ProtocolUnsupported, DeviceInvalid, TooManyDevices, ContributorBanned, BrokerUnavailable.
    """
    if protocol_version != PROTOCOL_VERSION:
        older = "client" if protocol_version < PROTOCOL_VERSION else "coordinator"
        raise ProtocolUnsupported(
            f"This coordinator speaks protocol version {PROTOCOL_VERSION}, this client version {protocol_version}: "
            f"upgrade the {older}."
        )
    device = _find_or_create(contributor, _clean_name(name), now=now)
    Device.objects.filter(pk=device.pk).update(hardware=clean_hardware(hardware), protocol_version=protocol_version)
    password = broker.grant(device.pk)
    # A ban that was made meanwhile withdrew the accounts that it saw; this one it may have missed.
    if Contributor.objects.filter(pk=contributor.pk).exclude(banned_at=None).exists():
        broker.withdraw(device.pk)
        raise ContributorBanned("This contributor is banned.")
    return DeviceAccount(
        device_id=device.pk,
        name=device.name,
        heartbeat_seconds=settings.HEARTBEAT_SECONDS,
        broker=broker.public_account(device_id=device.pk, password=password),
    )


def clean_hardware(hardware: Mapping[str, Any]) -> dict[str, str | int | float | bool | None]:
    """The description as it is stored: flat, small, and of values that every database takes.

    Raises: DeviceInvalid.
    """
    if len(hardware) > MAX_HARDWARE_FIELDS:
        raise DeviceInvalid(f"hardware has {len(hardware)} fields, at most {MAX_HARDWARE_FIELDS} are taken.")
    for key, value in hardware.items():
        if not all(_is_plain(text) for text in (key, value) if isinstance(text, str)):
            raise DeviceInvalid(f"hardware: texts have at most {MAX_HARDWARE_CHARS} printable characters.")
        if not isinstance(value, str | int | float | bool | None):
            raise DeviceInvalid(f"hardware.{key} must be a text, a number, true, false or null.")
        if isinstance(value, int) and abs(value) > LARGEST_INTEGER:
            raise DeviceInvalid(f"hardware.{key} must fit into 64 bits.")
        if isinstance(value, float) and not math.isfinite(value):
            raise DeviceInvalid(f"hardware.{key} must be a finite number.")
    return dict(hardware)


def _find_or_create(contributor: Contributor, name: str, *, now: datetime) -> Device:
    known = Device.objects.filter(contributor=contributor)
    if known.exclude(name=name).count() >= MAX_DEVICES:
        raise TooManyDevices(f"You have {MAX_DEVICES} devices already: register under a name that you used before.")
    defaults = {"protocol_version": PROTOCOL_VERSION, "created_at": now}
    return Device.objects.get_or_create(contributor=contributor, name=name, defaults=defaults)[0]


def _clean_name(name: str) -> str:
    try:
        return names.clean(name, max_chars=MAX_DEVICE_NAME_CHARS)
    except names.NameInvalid as error:
        raise DeviceInvalid(f"name: {error}") from error


def _is_plain(text: str) -> bool:
    return len(text) <= MAX_HARDWARE_CHARS and text.isprintable()
