"""Attempts in this process, against real HTTP, with real training of a tiny model."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from fai import client as client_module
from fai.outbox import DELTA_NAME
from fai.speed import Speed
from ml import delta_file
from ml.codec import DeltaLabel
from ml.config import InnerConfig
from ml.protocol import DeviceState, JobSpec
from tests.fai.coordinator import Attempt, Coordinator, Problem
from tests.fai.make import INNER, MODEL, make_attempt, make_report, wait_until
from tests.fai.volunteer import Volunteer


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture
def volunteer(coordinator: Coordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Volunteer]:
    monkeypatch.setattr(client_module, "FIRST_DELAY_SECONDS", 0.01)
    torch.set_num_threads(1)
    volunteer = Volunteer(coordinator, tmp_path)
    yield volunteer
    volunteer.close()


@pytest.fixture
def attempt(coordinator: Coordinator, tmp_path: Path) -> Attempt:
    return make_attempt(coordinator, tmp_path)


def check_delta(attempt: Attempt, folder: Path, *, tokens: int) -> None:
    """As the coordinator does it."""
    spec: JobSpec = attempt.spec
    path = folder / "received"
    path.write_bytes(attempt.received)
    label = DeltaLabel(
        experiment=spec.experiment,
        round_number=spec.round_number,
        base_sha256=spec.base.sha256,
        codec=spec.codec,
        attempt_id=spec.attempt_id,
    )
    facts = delta_file.check(path, model=spec.model, label=label, token_budget=spec.token_budget, max_norm=1e6)
    assert facts.tokens == tokens
    assert facts.norm > 0


def test_an_attempt_is_claimed_trained_and_handed_in(
    coordinator: Coordinator, volunteer: Volunteer, attempt: Attempt, tmp_path: Path
) -> None:
    volunteer.runner.run(1, "nonce")
    assert attempt.report is not None
    assert (attempt.report["tokens"], attempt.report["partial"]) == (640, False)
    check_delta(attempt, tmp_path, tokens=640)
    assert volunteer.outbox.leftovers() == []
    assert volunteer.activity.heartbeat.attempt_id is None
    wait_until(lambda: "accepted" in volunteer.screen.keys)


@pytest.mark.parametrize("state", ["offer_expired", "cancelled", "running"])
def test_an_offer_that_cannot_be_claimed_is_no_work(
    coordinator: Coordinator, volunteer: Volunteer, attempt: Attempt, state: str
) -> None:
    attempt.state = state
    volunteer.runner.run(1, "nonce")
    assert volunteer.screen.keys == ["offer_gone"]
    assert attempt.state == state
    assert volunteer.stops == []


def test_a_message_with_another_nonce_is_no_work(volunteer: Volunteer, attempt: Attempt) -> None:
    volunteer.runner.run(1, "guessed")
    assert attempt.state == "offered"


def test_a_revoked_key_ends_the_worker(coordinator: Coordinator, volunteer: Volunteer, attempt: Attempt) -> None:
    def hook(method: str, path: str) -> None:
        raise Problem(401, "key_revoked")

    coordinator.hook = hook
    volunteer.runner.run(1, "nonce")
    assert "refuses this key" in str(volunteer.stops[0])


def test_who_leaves_in_mid_job_hands_in_what_is_done(volunteer: Volunteer, attempt: Attempt, tmp_path: Path) -> None:
    show = volunteer.screen.show

    def leave_at_the_second_step(**changes: object) -> None:
        show(**changes)
        if changes.get("done") == 128 and "loss" in changes:
            volunteer.departure.leave()

    volunteer.screen.show = leave_at_the_second_step  # type: ignore[method-assign]
    volunteer.runner.run(1, "nonce")
    assert attempt.report is not None
    assert (attempt.report["tokens"], attempt.report["partial"]) == (128, True)
    check_delta(attempt, tmp_path, tokens=128)
    assert volunteer.activity.heartbeat.state == DeviceState.LEAVING


def test_who_leaves_before_training_gives_the_work_back(
    coordinator: Coordinator, volunteer: Volunteer, attempt: Attempt
) -> None:
    def hook(method: str, path: str) -> None:
        if path.startswith("blobs/"):
            volunteer.departure.leave()

    coordinator.hook = hook
    volunteer.runner.run(1, "nonce")
    assert attempt.release is not None
    assert attempt.release["reason"] == "released_by_device"
    assert "released" in volunteer.screen.keys


def test_a_cancelled_attempt_stops_and_says_why(volunteer: Volunteer, attempt: Attempt) -> None:
    show = volunteer.screen.show

    def cancel_at_the_first_step(**changes: object) -> None:
        show(**changes)
        if "loss" in changes and changes["loss"] is not None:
            volunteer.runner.cancel(1, "lease_expired")

    volunteer.screen.show = cancel_at_the_first_step  # type: ignore[method-assign]
    volunteer.runner.run(1, "nonce")
    assert volunteer.screen.said[-1][0] == "cancelled"
    assert "heard nothing" in volunteer.screen.said[-1][1]["reason"]
    assert attempt.received == b""
    assert volunteer.outbox.leftovers() == []


def test_work_that_was_finished_while_the_coordinator_was_away_is_kept(
    coordinator: Coordinator, volunteer: Volunteer, attempt: Attempt, tmp_path: Path
) -> None:
    def hook(method: str, path: str) -> None:
        if path.endswith("delta"):
            volunteer.departure.leave()
            raise Problem(503, "down")

    coordinator.hook = hook
    volunteer.departure.wait = lambda seconds: not volunteer.departure.leaving.is_set()  # type: ignore[method-assign]
    volunteer.runner.run(1, "nonce")
    assert "kept" in volunteer.screen.keys
    assert attempt.report is None

    coordinator.hook = lambda method, path: None
    later = Volunteer(coordinator, tmp_path)
    later.runner.hand_in_leftovers()
    later.close()
    assert attempt.report is not None
    assert later.screen.keys[:2] == ["leftover", "handed_in"]
    assert later.outbox.leftovers() == []


def test_a_leftover_that_is_no_longer_wanted_is_dropped(
    coordinator: Coordinator, volunteer: Volunteer, attempt: Attempt
) -> None:
    attempt.state, attempt.reason = "lease_expired", "lease_expired"
    (volunteer.outbox.prepare(1) / DELTA_NAME).write_bytes(b"delta")
    volunteer.outbox.add(attempt_id=1, sha256="ab" * 32, report=make_report())
    volunteer.runner.hand_in_leftovers()
    assert volunteer.screen.keys == ["leftover", "not_accepted"]
    assert volunteer.outbox.leftovers() == []


def test_a_full_disk_gives_the_work_back_and_ends_the_worker(
    volunteer: Volunteer, attempt: Attempt, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9, 0))
    volunteer.runner.run(1, "nonce")
    assert attempt.release is not None
    assert attempt.release["reason"] == "client_error"
    assert "disk is full" in attempt.release["detail"]
    assert "FAI_CACHE_DIR" in str(volunteer.stops[0])
    assert [path for path in (tmp_path / "blobs").iterdir() if path.suffix != ".lock"] == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"token_budget": 3}, "budget of 3 tokens"),
        ({"model": MODEL.replace(n_embd=32)}, "another model"),
    ],
)
def test_an_impossible_job_is_given_back_with_the_reason(
    coordinator: Coordinator, volunteer: Volunteer, tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    attempt = make_attempt(coordinator, tmp_path, **changes)  # type: ignore[arg-type]
    volunteer.speeds.observe(attempt.spec.model, INNER, Speed(micro_batch=1, tokens_per_second=1.0))
    volunteer.runner.run(1, "nonce")
    assert attempt.release is not None
    assert words in attempt.release["detail"]
    assert volunteer.stops == []


def test_a_diverged_job_is_given_back(coordinator: Coordinator, volunteer: Volunteer, tmp_path: Path) -> None:
    inner = InnerConfig(learning_rate=1e30, clip_norm=1e30, weight_decay=0.0, warmup_steps=0, batch_tokens=64)
    attempt = make_attempt(coordinator, tmp_path, inner=inner)
    volunteer.speeds.observe(MODEL, attempt.spec.inner, Speed(micro_batch=1, tokens_per_second=1.0))
    volunteer.runner.run(1, "nonce")
    assert attempt.release is not None
    assert attempt.release["reason"] == "client_error"
    assert "diverged" in volunteer.screen.keys


def test_an_unforeseen_error_gives_the_work_back_before_it_is_raised(
    volunteer: Volunteer, attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> Callable[[], None]:
        raise KeyError("bug")

    monkeypatch.setattr(volunteer.speeds, "find", fail)
    with pytest.raises(KeyError):
        volunteer.runner.run(1, "nonce")
    assert attempt.release is not None
    assert attempt.release["reason"] == "client_error"


def test_the_speed_of_a_finished_job_is_told(coordinator: Coordinator, volunteer: Volunteer, tmp_path: Path) -> None:
    make_attempt(coordinator, tmp_path)
    volunteer.runner.run(1, "nonce")
    told = volunteer.activity.heartbeat.tokens_per_second
    known = volunteer.speeds.find(MODEL, INNER)
    assert known is not None
    assert told == known.tokens_per_second != 1_000.0
