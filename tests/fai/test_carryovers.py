"""What a device keeps between jobs, as verdicts come and disks fill up."""

import errno
import os
import shutil
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from fai.carryovers import UNUSED_SECONDS, Carryovers
from ml import codec
from ml.codec import DeltaLabel
from ml.layout import parameter_shapes
from ml.protocol import JobSpec, Reason, Receipt
from tests.fai.coordinator import Coordinator
from tests.fai.make import WIDE, RecordingScreen, make_attempt

SHAPES = parameter_shapes(WIDE)


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture
def carryovers(tmp_path: Path, screen: RecordingScreen) -> Carryovers:
    return Carryovers(tmp_path / "carryover", screen=screen)


@pytest.fixture
def spec(coordinator: Coordinator, tmp_path: Path) -> JobSpec:
    return make_spec(coordinator, tmp_path)


def make_spec(coordinator: Coordinator, folder: Path, **changes: Any) -> JobSpec:
    return make_attempt(coordinator, folder, model=WIDE, codec="topk-64", **changes).spec


def make_delta(seed: int = 0) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return {name: 1e-2 * torch.randn(shape, generator=rng) for name, shape in SHAPES.items()}


def make_moments() -> dict[str, Tensor]:
    return {f"{name}/exp_avg": values for name, values in make_delta(9).items()}


def pack(carryovers: Carryovers, spec: JobSpec, folder: Path, *, seed: int = 0) -> dict[str, Tensor]:
    """What the delta's readers find."""
    label = DeltaLabel(
        experiment=spec.experiment,
        round_number=spec.round_number,
        base_sha256=spec.base.sha256,
        codec=spec.codec,
        attempt_id=spec.attempt_id,
    )
    path = folder / "delta"
    carryovers.encode(spec, make_delta(seed), label=label, tokens=1, path=path)
    reader = codec.open_delta(path, shapes=SHAPES)
    return {name: torch.from_numpy(reader.tensor(name)) for name in SHAPES}


def make_receipt(state: str, *, reason: str | None = None, attempt_id: int = 1) -> Receipt:
    return Receipt(
        attempt_id=attempt_id, state=state, reason=reason, detail="", verified_tokens=None, earned_credits=None
    )


def largest(tensors: dict[str, Tensor]) -> float:
    return max(float(values.abs().max()) for values in tensors.values())


def waits(carryovers: Carryovers, coordinator: Coordinator, folder: Path) -> dict[str, Tensor]:
    """What a delta of nothing would bring: the error that waits, a part of it."""
    spec = make_spec(coordinator, folder, attempt_id=99)
    label = DeltaLabel(experiment="tiny", round_number=1, base_sha256="0" * 64, codec="topk-64", attempt_id=99)
    nothing = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    carryovers.encode(spec, nothing, label=label, tokens=1, path=folder / "waiting")
    reader = codec.open_delta(folder / "waiting", shapes=SHAPES)
    return {name: torch.from_numpy(reader.tensor(name)) for name in SHAPES}


@pytest.mark.parametrize("state", ["accepted", "merged"])
def test_what_counts_is_forgotten(carryovers: Carryovers, spec: JobSpec, tmp_path: Path, state: str) -> None:
    pack(carryovers, spec, tmp_path)
    assert carryovers.unsettled() == [1]
    carryovers.settle(1, make_receipt(state))
    assert carryovers.unsettled() == []


ENDS_WITHOUT_COUNTING = [
    make_receipt("rejected", reason=Reason.WRONG_HASH),
    make_receipt("late", reason=Reason.TOO_LATE),
    make_receipt("cancelled", reason=Reason.CANCELLED),
    make_receipt("released", reason=Reason.RELEASED),
    make_receipt("failed", reason=Reason.CLIENT_ERROR),
    make_receipt("lease_expired", reason=Reason.LEASE_EXPIRED),
    make_receipt("state of a newer coordinator"),
    None,
]


@pytest.mark.parametrize("receipt", ENDS_WITHOUT_COUNTING)
def test_what_does_not_count_is_put_back(
    coordinator: Coordinator,
    carryovers: Carryovers,
    spec: JobSpec,
    screen: RecordingScreen,
    tmp_path: Path,
    receipt: Receipt | None,
) -> None:
    sent = pack(carryovers, spec, tmp_path)
    carryovers.settle(1, receipt)
    assert carryovers.unsettled() == []
    assert screen.said == [("put_back", {"attempt_id": 1})]
    # The largest values, which were sent, go out again.
    assert largest(waits(carryovers, coordinator, tmp_path)) == pytest.approx(0.95 * largest(sent), rel=0.1)


@pytest.mark.parametrize("reason", [Reason.NORM_OUT_OF_BOUNDS, Reason.NOT_FINITE])
def test_what_has_run_away_is_dropped_with_all_that_led_there(
    coordinator: Coordinator,
    carryovers: Carryovers,
    spec: JobSpec,
    screen: RecordingScreen,
    tmp_path: Path,
    reason: Reason,
) -> None:
    pack(carryovers, spec, tmp_path)
    carryovers.keep_moments(spec, make_moments())
    carryovers.settle(1, make_receipt("rejected", reason=reason))
    assert carryovers.moments(spec) is None
    assert largest(waits(carryovers, coordinator, tmp_path)) == 0
    assert screen.said == []


