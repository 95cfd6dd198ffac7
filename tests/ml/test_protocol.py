import contextlib
import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml import protocol
from ml.protocol import (
    BlobRef,
    BrokerAccount,
    DeviceAccount,
    DeviceState,
    Directives,
    Heartbeat,
    JobSpec,
    ProtocolError,
    Receipt,
    Report,
    ShardRef,
    StepRef,
)
from tests.ml.make import make_config, make_inner

JOB = JobSpec(
    attempt_id=7,
    experiment="family-1",
    round_number=3,
    model=make_config(),
    inner=make_inner(),
    codec="int8",
    base=BlobRef(sha256="a" * 64, size_bytes=10),
    steps=(StepRef(base_sha256="c" * 64, result_sha256="a" * 64, sha256="d" * 64, size_bytes=3),),
    shard=ShardRef(sha256="b" * 64, size_bytes=20, num_tokens=10, dtype="uint16"),
    token_budget=1_000,
    train_seconds=900,
    seed=5,
    progress_start=0.25,
    progress_end=0.5,
    quoted_credits=12,
    max_delta_bytes=999,
    lease_seconds=150,
    heartbeat_seconds=10,
)
REPORT = Report(
    tokens=1, num_steps=1, seconds=1.5, first_loss=7.0, last_loss=6.0, tokens_per_second=100.0, partial=False
)
HEARTBEAT = Heartbeat(
    state=DeviceState.TRAINING,
    experiment="family-1",
    tokens_per_second=9.5,
    attempt_id=7,
    progress_tokens=100,
    progress_loss=5.5,
)
ACCOUNT = DeviceAccount(
    device_id=1,
    name="내 컴퓨터",
    heartbeat_seconds=10,
    broker=BrokerAccount(url="redis://w1:x@127.0.0.1:6379/0", queue="w:1:jobs", ca_certificate=None),
)
DIRECTIVES = Directives(
    experiment=None,
    offer_pending=False,
    cancel_attempt=False,
    reason="no_running_experiment",
    available_credits=1,
    escrow_credits=2,
    pending_credits=3,
)
RECEIPT = Receipt(
    attempt_id=7, state="rejected", reason="wrong_sha256", detail="", verified_tokens=None, earned_credits=None
)
MESSAGES = [JOB, REPORT, HEARTBEAT, ACCOUNT, DIRECTIVES, RECEIPT]


def name_of(message: object) -> str:
    return type(message).__name__


@pytest.mark.parametrize("message", MESSAGES, ids=name_of)
def test_a_message_survives_json(message: Any) -> None:
    assert protocol.decode(type(message), json.loads(json.dumps(protocol.encode(message)))) == message


def changed(message: Any, path: str, value: Any) -> dict[str, Any]:
    data = copy.deepcopy(protocol.encode(message))
    *folders, name = path.split(".")
    target = data
    for folder in folders:
        target = target[folder]
    target[name] = value
    return data


@pytest.mark.parametrize("message", MESSAGES, ids=name_of)
def test_fields_of_a_newer_version_are_ignored(message: Any) -> None:
    assert protocol.decode(type(message), protocol.encode(message) | {"added_in_version_2": [1]}) == message


@pytest.mark.parametrize("message", MESSAGES, ids=name_of)
def test_every_missing_field_is_named(message: Any) -> None:
    for name in protocol.encode(message):
        data = protocol.encode(message)
        del data[name]
        with pytest.raises(ProtocolError, match=rf"{name_of(message)}\.{name} is missing"):
            protocol.decode(type(message), data)


@pytest.mark.parametrize(
    ("message", "path", "value", "error"),
    [
        (REPORT, "tokens", "1", r"Report\.tokens: expected int, got str"),
        (REPORT, "tokens", 1.0, r"Report\.tokens: expected int, got float"),
        (REPORT, "tokens", True, r"Report\.tokens: expected int, got bool"),
        (REPORT, "tokens", None, r"Report\.tokens: expected int, got NoneType"),
        (REPORT, "tokens", -1, "tokens: -1 is out of range"),
        (REPORT, "tokens", 2**63, "tokens: .* is out of range"),
        (REPORT, "partial", 1, r"Report\.partial: expected bool, got int"),
        (REPORT, "seconds", True, r"Report\.seconds: expected float, got bool"),
        (REPORT, "seconds", -0.1, "seconds"),
        (REPORT, "last_loss", float("nan"), "last_loss: nan is out of range"),
        (REPORT, "last_loss", float("inf"), "last_loss"),
        (REPORT, "last_loss", 10**400, "last_loss"),
        (REPORT, "tokens_per_second", 1e10, "tokens_per_second"),
        (HEARTBEAT, "state", "asleep", "'asleep' is not one of idle, measuring"),
        (HEARTBEAT, "state", [], "is not one of"),
        (HEARTBEAT, "attempt_id", "7", r"Heartbeat\.attempt_id: expected int"),
        (HEARTBEAT, "experiment", "no slug", "expected a slug"),
        (HEARTBEAT, "experiment", "x" * 51, "expected a slug"),
        (HEARTBEAT, "experiment", "family\n", "expected a slug"),
        (HEARTBEAT, "progress_loss", float("nan"), "progress_loss"),
        (JOB, "base", "a" * 64, "BlobRef: expected an object"),
        (JOB, "base.size_bytes", None, r"BlobRef\.size_bytes: expected int"),
        (JOB, "model.n_layer", "2", r"ModelConfig\.n_layer: expected int"),
        (JOB, "model.n_layer", 0, "n_layer must be a positive integer"),
        (JOB, "inner.learning_rate", -1.0, "learning_rate must be above 0"),
    ],
)
def test_a_wrong_value_is_refused_by_its_field(message: Any, path: str, value: Any, error: str) -> None:
    with pytest.raises(ProtocolError, match=error):
        protocol.decode(type(message), changed(message, path, value))


def test_what_may_be_null_may_be_null_and_an_integer_is_a_number() -> None:
    data = protocol.encode(HEARTBEAT) | {"experiment": None, "attempt_id": None, "tokens_per_second": 9}
    heartbeat = protocol.decode(Heartbeat, data)
    assert (heartbeat.experiment, heartbeat.attempt_id, heartbeat.tokens_per_second) == (None, None, 9.0)
    assert type(heartbeat.tokens_per_second) is float


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from([*protocol.encode(JOB), *protocol.encode(HEARTBEAT), *protocol.encode(REPORT)])


@given(st.sampled_from(MESSAGES), FIELDS, JSON)
def test_any_json_is_a_message_or_a_protocol_error(message: Any, field: str, value: Any) -> None:
    for data in (value, protocol.encode(message) | {field: value}):
        decoded = None
        with contextlib.suppress(ProtocolError):
            decoded = protocol.decode(type(message), data)
        assert decoded is None or isinstance(decoded, type(message))


def test_each_device_has_a_queue_of_its_own() -> None:
    assert protocol.queue_name(12) == "w:12:jobs"
    assert protocol.queue_name(1) != protocol.queue_name(11)


def test_reasons_are_distinct_words_for_a_screen() -> None:
    assert all(reason.value == reason.value.lower() and " " not in reason.value for reason in protocol.Reason)
