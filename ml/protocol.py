"""The one wire definition between a device and the coordinator: versions, names, job and report. No torch here."""

import dataclasses
import math
import re
import types
import typing
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

from ml.config import InnerConfig, ModelConfig

PROTOCOL_VERSION = 2
TRAIN_TASK = "fai.train"
"""Celery task name; its only arguments are attempt_id and nonce."""

UPLOAD_CHUNK_BYTES = 4 * 2**20
"""A device sends a delta in pieces of at most this size."""


SLUG = re.compile(r"[-A-Za-z0-9_]{1,50}")
MAX_COUNT = 2**63 - 1
MAX_SPEED = 1e9
"""Tokens per second beyond any machine."""


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
    ROUND_SPENT = "round_budget_spent"
    DELTA_LOST = "delta_lost"
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
class StepRef:
    """A file that leads from one checkpoint to the next: base - step = result, byte for byte."""

    base_sha256: str
    result_sha256: str
    sha256: str
    size_bytes: int


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
    steps: tuple[StepRef, ...]
    """Steps that lead to `base`, oldest first, each from the result of the one before; fewer bytes than `base` has."""
    shard: ShardRef
    token_budget: int
    train_seconds: int
    """Time box: training ends with the first step after it, and what is done is handed in."""
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

    def __post_init__(self) -> None:
        for name, highest in (("tokens", MAX_COUNT), ("num_steps", MAX_COUNT), ("seconds", math.inf)):
            _require_between(name, getattr(self, name), 0, highest)
        _require_between("tokens_per_second", self.tokens_per_second, 0, MAX_SPEED)
        for name in ("first_loss", "last_loss"):
            _require_between(name, getattr(self, name), -math.inf, math.inf)


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

    def __post_init__(self) -> None:
        if self.experiment is not None and not SLUG.fullmatch(self.experiment):
            raise ProtocolError("Heartbeat.experiment: expected a slug")
        _require_between("tokens_per_second", self.tokens_per_second, 0, MAX_SPEED)
        _require_between("attempt_id", self.attempt_id, 0, MAX_COUNT)
        _require_between("progress_tokens", self.progress_tokens, 0, MAX_COUNT)
        _require_between("progress_loss", self.progress_loss, -math.inf, math.inf)


@dataclass(frozen=True, kw_only=True, slots=True)
class Directives:
    """Answer to a heartbeat."""

    experiment: str | None
    """Slug to measure and to work on; null where none runs, and to a device at work."""
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


def _to_float(value: int, where: str) -> float:
    try:
        return float(value)
    except OverflowError as error:
        raise ProtocolError(f"{where}: expected float, got an integer beyond it") from error


def _require_between(name: str, value: float | None, lowest: float, highest: float) -> None:
    """Refuse what is out of range; infinite and undefined numbers always are."""
    if value is not None and not (lowest <= value <= highest and abs(value) != math.inf):
        raise ProtocolError(f"{name}: {value} is out of range")


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
        if not isinstance(value, list | tuple):
            raise ProtocolError(f"{where}: expected a list")
        item_hint = typing.get_args(hint)[0]
        return tuple(_decode_value(item_hint, item, f"{where}[{index}]") for index, item in enumerate(value))
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        try:
            return hint(value)
        except ValueError as error:
            raise ProtocolError(f"{where}: {value!r} is not one of {', '.join(hint)}") from error
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return _to_float(value, where)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ProtocolError(f"{where}: expected {hint.__name__}, got {type(value).__name__}")
    return value
