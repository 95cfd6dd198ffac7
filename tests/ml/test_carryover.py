import errno
import itertools
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ml import carryover as carryover_module
from ml import codec
from ml.carryover import MAX_AWAY_ROUNDS, Carryover, Unsettled
from ml.codec import DeltaLabel, DeltaNotFinite
from ml.config import InnerConfig, ModelConfig
from ml.layout import parameter_shapes

# The embedding is a block and a half of a sparse codec; nothing else is large.
MODEL = ModelConfig(vocab_size=128, block_size=16, n_layer=1, n_head=4, n_kv_head=2, n_embd=48)
SHAPES = parameter_shapes(MODEL)
INNER = InnerConfig()
SPARSE = "topk-64"
DECAY = 0.95
TOLERANCE = 1e-6
"""Deltas are of size 1e-2; sums of a few of them in float32 differ by some 1e-9."""


class Killed(BaseException):
    """As if the process had ended here."""


def make_carryover(folder: Path, **changes: object) -> Carryover:
    arguments: dict[str, object] = {"model": MODEL, "inner": INNER, "codec": SPARSE}
    return Carryover(folder / "kept", **arguments | changes)  # type: ignore[arg-type]


def make_delta(seed: int = 0, *, scale: float = 1e-2) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return {name: scale * torch.randn(shape, generator=rng) for name, shape in SHAPES.items()}


def no_delta() -> dict[str, Tensor]:
    return {name: torch.zeros(shape) for name, shape in SHAPES.items()}


def make_moments(seed: int = 0) -> dict[str, Tensor]:
    moments = {f"{name}/exp_avg": values for name, values in make_delta(seed).items()}
    moments |= {f"{name}/exp_avg_sq": values.square() for name, values in make_delta(seed + 1).items()}
    return moments | {f"{name}/step": torch.tensor(30.0) for name in SHAPES}


def send(
    carryover: Carryover, delta: dict[str, Tensor], folder: Path, *, attempt_id: int = 1, round_number: int = 1
) -> dict[str, Tensor]:
    """What the delta's readers find."""
    path = folder / "delta"
    label = DeltaLabel(
        experiment="tiny", round_number=round_number, base_sha256="0" * 64, codec=SPARSE, attempt_id=attempt_id
    )
    carryover.encode(delta, label=label, tokens=100, path=path)
    reader = codec.open_delta(path, shapes=SHAPES)
    return {name: torch.from_numpy(reader.tensor(name)) for name in SHAPES}


def error_of(carryover: Carryover) -> dict[str, Tensor]:
    kept = carryover_module._read(carryover.folder / "error")
    return kept.tensors if kept else no_delta()


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, rtol=0, atol=TOLERANCE)


def combine(first: dict[str, Tensor], factor: float, second: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: first[name] + factor * second[name] for name in SHAPES}


@pytest.mark.parametrize("name", ["dense", "int8", "int4"])
def test_a_codec_that_leaves_nothing_out_keeps_nothing(tmp_path: Path, name: str) -> None:
    label = DeltaLabel(experiment="tiny", round_number=1, base_sha256="0" * 64, codec=name, attempt_id=1)
    kept = make_carryover(tmp_path, codec=name).encode(make_delta(), label=label, tokens=1, path=tmp_path / "delta")
    assert kept == codec.encode(make_delta(), label=label, tokens=1, path=tmp_path / "plain")
    assert not (tmp_path / "kept").exists()


def test_what_a_delta_leaves_out_goes_with_the_next(tmp_path: Path) -> None:
    carryover = make_carryover(tmp_path)
    first = make_delta(0)
    sent = send(carryover, first, tmp_path)
    assert any((values == 0).any() for values in sent.values())
    left = combine(first, -1, sent)
    assert_equal(error_of(carryover), left)
    second = make_delta(1)
    sent = send(carryover, second, tmp_path, attempt_id=2, round_number=2)
    assert_equal(error_of(carryover), combine(combine(second, DECAY, left), -1, sent))


def test_the_delta_given_stays_as_it_was(tmp_path: Path) -> None:
    carryover = make_carryover(tmp_path)
    for attempt_id in (1, 2):
        delta = make_delta(attempt_id)
        send(carryover, delta, tmp_path, attempt_id=attempt_id)
        for name, values in make_delta(attempt_id).items():
            assert torch.equal(delta[name], values)


