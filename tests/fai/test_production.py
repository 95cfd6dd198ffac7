"""Jobs in this process, against real HTTP: time boxes, sizes, and what is kept for the next job."""

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from fai import client as client_module
from fai import verdicts as verdicts_module
from ml import local
from ml.config import CODECS
from ml.protocol import Reason
from tests.fai.coordinator import Attempt, Coordinator, Problem
from tests.fai.make import WIDE, make_attempt, wait_until
from tests.fai.rounds import make_rounds
from tests.fai.volunteer import Volunteer

LONG_BUDGET = 64 * 10**6
"""Tokens that the tiny model trains on for longer than any test lasts."""


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture
def volunteer(coordinator: Coordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Volunteer]:
    monkeypatch.setattr(client_module, "FIRST_DELAY_SECONDS", 0.01)
    monkeypatch.setattr(verdicts_module, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(verdicts_module, "MAX_PAUSE_SECONDS", 0.02)
    torch.set_num_threads(1)
    volunteer = Volunteer(coordinator, tmp_path)
    yield volunteer
    volunteer.close()


def make_sparse_attempt(coordinator: Coordinator, folder: Path, **changes: Any) -> Attempt:
    return make_attempt(coordinator, folder, model=WIDE, codec="topk-64", **changes)


def said(volunteer: Volunteer, key: str) -> dict[str, Any]:
    (values,) = [values for name, values in volunteer.screen.said if name == key]
    return values


def test_training_ends_with_the_first_step_after_the_jobs_time(
    coordinator: Coordinator, volunteer: Volunteer, tmp_path: Path
) -> None:
    attempt = make_attempt(coordinator, tmp_path, token_budget=LONG_BUDGET, train_seconds=1)
    volunteer.runner.run(1, "nonce")
    assert attempt.state == "accepted"
    assert attempt.report is not None
    assert attempt.report["partial"] is True
    assert 1 <= attempt.report["seconds"] < 10
    assert said(volunteer, "time_over") == {"seconds": 1}


def test_a_job_without_time_still_makes_one_step(
    coordinator: Coordinator, volunteer: Volunteer, tmp_path: Path
) -> None:
    attempt = make_attempt(coordinator, tmp_path, train_seconds=0)
    volunteer.runner.run(1, "nonce")
    assert attempt.report is not None
    assert (attempt.report["num_steps"], attempt.report["partial"]) == (1, True)


def test_a_job_that_is_done_in_time_says_nothing_of_it(
    volunteer: Volunteer, coordinator: Coordinator, tmp_path: Path
) -> None:
    make_attempt(coordinator, tmp_path)
    volunteer.runner.run(1, "nonce")
    assert "time_over" not in volunteer.screen.keys


@pytest.mark.parametrize("codec", CODECS)
def test_the_size_of_the_upload_is_told_before_the_job_to_the_byte(
    coordinator: Coordinator, volunteer: Volunteer, tmp_path: Path, codec: str
) -> None:
    attempt = make_attempt(coordinator, tmp_path, model=WIDE, codec=codec)
    volunteer.runner.run(1, "nonce")
    told = {"upload_bytes": len(attempt.received), "whole_bytes": attempt.spec.base.size_bytes}
    assert said(volunteer, "upload_size") == told
    assert said(volunteer, "trained")["upload_bytes"] == len(attempt.received)
    assert volunteer.screen.keys.index("upload_size") < volunteer.screen.keys.index("trained")
    assert volunteer.screen.view.whole_bytes == attempt.spec.base.size_bytes


def test_the_next_job_goes_on_with_the_moments_of_the_last(
    coordinator: Coordinator, volunteer: Volunteer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []
    run_job = local.run_job

    def watch(**arguments: Any) -> local.LocalResult:
        given.append(arguments["moments"])
        return run_job(**arguments)

    monkeypatch.setattr(local, "run_job", watch)
    for attempt_id in (1, 2):
        make_attempt(coordinator, tmp_path, attempt_id=attempt_id, round_number=attempt_id)
        volunteer.runner.run(attempt_id, "nonce")
    assert given[0] is None
    kept = volunteer.carryovers.moments(coordinator.attempts[2].spec)
    assert kept is not None
    assert set(given[1]) == set(kept)
    assert float(given[1]["model.norm.weight/step"]) == 10
    assert float(kept["model.norm.weight/step"]) == 20


def test_an_accepted_delta_leaves_its_error_and_no_copy(
    coordinator: Coordinator, volunteer: Volunteer, tmp_path: Path
) -> None:
    make_sparse_attempt(coordinator, tmp_path)
    volunteer.runner.run(1, "nonce")
    wait_until(lambda: volunteer.carryovers.unsettled() == [])
    assert sorted(path.name for path in (tmp_path / "carryover" / "tiny").iterdir()) == ["error", "moments"]
    assert "put_back" not in volunteer.screen.keys


def test_a_refused_delta_goes_out_with_the_next(coordinator: Coordinator, volunteer: Volunteer, tmp_path: Path) -> None:
    attempt = make_sparse_attempt(coordinator, tmp_path)
    _judge(coordinator, attempt, state="late", reason=Reason.TOO_LATE)
    volunteer.runner.run(1, "nonce")
    wait_until(lambda: "put_back" in volunteer.screen.keys)
    assert volunteer.carryovers.unsettled() == []


def _judge(coordinator: Coordinator, attempt: Attempt, *, state: str, reason: str) -> None:
    """Have the coordinator decide so once it has been asked."""

    def hook(method: str, path: str) -> None:
        if method == "GET" and path == f"attempts/{attempt.spec.attempt_id}":
            attempt.state, attempt.reason = state, reason

    coordinator.hook = hook


def test_a_delta_whose_attempt_is_cancelled_on_the_way_is_put_back(
    coordinator: Coordinator, volunteer: Volunteer, tmp_path: Path
) -> None:
    attempt = make_sparse_attempt(coordinator, tmp_path)
    show = volunteer.screen.show

    def cancel_the_upload(**changes: object) -> None:
        show(**changes)
        if changes.get("state") == "uploading":
            attempt.state, attempt.reason = "cancelled", "cancelled"
            volunteer.runner.cancel(1, "cancelled")

    volunteer.screen.show = cancel_the_upload  # type: ignore[method-assign]
    volunteer.runner.run(1, "nonce")
    wait_until(lambda: "put_back" in volunteer.screen.keys)
    assert volunteer.carryovers.unsettled() == []


def test_a_delta_that_is_not_wanted_is_put_back(coordinator: Coordinator, volunteer: Volunteer, tmp_path: Path) -> None:
    attempt = make_sparse_attempt(coordinator, tmp_path)

    def hook(method: str, path: str) -> None:
        if path.endswith("delta"):
            attempt.state = attempt.reason = "lease_expired"

    coordinator.hook = hook
    volunteer.runner.run(1, "nonce")
    wait_until(lambda: "put_back" in volunteer.screen.keys)
    assert "not_accepted" in volunteer.screen.keys


def test_a_delta_that_waits_for_its_coordinator_is_neither_forgotten_nor_put_back(
    coordinator: Coordinator, volunteer: Volunteer, tmp_path: Path
) -> None:
    attempt = make_sparse_attempt(coordinator, tmp_path)

    def hook(method: str, path: str) -> None:
        if path.endswith("delta"):
            volunteer.departure.leave()
            raise Problem(503, "down")

    coordinator.hook = hook
    volunteer.departure.wait = lambda seconds: not volunteer.departure.leaving.is_set()  # type: ignore[method-assign]
    volunteer.runner.run(1, "nonce")
    assert volunteer.carryovers.unsettled() == [1]
    coordinator.hook = lambda method, path: None
    later = Volunteer(coordinator, tmp_path)
    later.runner.hand_in_leftovers()
    later.runner.ask_after_unsettled()
    wait_until(lambda: later.carryovers.unsettled() == [])
    later.close()
    assert attempt.state == "accepted"
    assert "put_back" not in later.screen.keys


def test_what_a_killed_process_had_handed_in_is_asked_after_at_the_next_start(
    coordinator: Coordinator, volunteer: Volunteer, tmp_path: Path
) -> None:
    attempt = make_sparse_attempt(coordinator, tmp_path)
    volunteer.verdicts.close(patience_seconds=0)
    volunteer.runner.run(1, "nonce")
    assert volunteer.carryovers.unsettled() == [1]
    attempt.state, attempt.reason = "rejected", Reason.WRONG_HASH
    later = Volunteer(coordinator, tmp_path)
    later.runner.ask_after_unsettled()
    wait_until(lambda: later.carryovers.unsettled() == [])
    later.close()
    assert later.screen.keys == ["put_back"]


def test_a_job_that_diverges_begins_anew_the_next_time(
    coordinator: Coordinator, volunteer: Volunteer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_sparse_attempt(coordinator, tmp_path)
    volunteer.runner.run(1, "nonce")
    run_job = local.run_job

    def diverge(**arguments: Any) -> local.LocalResult:
        result = run_job(**arguments)
        result.delta["model.norm.weight"][0] = float("nan")
        return result

    monkeypatch.setattr(local, "run_job", diverge)
    attempt = make_sparse_attempt(coordinator, tmp_path, attempt_id=2)
    volunteer.runner.run(2, "nonce")
    assert attempt.release is not None
    assert "diverged" in volunteer.screen.keys
    assert volunteer.carryovers.moments(attempt.spec) is None
    assert list((tmp_path / "carryover" / "tiny").iterdir()) == []


def test_a_disk_with_room_for_the_job_alone_does_the_job_alone(
    coordinator: Coordinator, volunteer: Volunteer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make_sparse_attempt(coordinator, tmp_path)
    volunteer.runner.run(1, "nonce")
    wait_until(lambda: volunteer.carryovers.unsettled() == [])
    folder = tmp_path / "carryover" / "tiny"
    second = make_sparse_attempt(coordinator, tmp_path, attempt_id=2)
    # Full for as long as anything is kept, and room for the delta alone afterwards.
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: Usage(10**9, 0, 0 if folder.exists() else 64 * 2**20 + 10**6)
    )
    volunteer.runner.run(2, "nonce")
    assert (first.state, second.state) == ("accepted", "accepted")
    assert volunteer.screen.keys.count("not_kept") >= 1
    assert volunteer.stops == []


def test_the_base_comes_from_steps_where_the_last_one_is_at_hand(
    coordinator: Coordinator, volunteer: Volunteer, tmp_path: Path
) -> None:
    (merged,) = make_rounds(coordinator, tmp_path / "rounds", num_rounds=1, model=WIDE)
    assert merged.step is not None
    make_attempt(coordinator, tmp_path, model=WIDE, base=merged.base)
    volunteer.runner.run(1, "nonce")
    attempt = make_attempt(
        coordinator, tmp_path, attempt_id=2, model=WIDE, round_number=2, base=merged.result, steps=(merged.step,)
    )
    volunteer.runner.run(2, "nonce")
    assert attempt.state == "accepted"
    assert "base_from_steps" in volunteer.screen.keys
    assert coordinator.num_requests("GET", f"blobs/{merged.step.sha256}") == 1
    assert coordinator.num_requests("GET", f"blobs/{merged.result.sha256}") == 0


def test_a_job_whose_experiment_is_no_name_is_given_back(
    coordinator: Coordinator, volunteer: Volunteer, tmp_path: Path
) -> None:
    attempt = make_attempt(coordinator, tmp_path)
    attempt.spec = dataclasses.replace(attempt.spec, experiment="../../outside")
    volunteer.runner.run(1, "nonce")
    assert attempt.release is not None
    assert "no experiment's name" in attempt.release["detail"]
    assert not (tmp_path.parent / "outside").exists()
