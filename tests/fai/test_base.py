"""A round's base from outer steps, against real HTTP and real merges."""

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from fai import client as client_module
from fai.base import fetch_base, useful_steps
from fai.cache import Cache, File
from ml.config import OuterConfig
from ml.protocol import JobSpec, StepRef
from tests.fai.coordinator import Coordinator, Problem
from tests.fai.make import WIDE, RecordingScreen, make_attempt, make_client
from tests.fai.rounds import Round, make_rounds


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture(autouse=True)
def short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "FIRST_DELAY_SECONDS", 0.01)


class Device:
    """A cache with some checkpoints, and what it fetches."""

    def __init__(self, coordinator: Coordinator, folder: Path, *, max_bytes: int = 10**9) -> None:
        self.coordinator = coordinator
        self.cache = Cache(folder / "blobs", max_bytes=max_bytes)
        self.screen = RecordingScreen()

    def has(self, file: File) -> None:
        self.cache.path(file.sha256).write_bytes(self.coordinator.blobs[file.sha256])

    def fetch_base(self, spec: JobSpec) -> Path:
        with make_client(self.coordinator) as client:
            return fetch_base(
                spec,
                cache=self.cache,
                fetch=lambda file: self.cache.fetch(file, client, on_bytes=lambda num_bytes: None),
                screen=self.screen,
            )

    @property
    def downloads(self) -> list[str]:
        return [path.removeprefix("blobs/") for _, path in self.coordinator.requests if path.startswith("blobs/")]


@pytest.fixture
def rounds(coordinator: Coordinator, tmp_path: Path) -> list[Round]:
    return make_rounds(coordinator, tmp_path / "rounds", model=WIDE)


@pytest.fixture
def device(coordinator: Coordinator, tmp_path: Path) -> Device:
    return Device(coordinator, tmp_path)


def steps_of(rounds: list[Round]) -> tuple[StepRef, ...]:
    return tuple(one.step for one in rounds if one.step)


def spec_of(coordinator: Coordinator, folder: Path, rounds: list[Round], *, steps: tuple[StepRef, ...]) -> JobSpec:
    return make_attempt(coordinator, folder, base=rounds[-1].result, steps=steps).spec


@pytest.mark.parametrize("num_behind", [1, 2, 3])
def test_a_device_that_has_an_earlier_checkpoint_fetches_only_the_steps_from_there_on(
    coordinator: Coordinator, device: Device, rounds: list[Round], tmp_path: Path, num_behind: int
) -> None:
    start = rounds[-num_behind].base
    device.has(start)
    spec = spec_of(coordinator, tmp_path, rounds, steps=steps_of(rounds))
    path = device.fetch_base(spec)
    assert path.read_bytes() == coordinator.blobs[rounds[-1].result.sha256]
    assert path == device.cache.path(rounds[-1].result.sha256)
    wanted = steps_of(rounds)[-num_behind:]
    assert device.downloads == [step.sha256 for step in wanted]
    steps_bytes = sum(step.size_bytes for step in wanted)
    saved = {"steps_bytes": steps_bytes, "saved_bytes": spec.base.size_bytes - steps_bytes}
    assert device.screen.said == [("base_from_steps", saved)]
    assert saved["saved_bytes"] > 0
    left = {path.name for path in device.cache.path("").iterdir() if path.suffix != ".lock"}
    assert left == {start.sha256, rounds[-1].result.sha256}


def test_the_newest_checkpoint_at_hand_is_the_one_to_start_from(
    coordinator: Coordinator, device: Device, rounds: list[Round], tmp_path: Path
) -> None:
    for one in rounds:
        device.has(one.base)
    device.fetch_base(spec_of(coordinator, tmp_path, rounds, steps=steps_of(rounds)))
    assert device.downloads == [steps_of(rounds)[-1].sha256]


def test_a_base_that_is_here_is_not_made_again(
    coordinator: Coordinator, device: Device, rounds: list[Round], tmp_path: Path
) -> None:
    device.has(rounds[-1].base)
    device.has(rounds[-1].result)
    device.fetch_base(spec_of(coordinator, tmp_path, rounds, steps=steps_of(rounds)))
    assert device.downloads == []
    assert device.screen.said == []