@given(ends=st.lists(st.sampled_from(["counts", "put back", "open"]), min_size=1, max_size=6), data=st.data())
@settings(max_examples=25, deadline=None)
def test_nothing_is_lost_and_nothing_counts_twice_whatever_becomes_of_the_deltas(
    tmp_path_factory: pytest.TempPathFactory, ends: list[str], data: st.DataObject
) -> None:
    """Verdicts come in any order, after any number of further jobs."""
    folder = tmp_path_factory.mktemp("carryover")
    carryover = make_carryover(folder)
    expected, sent = no_delta(), {}
    undecided: list[int] = []
    for attempt_id, end in enumerate(ends):
        delta = make_delta(attempt_id)
        whole = combine(delta, DECAY, expected)
        sent[attempt_id] = send(carryover, delta, folder, attempt_id=attempt_id, round_number=attempt_id + 1)
        expected = combine(whole, -1, sent[attempt_id])
        undecided += [attempt_id] if end != "open" else []
        for number in data.draw(st.lists(st.sampled_from(undecided), unique=True)) if undecided else []:
            undecided.remove(number)
            if ends[number] == "put back":
                assert carryover.put_back(number)
                expected = combine(expected, 1, sent[number])
            else:
                carryover.forget(number)
        assert_equal(error_of(carryover), expected)
    still_open = {number for number, end in enumerate(ends) if end == "open"}
    assert carryover.unsettled() == sorted(still_open | set(undecided))


def test_a_delta_is_put_back_once(tmp_path: Path) -> None:
    carryover = make_carryover(tmp_path)
    delta = make_delta()
    send(carryover, delta, tmp_path)
    assert [carryover.put_back(1) for _ in range(3)] == [True, False, False]
    assert_equal(error_of(carryover), delta)
    assert carryover.unsettled() == []


def test_a_delta_that_counts_is_not_put_back(tmp_path: Path) -> None:
    carryover = make_carryover(tmp_path)
    delta = make_delta()
    sent = send(carryover, delta, tmp_path)
    carryover.forget(1)
    assert not carryover.put_back(1)
    assert_equal(error_of(carryover), combine(delta, -1, sent))


def test_verdicts_need_no_model(tmp_path: Path) -> None:
    carryover = make_carryover(tmp_path)
    delta = make_delta()
    send(carryover, delta, tmp_path)
    stored = Unsettled(carryover.folder)
    assert stored.unsettled() == [1]
    assert stored.put_back(1)
    assert_equal(error_of(carryover), delta)


def test_a_folder_that_is_not_there_has_nothing_unsettled(tmp_path: Path) -> None:
    missing = Unsettled(tmp_path / "none")
    assert missing.unsettled() == []
    assert not missing.put_back(1)
    missing.forget(1)
    missing.drop()


@pytest.mark.parametrize("num_renames", range(4))
def test_a_job_that_is_killed_while_it_is_packed_loses_only_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_renames: int
) -> None:
    carryover = make_carryover(tmp_path)
    send(carryover, make_delta(0), tmp_path)
    before = error_of(carryover)
    carryover.forget(1)
    _kill_after(monkeypatch, num_renames)
    is_killed = num_renames < 3
    try:
        sent = send(carryover, make_delta(1), tmp_path, attempt_id=2, round_number=2)
    except Killed:
        assert is_killed
    monkeypatch.undo()
    later = make_carryover(tmp_path)
    for attempt_id in later.unsettled():
        later.put_back(attempt_id)
    # Killed before all was written, the delta was never handed in; otherwise it was, and has come back.
    whole = combine(make_delta(1), DECAY, before)
    assert_equal(error_of(later), before if is_killed else whole)
    assert is_killed or sent
    assert later.unsettled() == []


@pytest.mark.parametrize("num_renames", range(2))
def test_a_verdict_that_is_cut_short_is_repeated_without_counting_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_renames: int
) -> None:
    carryover = make_carryover(tmp_path)
    delta = make_delta()
    send(carryover, delta, tmp_path)
    _kill_after(monkeypatch, num_renames)
    monkeypatch.setattr(Path, "unlink", _killing(Path.unlink, only="sent-"))
    with pytest.raises(Killed):
        carryover.put_back(1)
    monkeypatch.undo()
    assert carryover.unsettled() == [1]
    carryover.put_back(1)
    assert_equal(error_of(carryover), delta)


