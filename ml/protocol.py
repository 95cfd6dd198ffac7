"""The one wire definition between a device and the coordinator: versions, names, job and report. No torch here."""

import dataclasses
import types
import typing
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

from ml.config import InnerConfig, ModelConfig

PROTOCOL_VERSION = 1
TRAIN_TASK = "fai.train"
"""Celery task name; its only arguments are attempt_id and nonce."""

UPLOAD_CHUNK_BYTES = 4 * 2**20
"""A device sends a delta in pieces of at most this size."""


class ProtocolError(ValueError):
    """JSON that does not have the announced shape; the message names the field."""


def queue_name(device_id: int) -> str:
    """The Redis list, and Celery queue, that belongs to one device."""
    return f"w:{device_id}:jobs"


class Reason(StrEnum):
    """Why an attempt ended, or why a device is idle, as the volunteer reads it."""

    OFFER_EXPIRED = "offer_expired"
    LEASE_EXPIRED = "lease_expired"
    RELEASED = "released_by_device"
    CLIENT_ERROR = "client_error"
    CANCELLED = "cancelled"
    TOO_LATE = "too_late"
    WRONG_SIZE = "wrong_size"
    TOO_LARGE = "too_large"
    WRONG_HASH = "wrong_sha256"
    MALFORMED = "malformed_safetensors"
    WRONG_TENSORS = "wrong_tensors"
    WRONG_METADATA = "wrong_metadata"
    WRONG_BASE = "wrong_base"
    NOT_FINITE = "not_finite"
    NORM_OUT_OF_BOUNDS = "norm_out_of_bounds"
    TOO_MANY_TOKENS = "too_many_tokens"
    NO_TOKENS = "no_tokens"

    NO_EXPERIMENT = "no_running_experiment"
    EXPERIMENT_PAUSED = "experiment_paused"
    EXPERIMENT_FINISHED = "experiment_finished"
    EXPERIMENT_PREPARING = "experiment_preparing"
    ROUND_FULL = "round_fully_assigned"
    ROUND_CLOSING = "round_merging"
    SPEED_UNKNOWN = "speed_not_measured"
    OFFER_PENDING = "offer_pending"
    TOO_MANY_FAULTS = "resting_after_faults"
    UPGRADE_NEEDED = "upgrade_needed"
    BANNED = "banned"


class DeviceState(StrEnum):
    """What a device says it is doing in a heartbeat."""

    IDLE = "idle"
    MEASURING = "measuring"
    DOWNLOADING = "downloading"
    TRAINING = "training"
    UPLOADING = "uploading"
    LEAVING = "leaving"


@dataclass(frozen=True, kw_only=True, slots=True)
class BlobRef:
    """A file in the coordinator's storage, fetched at /api/v1/blobs/{sha256}."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardRef:
    """A slice of the token stream: a flat little-endian array of `dtype`."""

    sha256: str
    size_bytes: int
    num_tokens: int
    dtype: str
    """uint16 or uint32."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JobSpec:
    """All that a device needs to train one job; data only, never code."""

    attempt_id: int
    experiment: str
    round_number: int
    model: ModelConfig
    inner: InnerConfig
    codec: str
    base: BlobRef
    shard: ShardRef
    token_budget: int
    seed: int
    progress_start: float
    """Share of the experiment's tokens trained before this round; places the job on the cosine."""
    progress_end: float
    quoted_credits: int
    """Paid when token_budget tokens are accepted; in proportion for fewer."""
    max_delta_bytes: int
    lease_seconds: int
    heartbeat_seconds: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What a device says of its finished, or partly finished, job."""

    tokens: int
    num_steps: int
    seconds: float
    first_loss: float
    last_loss: float
    tokens_per_second: float
    partial: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class BrokerAccount:
    """How a device reaches its own queue, and nothing else, on the coordinator's Redis."""

    url: str
    """redis:// or rediss://, with the device's own user name and password."""
    queue: str
    ca_certificate: str | None
    """PEM of the authority that signed the broker's certificate, where it is a private one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceAccount:
    """Answer to POST devices."""

    device_id: int
    name: str
    heartbeat_seconds: int
    broker: BrokerAccount


@dataclass(frozen=True, kw_only=True, slots=True)
class Heartbeat:
    """Body of POST devices/{id}/heartbeat, sent about every heartbeat_seconds and at each change of state."""

    state: DeviceState
    experiment: str | None
    """Slug that the device wants to work on; null: whichever runs."""
    tokens_per_second: float | None
    """Measured on `experiment`'s model; null until measured."""
    attempt_id: int | None
    progress_tokens: int | None
    progress_loss: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Directives:
    """Answer to a heartbeat."""

    experiment: str | None
    """Slug to measure and to work on; null where none runs."""
    offer_pending: bool
    """An offer waits in the device's queue; unclaimed for 60 s means that the consumer is deaf."""
    cancel_attempt: bool
    """The attempt named in the heartbeat is no longer the device's: stop it, reason says why."""
    reason: str | None
    """Why there is no work, or why the attempt is cancelled: a Reason."""
    available_credits: int
    escrow_credits: int
    pending_credits: int
    """Quoted on attempts that are under way or being validated."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt:
    """Answer to POST attempts/{id}/submit and to GET attempts/{id}: where the attempt stands."""

    attempt_id: int
    state: str
    reason: str | None
    detail: str
    verified_tokens: int | None
    earned_credits: int | None


def encode(value: Any) -> dict[str, Any]:
    """A protocol value as JSON-ready data."""
    return dataclasses.asdict(value)


T = TypeVar("T")


def decode(cls: type[T], data: Any) -> T:
    """Read `data`, parsed JSON, as `cls`; unknown fields are ignored, so that an older reader survives a newer writer.

    Raises: ProtocolError on a missing field or a wrong type.
    """
    if not isinstance(data, dict):
        raise ProtocolError(f"{cls.__name__}: expected an object")
    hints = typing.get_type_hints(cls)
    values = {}
    for field in dataclasses.fields(typing.cast(Any, cls)):
        if field.name in data:
            values[field.name] = _decode_value(hints[field.name], data[field.name], f"{cls.__name__}.{field.name}")
        elif field.default is dataclasses.MISSING:
            raise ProtocolError(f"{cls.__name__}.{field.name} is missing")
    try:
        return cls(**values)
    except ValueError as error:
        raise ProtocolError(str(error)) from error


def _decode_value(hint: Any, value: Any, where: str) -> Any:
    if isinstance(hint, types.UnionType):
        if value is None:
            return None
        hint = next(arm for arm in typing.get_args(hint) if arm is not types.NoneType)
    if dataclasses.is_dataclass(hint):
        return decode(typing.cast(type, hint), value)
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise ProtocolError(f"{where}: expected a list")
        item_hint = typing.get_args(hint)[0]
        return tuple(_decode_value(item_hint, item, f"{where}[{index}]") for index, item in enumerate(value))
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        try:
            return hint(value)
        except ValueError as error:
            raise ProtocolError(f"{where}: {value!r} is not one of {', '.join(hint)}") from error
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ProtocolError(f"{where}: expected {hint.__name__}, got {type(value).__name__}")
    return value