def test_a_device_with_none_of_the_checkpoints_fetches_the_whole(
    coordinator: Coordinator, device: Device, rounds: list[Round], tmp_path: Path
) -> None:
    device.fetch_base(spec_of(coordinator, tmp_path, rounds, steps=steps_of(rounds)))
    assert device.downloads == [rounds[-1].result.sha256]


def test_a_job_without_steps_fetches_the_whole(coordinator: Coordinator, device: Device, tmp_path: Path) -> None:
    rounds = make_rounds(coordinator, tmp_path / "rounds", num_rounds=1, outer=OuterConfig(step_codec="none"))
    assert steps_of(rounds) == ()
    device.has(rounds[0].base)
    device.fetch_base(spec_of(coordinator, tmp_path, rounds, steps=()))
    assert device.downloads == [rounds[0].result.sha256]


Spoil = Callable[[Coordinator, Device, StepRef], StepRef]


def _bytes_damaged(coordinator: Coordinator, device: Device, step: StepRef) -> StepRef:
    content = coordinator.blobs[step.sha256]
    coordinator.blobs[step.sha256] = content[:-1] + bytes([content[-1] ^ 1])
    return step


def _gone(coordinator: Coordinator, device: Device, step: StepRef) -> StepRef:
    del coordinator.blobs[step.sha256]
    return step


def _no_step(coordinator: Coordinator, device: Device, step: StepRef) -> StepRef:
    return dataclasses.replace(step, sha256=coordinator.put_blob(b"no tensors"), size_bytes=10)


def _of_another_base(coordinator: Coordinator, device: Device, step: StepRef) -> StepRef:
    other = next(
        sha256
        for sha256, content in coordinator.blobs.items()
        if b'"outer step"' in content[:1000] and sha256 != step.sha256
    )
    return dataclasses.replace(step, sha256=other, size_bytes=len(coordinator.blobs[other]))


def _leads_elsewhere(coordinator: Coordinator, device: Device, step: StepRef) -> StepRef:
    """A well-formed step whose last value is another one."""
    content = coordinator.blobs[step.sha256]
    changed = content[:-1] + bytes([content[-1] ^ 1])
    return dataclasses.replace(step, sha256=coordinator.put_blob(changed))


def _start_damaged(coordinator: Coordinator, device: Device, step: StepRef) -> StepRef:
    path = device.cache.path(step.base_sha256)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    return step


@pytest.mark.parametrize("spoil", [_bytes_damaged, _gone, _no_step, _of_another_base, _leads_elsewhere, _start_damaged])
def test_a_step_that_cannot_be_used_costs_the_whole_download_and_no_job(
    coordinator: Coordinator, device: Device, rounds: list[Round], tmp_path: Path, spoil: Spoil
) -> None:
    step = steps_of(rounds)[-1]
    device.has(rounds[-1].base)
    spoiled = spoil(coordinator, device, step)
    spec = spec_of(coordinator, tmp_path, rounds, steps=(spoiled,))
    assert device.fetch_base(spec).read_bytes() == coordinator.blobs[rounds[-1].result.sha256]
    assert device.screen.keys == ["steps_useless"]
    assert device.downloads[-1] == rounds[-1].result.sha256
    # What lies in the cache from now on is what its name says.
    for path in device.cache.path("").iterdir():
        if path.suffix != ".lock":
            assert path.name in coordinator.blobs


def test_a_damaged_start_does_not_stay_in_the_cache(
    coordinator: Coordinator, device: Device, rounds: list[Round], tmp_path: Path
) -> None:
    device.has(rounds[-1].base)
    step = _start_damaged(coordinator, device, steps_of(rounds)[-1])
    device.fetch_base(spec_of(coordinator, tmp_path, rounds, steps=(step,)))
    assert not device.cache.holds(rounds[-1].base.sha256)
    assert device.cache.holds(step.sha256)