def test_a_verdict_on_an_attempt_of_which_nothing_is_kept_changes_nothing(
    carryovers: Carryovers, spec: JobSpec, screen: RecordingScreen, tmp_path: Path
) -> None:
    pack(carryovers, spec, tmp_path)
    carryovers.settle(2, make_receipt("rejected", attempt_id=2))
    carryovers.settle(3, None)
    assert carryovers.unsettled() == [1]
    assert screen.said == []


def test_experiments_are_kept_apart(coordinator: Coordinator, carryovers: Carryovers, tmp_path: Path) -> None:
    first = make_spec(coordinator, tmp_path)
    second = make_spec(coordinator, tmp_path, attempt_id=2, experiment="other")
    pack(carryovers, first, tmp_path)
    carryovers.keep_moments(first, make_moments())
    pack(carryovers, second, tmp_path)
    assert carryovers.unsettled() == [1, 2]
    assert carryovers.moments(second) is None
    carryovers.settle(1, make_receipt("accepted"))
    assert carryovers.unsettled() == [2]


def test_another_process_finds_what_was_kept(
    carryovers: Carryovers, spec: JobSpec, screen: RecordingScreen, tmp_path: Path
) -> None:
    pack(carryovers, spec, tmp_path)
    carryovers.keep_moments(spec, make_moments())
    (tmp_path / "carryover" / "tiny" / f".error.{'ab' * 8}.tmp").write_bytes(b"half")
    later = Carryovers(tmp_path / "carryover", screen=screen)
    assert later.unsettled() == [1]
    assert later.moments(spec) is not None
    assert sorted(path.name for path in (tmp_path / "carryover" / "tiny").iterdir()) == ["error", "moments", "sent-1"]


def test_an_experiment_without_a_job_for_long_is_dropped(
    coordinator: Coordinator, carryovers: Carryovers, spec: JobSpec, screen: RecordingScreen, tmp_path: Path
) -> None:
    other = make_spec(coordinator, tmp_path, attempt_id=2, experiment="other")
    for one in (spec, other):
        carryovers.keep_moments(one, make_moments())
    long_ago = time.time() - UNUSED_SECONDS - 60
    for name in ("tiny", "other"):
        os.utime(tmp_path / "carryover" / name, (long_ago, long_ago))
    # A job of it is a use.
    assert carryovers.moments(spec) is not None
    assert [path.name for path in (tmp_path / "carryover").iterdir()] == ["tiny"]
    os.utime(tmp_path / "carryover" / "tiny", (long_ago, long_ago))
    Carryovers(tmp_path / "carryover", screen=screen)
    assert list((tmp_path / "carryover").iterdir()) == []


@pytest.mark.parametrize("slug", ["../outside", "", "a/b", "x" * 51, "a b", "."])
def test_a_name_that_is_no_experiments_is_refused(
    coordinator: Coordinator, carryovers: Carryovers, tmp_path: Path, slug: str
) -> None:
    spec = make_spec(coordinator, tmp_path, experiment=slug)
    with pytest.raises(ValueError, match="no experiment's name"):
        carryovers.moments(spec)


def test_a_full_disk_costs_what_is_kept_and_no_delta(
    carryovers: Carryovers, spec: JobSpec, screen: RecordingScreen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9, 0))
    sent = pack(carryovers, spec, tmp_path)
    carryovers.keep_moments(spec, make_moments())
    assert largest(sent) > 0
    assert screen.said == [("not_kept", {"why": os.strerror(errno.ENOSPC)})] * 2
    assert carryovers.unsettled() == []
    assert carryovers.moments(spec) is None


def test_a_disk_that_fills_up_meanwhile_sends_no_error_twice(
    coordinator: Coordinator,
    carryovers: Carryovers,
    spec: JobSpec,
    screen: RecordingScreen,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pack(carryovers, spec, tmp_path)
    carryovers.settle(1, make_receipt("accepted"))

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", refuse)
        second = make_spec(coordinator, tmp_path, attempt_id=2)
        with_error_waiting = pack(carryovers, second, tmp_path, seed=1)
    assert screen.keys == ["not_kept"]
    alone = Carryovers(tmp_path / "fresh", screen=screen)
    without = pack(alone, second, tmp_path, seed=1)
    for name, values in without.items():
        assert torch.equal(values, with_error_waiting[name])


def test_a_verdict_that_the_disk_does_not_take_waits_for_the_next_start(
    carryovers: Carryovers, spec: JobSpec, screen: RecordingScreen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack(carryovers, spec, tmp_path)

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        carryovers.settle(1, make_receipt("late"))
    assert screen.keys == ["not_kept"]
    assert carryovers.unsettled() == [1]
    carryovers.settle(1, make_receipt("late"))
    assert screen.keys == ["not_kept", "put_back"]


def test_room_is_made_of_all_that_is_kept(
    carryovers: Carryovers, spec: JobSpec, screen: RecordingScreen, tmp_path: Path
) -> None:
    assert not carryovers.make_room()
    carryovers.keep_moments(spec, make_moments())
    assert carryovers.make_room()
    assert screen.keys == ["not_kept"]
    assert carryovers.moments(spec) is None
    assert not carryovers.make_room()


def test_a_folder_that_may_not_be_written_costs_nothing_else(
    spec: JobSpec, screen: RecordingScreen, tmp_path: Path
) -> None:
    (tmp_path / "carryover").write_bytes(b"a file")
    carryovers = Carryovers(tmp_path / "carryover", screen=screen)
    assert carryovers.moments(spec) is None
    assert largest(pack(carryovers, spec, tmp_path)) > 0
    carryovers.keep_moments(spec, make_moments())
    assert carryovers.unsettled() == []
    assert set(screen.keys) == {"not_kept"}
