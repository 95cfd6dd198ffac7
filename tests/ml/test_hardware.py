import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterator

import pytest
import torch

from ml import hardware
from tests.ml.make import make_config, make_hardware, make_inner


@pytest.fixture
def threads() -> Iterator[int]:
    before = torch.get_num_threads()
    yield before
    torch.set_num_threads(before)


def test_this_machine_is_described_in_plain_data() -> None:
    found = hardware.detect()
    assert found.device in ("cuda", "mps", "cpu")
    assert found.name.strip()
    assert 1 <= found.cores <= (os.cpu_count() or 1)
    assert found.memory_bytes > 2**28
    assert json.loads(json.dumps(dataclasses.asdict(found)))["cores"] == found.cores


@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="describes an accelerator")
def test_the_cpu_is_described_by_its_own_memory_and_instructions() -> None:
    found = hardware.detect()
    assert found.memory_bytes == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert not found.bf16 or torch.backends.cpu.get_cpu_capability() == "AVX512"


def test_detecting_changes_no_thread(threads: int) -> None:
    hardware.detect()
    assert torch.get_num_threads() == threads


def test_threads_are_limited_on_request(threads: int) -> None:
    hardware.limit_threads(1)
    assert torch.get_num_threads() == 1


def test_a_batch_has_at_least_one_row() -> None:
    config = make_config()
    assert [hardware.rows_per_batch(config, make_inner(batch_tokens=tokens)) for tokens in (1, 16, 31, 32)] == [
        1,
        1,
        1,
        2,
    ]


def speeds(*, per_step: float, per_row: float, capacity: int = 1_000) -> Callable[[int], float | None]:
    """Rows per second of a machine that spends so long on a step and on each of its rows."""
    return lambda num_rows: num_rows / (per_step + per_row * num_rows) if num_rows <= capacity else None


def test_rows_are_doubled_while_it_pays() -> None:
    assert hardware.double_while_it_pays(speeds(per_step=1.0, per_row=0.01), limit=64, seconds=9.0) == 64


def test_no_more_rows_are_tried_than_a_batch_has() -> None:
    tried: list[int] = []
    hardware.double_while_it_pays(lambda rows: tried.append(rows) or float(rows), limit=13, seconds=9.0)
    assert tried == [1, 2, 4, 8]


def test_rows_stop_where_a_doubling_gains_too_little() -> None:
    # 16 rows take 1.7 s and 32 take 3.3: 3% more rows a second.
    assert hardware.double_while_it_pays(speeds(per_step=0.1, per_row=0.1), limit=64, seconds=9.0) == 16


def test_rows_stop_where_they_no_longer_fit() -> None:
    machine = speeds(per_step=1.0, per_row=0.01, capacity=11)
    assert hardware.double_while_it_pays(machine, limit=64, seconds=9.0) == 8


def test_no_trial_starts_after_the_time_is_up() -> None:
    assert hardware.double_while_it_pays(speeds(per_step=1.0, per_row=0.01), limit=64, seconds=0.0) == 1


def test_no_size_is_tried_that_the_free_memory_may_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "free_bytes", lambda: 0)
    assert hardware.find_micro_batch(make_config(), make_inner(batch_tokens=256), make_hardware(), seconds=9.0) == 1


def test_checkpointing_leaves_room_for_more_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "free_bytes", lambda: 4_000_000)
    monkeypatch.setattr(hardware, "MIN_GAIN", 0.0)  # Whatever fits pays.
    plain, checkpointed = (
        hardware.find_micro_batch(
            make_config(n_layer=8), make_inner(), make_hardware(), gradient_checkpointing=is_on, seconds=60.0
        )
        for is_on in (False, True)
    )
    assert 1 <= plain < checkpointed


def test_auto_is_bfloat16_where_the_hardware_has_it() -> None:
    machines = [dataclasses.replace(make_hardware(), bf16=has_bf16) for has_bf16 in (True, False)]
    assert [hardware.resolve_precision("auto", machine) for machine in machines] == ["bf16", "fp32"]
    assert hardware.resolve_precision("fp16", machines[0]) == "fp16"


def test_the_speed_is_measured_by_training() -> None:
    config, inner = make_config(), make_inner(batch_tokens=256)
    micro_batch = hardware.find_micro_batch(config, inner, make_hardware(), seconds=0.2)
    assert micro_batch in (1, 2, 4, 8, 16)
    start = time.perf_counter()
    speed = hardware.measure_tokens_per_second(config, inner, make_hardware(), micro_batch=micro_batch, seconds=0.2)
    elapsed = time.perf_counter() - start
    assert speed * elapsed > 256
    assert elapsed >= 0.2