@pytest.mark.parametrize("steps", [(0, 2), (0,), (2, 1)])
def test_steps_that_do_not_lead_to_the_base_are_none(
    coordinator: Coordinator, device: Device, rounds: list[Round], tmp_path: Path, steps: tuple[int, ...]
) -> None:
    device.has(rounds[0].base)
    chain = tuple(steps_of(rounds)[index] for index in steps)
    device.fetch_base(spec_of(coordinator, tmp_path, rounds, steps=chain))
    assert device.downloads == [rounds[-1].result.sha256]


def test_steps_are_not_worth_it_where_most_of_the_whole_is_here(
    coordinator: Coordinator, device: Device, rounds: list[Round], tmp_path: Path
) -> None:
    device.has(rounds[0].base)
    result = rounds[-1].result
    device.cache.path(result.sha256).with_suffix(".partial").write_bytes(coordinator.blobs[result.sha256][:-100])
    spec = spec_of(coordinator, tmp_path, rounds, steps=steps_of(rounds))
    assert useful_steps(spec, device.cache) == ()
    assert device.fetch_base(spec).read_bytes() == coordinator.blobs[result.sha256]


def test_the_cache_keeps_to_its_bound_and_to_what_is_needed(
    coordinator: Coordinator, rounds: list[Round], tmp_path: Path
) -> None:
    step = steps_of(rounds)[-1]
    needed_bytes = 2 * rounds[-1].base.size_bytes + step.size_bytes
    device = Device(coordinator, tmp_path, max_bytes=needed_bytes)
    device.cache.path("older").write_bytes(b"o" * 1000)
    device.has(rounds[-1].base)
    os.utime(device.cache.path(rounds[-1].base.sha256), (1, 1))
    device.fetch_base(spec_of(coordinator, tmp_path, rounds, steps=(step,)))
    assert device.screen.keys == ["base_from_steps"]
    assert not device.cache.holds("older")
    stored = [path.stat().st_size for path in device.cache.path("").iterdir()]
    assert sum(stored) <= needed_bytes


def test_a_cache_too_small_for_two_checkpoints_takes_the_whole(
    coordinator: Coordinator, rounds: list[Round], tmp_path: Path
) -> None:
    step = steps_of(rounds)[-1]
    device = Device(coordinator, tmp_path, max_bytes=2 * rounds[-1].base.size_bytes)
    device.has(rounds[-1].base)
    device.fetch_base(spec_of(coordinator, tmp_path, rounds, steps=(step,)))
    assert device.downloads == [rounds[-1].result.sha256]


def test_a_chain_that_was_cut_short_goes_on_where_it_was(
    coordinator: Coordinator, device: Device, rounds: list[Round], tmp_path: Path
) -> None:
    class Left(Exception):
        """The volunteer leaves."""

    device.has(rounds[0].base)
    spec = spec_of(coordinator, tmp_path, rounds, steps=steps_of(rounds))
    last = steps_of(rounds)[-1].sha256

    def leave(method: str, path: str) -> None:
        if path == f"blobs/{last}":
            raise Problem(404, "gone")

    coordinator.hook = leave
    with make_client(coordinator) as client:

        def fetch(file: File) -> Path:
            if file.sha256 == last:
                raise Left
            return device.cache.fetch(file, client, on_bytes=lambda num_bytes: None)

        with pytest.raises(Left):
            fetch_base(spec, cache=device.cache, fetch=fetch, screen=device.screen)
    coordinator.hook = lambda method, path: None
    coordinator.requests.clear()
    device.fetch_base(spec)
    assert device.downloads == [last]


def test_a_disk_without_room_for_a_second_checkpoint_says_so_once(
    coordinator: Coordinator, device: Device, rounds: list[Round], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.has(rounds[-1].base)
    spec = spec_of(coordinator, tmp_path, rounds, steps=steps_of(rounds)[-1:])
    room = [10**9, 0, 10**9]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 0, room.pop(0)))
    assert device.fetch_base(spec).is_file()
    assert device.screen.keys == ["steps_useless"]
    assert "disk is full" in device.screen.said[0][1]["why"]
