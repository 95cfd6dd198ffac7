import hashlib
from pathlib import Path

import pytest

from fai import client as client_module
from fai.client import CoordinatorError
from fai.delivery import NotWanted, deliver
from fai.outbox import DELTA_NAME, Entry, Outbox
from ml.protocol import Receipt
from tests.fai.coordinator import Attempt, Coordinator, Problem
from tests.fai.make import make_attempt, make_client, make_report


@pytest.fixture(autouse=True)
def short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "FIRST_DELAY_SECONDS", 0.01)


@pytest.fixture
def attempt(coordinator: Coordinator, tmp_path: Path) -> Attempt:
    attempt = make_attempt(coordinator, tmp_path)
    attempt.state = "running"
    return attempt


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    return Outbox(tmp_path / "outbox")


@pytest.fixture
def entry(outbox: Outbox) -> Entry:
    content = b"delta" * 1000
    (outbox.prepare(1) / DELTA_NAME).write_bytes(content)
    return outbox.add(attempt_id=1, sha256=hashlib.sha256(content).hexdigest(), report=make_report())


def hand_in(entry: Entry, outbox: Outbox, coordinator: Coordinator) -> Receipt:
    with make_client(coordinator) as client:
        return deliver(entry, client=client, outbox=outbox, on_piece=lambda offset: None)


def test_delivered_work_leaves_the_outbox(
    coordinator: Coordinator, attempt: Attempt, outbox: Outbox, entry: Entry
) -> None:
    assert hand_in(entry, outbox, coordinator).state == "submitted"
    assert attempt.received == b"delta" * 1000
    assert attempt.report is not None
    assert outbox.leftovers() == []


def test_an_acknowledgement_that_was_lost_is_asked_for_again(
    coordinator: Coordinator, attempt: Attempt, outbox: Outbox, entry: Entry
) -> None:
    def hook(method: str, path: str) -> None:
        if method == "PUT" and coordinator.num_requests("PUT", ".*") == 1:
            attempt.announced = (entry.delta_path.stat().st_size, entry.sha256)
            attempt.received += entry.delta_path.read_bytes()
            attempt.report = {"tokens": 640}
            raise Problem(504, "gateway_timeout")

    coordinator.hook = hook
    assert hand_in(entry, outbox, coordinator).state == "submitted"
    assert outbox.leftovers() == []


@pytest.mark.parametrize("code", ["wrong_sha256", "delta_missing"])
def test_an_upload_that_was_lost_begins_anew(
    coordinator: Coordinator, attempt: Attempt, outbox: Outbox, entry: Entry, code: str
) -> None:
    def hook(method: str, path: str) -> None:
        if method == "PUT" and coordinator.num_requests("PUT", ".*") == 1:
            attempt.received.clear()
            raise Problem(409, code)

    coordinator.hook = hook
    hand_in(entry, outbox, coordinator)
    assert attempt.received == b"delta" * 1000


@pytest.mark.parametrize(
    ("status", "code"), [(410, "lease_expired"), (409, "cancelled"), (413, "too_large"), (404, "x")]
)
def test_work_that_is_not_wanted_is_dropped_with_the_reason(
    coordinator: Coordinator, attempt: Attempt, outbox: Outbox, entry: Entry, status: int, code: str
) -> None:
    def hook(method: str, path: str) -> None:
        if method == "PUT":
            raise Problem(status, code)

    coordinator.hook = hook
    with pytest.raises(NotWanted, match=code):
        hand_in(entry, outbox, coordinator)
    assert outbox.leftovers() == []


def test_a_file_that_arrives_damaged_every_time_is_given_up(
    coordinator: Coordinator, attempt: Attempt, outbox: Outbox, entry: Entry
) -> None:
    entry.delta_path.write_bytes(b"rotten" * 100)
    with pytest.raises(NotWanted, match="wrong_sha256"):
        hand_in(entry, outbox, coordinator)
    assert coordinator.num_requests("PUT", ".*") == 3


def test_work_stays_when_the_key_is_refused(
    coordinator: Coordinator, attempt: Attempt, outbox: Outbox, entry: Entry
) -> None:
    def hook(method: str, path: str) -> None:
        raise Problem(401, "key_revoked")

    coordinator.hook = hook
    with pytest.raises(CoordinatorError, match="key_revoked"):
        hand_in(entry, outbox, coordinator)
    assert len(outbox.leftovers()) == 1