def _kill_after(monkeypatch: pytest.MonkeyPatch, num_renames: int) -> None:
    counter = itertools.count()
    rename = Path.replace

    def replace(self: Path, target: Path) -> Path:
        if next(counter) >= num_renames:
            raise Killed
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", replace)


def _killing(unlink: Callable[..., None], *, only: str) -> Callable[..., None]:
    def killing(self: Path, missing_ok: bool = False) -> None:
        if self.name.startswith(only):
            raise Killed
        unlink(self, missing_ok=missing_ok)

    return killing


ENDLESS = """
import sys
from pathlib import Path
from tests.ml.test_carryover import make_carryover, make_delta, make_moments, send
folder = Path(sys.argv[1])
carryover = make_carryover(folder)
for attempt_id in range(int(sys.argv[2]), 10**6):
    send(carryover, make_delta(attempt_id), folder, attempt_id=attempt_id)
    carryover.keep_moments(make_moments(), round_number=1)
    (carryover.put_back if attempt_id % 2 else carryover.forget)(attempt_id)
    print(attempt_id, flush=True)
"""


def test_a_process_may_be_killed_at_any_moment(tmp_path: Path) -> None:
    next_id = 1
    for turn in range(2):
        process = subprocess.Popen(
            [sys.executable, "-c", ENDLESS, str(tmp_path), str(next_id)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.017 * turn)
        process.send_signal(signal.SIGKILL)
        lines = process.stdout.read().split()
        process.stdout.close()
        process.wait()
        next_id += len(lines) + 2
        carryover = make_carryover(tmp_path)
        assert carryover_module._read(carryover.folder / "error") is not None
        assert carryover.moments(round_number=1) is not None
        assert len(carryover.unsettled()) <= 1
        for attempt_id in carryover.unsettled():
            carryover.put_back(attempt_id)
        send(carryover, make_delta(), tmp_path, attempt_id=next_id)
        carryover.forget(next_id)
        next_id += 1


@pytest.mark.parametrize("function", ["copyfile", "fsync"])
def test_a_full_disk_leaves_the_error_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    carryover = make_carryover(tmp_path)
    send(carryover, make_delta(0), tmp_path)
    carryover.forget(1)
    before = error_of(carryover)

    def refuse(*_: object) -> None:
        if function == "copyfile" or calls.append(None) or len(calls) > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    calls: list[None] = []
    owner = carryover_module.shutil if function == "copyfile" else os
    monkeypatch.setattr(owner, function, refuse)
    with pytest.raises(OSError, match="No space"):
        send(carryover, make_delta(1), tmp_path, attempt_id=2)
    monkeypatch.undo()
    assert carryover.unsettled() == []
    assert_equal(error_of(carryover), before)
    assert sorted(path.name for path in carryover.folder.iterdir()) == ["error"]


def test_a_delta_that_diverged_leaves_the_error_as_it_was(tmp_path: Path) -> None:
    carryover = make_carryover(tmp_path)
    send(carryover, make_delta(0), tmp_path)
    before = error_of(carryover)
    delta = make_delta(1)
    delta["model.norm.weight"][0] = math.nan
    with pytest.raises(DeltaNotFinite):
        send(carryover, delta, tmp_path, attempt_id=2)
    assert_equal(error_of(carryover), before)
    assert carryover.unsettled() == [1]


def test_moments_come_back_as_they_were(tmp_path: Path) -> None:
    carryover = make_carryover(tmp_path)
    assert carryover.moments(round_number=1) is None
    carryover.keep_moments(make_moments(), round_number=1)
    found = make_carryover(tmp_path).moments(round_number=2)
    assert found is not None
    assert set(found) == set(make_moments())
    for name, values in make_moments().items():
        assert torch.equal(found[name], values)
        assert found[name].shape == values.shape


def test_what_is_kept_is_dropped_after_many_rounds_without_a_job(tmp_path: Path) -> None:
    carryover = make_carryover(tmp_path)
    carryover.keep_moments(make_moments(), round_number=5)
    send(carryover, make_delta(), tmp_path, round_number=5)
    last = 5 + MAX_AWAY_ROUNDS
    assert carryover.moments(round_number=last) is not None
    assert carryover.moments(round_number=last + 1) is None
    delta = make_delta(1)
    sent = send(carryover, delta, tmp_path, attempt_id=2, round_number=last + 1)
    assert_equal(error_of(carryover), combine(delta, -1, sent))


def test_a_delta_of_long_ago_is_not_put_back(tmp_path: Path) -> None:
    carryover = make_carryover(tmp_path)
    send(carryover, make_delta(0), tmp_path, round_number=1)
    for attempt_id, round_number in [(2, MAX_AWAY_ROUNDS), (3, MAX_AWAY_ROUNDS + 2)]:
        send(carryover, no_delta(), tmp_path, attempt_id=attempt_id, round_number=round_number)
        carryover.forget(attempt_id)
    before = error_of(carryover)
    assert not carryover.put_back(1)
    assert_equal(error_of(carryover), before)
    assert carryover.unsettled() == []


@pytest.mark.parametrize(
    "changes",
    [{"inner": InnerConfig(learning_rate=2e-3)}, {"model": MODEL.replace(n_layer=2)}, {"codec": "topk-128"}],
)
def test_what_is_kept_belongs_to_one_configuration(tmp_path: Path, changes: dict[str, object]) -> None:
    make_carryover(tmp_path).keep_moments(make_moments(), round_number=1)
    assert make_carryover(tmp_path, **changes).moments(round_number=1) is None


def test_an_error_of_another_configuration_is_not_added(tmp_path: Path) -> None:
    send(make_carryover(tmp_path, inner=InnerConfig(beta2=0.99)), make_delta(0), tmp_path)
    carryover = make_carryover(tmp_path)
    sent = send(carryover, make_delta(1), tmp_path, attempt_id=2)
    assert_equal(error_of(carryover), combine(make_delta(1), -1, sent))
    before = error_of(carryover)
    assert not carryover.put_back(1)
    assert_equal(error_of(carryover), before)


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(max_examples=100, deadline=None)
def test_a_damaged_file_is_none(tmp_path_factory: pytest.TempPathFactory, place: float, bit: int) -> None:
    folder = tmp_path_factory.mktemp("carryover")
    carryover = make_carryover(folder)
    carryover.keep_moments({"model.norm.weight/exp_avg": torch.ones(48)}, round_number=1)
    path = carryover.folder / "moments"
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    path.write_bytes(content)
    found = carryover.moments(round_number=1)
    # The round's digit may still say a round that is near.
    assert found is None or torch.equal(found["model.norm.weight/exp_avg"], torch.ones(48))


@pytest.mark.parametrize("content", [b"", b"\0" * 8, b"\xff" * 100, b"{}"])
def test_anything_else_in_the_folder_is_none(tmp_path: Path, content: bytes) -> None:
    carryover = make_carryover(tmp_path)
    send(carryover, make_delta(), tmp_path)
    for name in ("error", "moments", "sent-1"):
        (carryover.folder / name).write_bytes(content)
    (carryover.folder / "sent-x").write_bytes(content)
    assert carryover.moments(round_number=1) is None
    assert carryover.unsettled() == [1]
    assert not carryover.put_back(1)
    send(carryover, make_delta(), tmp_path, attempt_id=2)


def test_a_damaged_sent_delta_is_not_put_back(tmp_path: Path) -> None:
    carryover = make_carryover(tmp_path)
    send(carryover, make_delta(), tmp_path)
    before = error_of(carryover)
    (carryover.folder / "sent-1").write_bytes(b"damaged")
    assert not carryover.put_back(1)
    assert_equal(error_of(carryover), before)


def test_dropping_leaves_nothing(tmp_path: Path) -> None:
    carryover = make_carryover(tmp_path)
    send(carryover, make_delta(), tmp_path)
    carryover.keep_moments(make_moments(), round_number=1)
    carryover.drop()
    assert list(carryover.folder.iterdir()) == []


def test_an_experiments_files_take_three_models_and_what_was_sent(tmp_path: Path) -> None:
    carryover = make_carryover(tmp_path)
    for attempt_id in range(1, 6):
        send(carryover, make_delta(attempt_id), tmp_path, attempt_id=attempt_id)
        carryover.keep_moments(make_moments(attempt_id), round_number=1)
        carryover.forget(attempt_id)
    model_bytes = 4 * sum(int(np.prod(shape)) for shape in SHAPES.values())
    headers_bytes = 16_384
    assert sum(path.stat().st_size for path in carryover.folder.iterdir()) <= 3 * model_bytes + headers_bytes
