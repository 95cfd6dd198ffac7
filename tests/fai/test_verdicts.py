from collections.abc import Iterator
from pathlib import Path

import pytest

from fai import verdicts as verdicts_module
from fai.client import Client
from fai.verdicts import Verdicts
from ml.protocol import Receipt
from tests.fai.coordinator import Coordinator, Problem
from tests.fai.make import make_attempt, make_client, wait_until


class Heard:
    """Verdicts, and what they tell."""

    def __init__(self, client: Client) -> None:
        self.told: list[tuple[int, str]] = []
        self.settled: list[tuple[int, str | None]] = []
        self.verdicts = Verdicts(client=client, on_verdict=self._tell, settle=self._settle)

    def _tell(self, receipt: Receipt) -> None:
        self.told.append((receipt.attempt_id, receipt.state))

    def _settle(self, attempt_id: int, receipt: Receipt | None) -> None:
        self.settled.append((attempt_id, receipt.state if receipt else None))


@pytest.fixture
def heard(coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Heard]:
    monkeypatch.setattr(verdicts_module, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(verdicts_module, "MAX_PAUSE_SECONDS", 0.02)
    with make_client(coordinator) as client:
        heard = Heard(client)
        yield heard
        heard.verdicts.close(patience_seconds=0)


def test_a_verdict_is_told_and_settled_once_it_is_there(coordinator: Coordinator, heard: Heard, tmp_path: Path) -> None:
    attempt = make_attempt(coordinator, tmp_path)
    attempt.state = "validating"
    heard.verdicts.await_verdict(1)
    wait_until(lambda: coordinator.num_requests("GET", "attempts/1") > 1)
    assert heard.told == heard.settled == []
    attempt.state = "rejected"
    wait_until(lambda: heard.settled == [(1, "rejected")])
    assert heard.told == [(1, "rejected")]


@pytest.mark.parametrize("state", ["running", "submitted"])
def test_what_is_asked_after_is_settled_without_a_word(
    coordinator: Coordinator, heard: Heard, tmp_path: Path, state: str
) -> None:
    attempt = make_attempt(coordinator, tmp_path)
    attempt.state = state
    heard.verdicts.ask_after(1)
    wait_until(lambda: coordinator.num_requests("GET", "attempts/1") > 1)
    attempt.state = "lease_expired"
    wait_until(lambda: heard.settled == [(1, "lease_expired")])
    assert heard.told == []


def test_asking_after_what_is_awaited_silences_nothing(coordinator: Coordinator, heard: Heard, tmp_path: Path) -> None:
    attempt = make_attempt(coordinator, tmp_path)
    attempt.state = "submitted"
    heard.verdicts.await_verdict(1)
    heard.verdicts.ask_after(1)
    attempt.state = "accepted"
    wait_until(lambda: heard.told == [(1, "accepted")])


def test_an_attempt_that_nobody_knows_is_settled_as_none(coordinator: Coordinator, heard: Heard) -> None:
    heard.verdicts.ask_after(404)
    wait_until(lambda: heard.settled == [(404, None)])


def test_a_refusal_settles_nothing(coordinator: Coordinator, heard: Heard) -> None:
    def refuse(method: str, path: str) -> None:
        raise Problem(401, "key_revoked")

    coordinator.hook = refuse
    heard.verdicts.ask_after(1)
    wait_until(lambda: coordinator.num_requests("GET", "attempts/1") == 1)
    heard.verdicts.close(patience_seconds=5)
    assert heard.settled == []


def test_a_coordinator_that_is_away_is_asked_again(coordinator: Coordinator, heard: Heard, tmp_path: Path) -> None:
    attempt = make_attempt(coordinator, tmp_path)
    attempt.state = "accepted"
    coordinator.stop()
    heard.verdicts.await_verdict(1)
    coordinator.start()
    wait_until(lambda: heard.settled == [(1, "accepted")])


def test_nobody_waits_on_leaving_for_what_the_volunteer_does_not_await(
    coordinator: Coordinator, heard: Heard, tmp_path: Path
) -> None:
    make_attempt(coordinator, tmp_path).state = "running"
    heard.verdicts.ask_after(1)
    # A wait would time the test out.
    heard.verdicts.close(patience_seconds=10_000)
