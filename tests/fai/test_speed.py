from pathlib import Path

import pytest
import torch

from fai.speed import Speed, Speeds, memory_errors
from fai.stop import Stop
from ml import hardware
from tests.fai.make import INNER, MODEL


def make_speeds(folder: Path) -> Speeds:
    return Speeds(folder / "speeds.json", machine=hardware.detect())


def test_a_measured_speed_is_kept_for_the_next_run(tmp_path: Path) -> None:
    speed = make_speeds(tmp_path).measure(MODEL, INNER)
    assert speed.tokens_per_second > 0
    assert 1 <= speed.micro_batch <= INNER.batch_tokens // MODEL.block_size
    assert make_speeds(tmp_path).find(MODEL, INNER) == speed


def test_another_model_or_another_number_of_threads_has_to_be_measured(tmp_path: Path) -> None:
    speeds = make_speeds(tmp_path)
    num_threads = torch.get_num_threads()
    speeds.observe(MODEL, INNER, Speed(micro_batch=1, tokens_per_second=5.0))
    assert speeds.find(MODEL.replace(n_layer=2), INNER) is None
    try:
        torch.set_num_threads(num_threads + 1)
        assert speeds.find(MODEL, INNER) is None
    finally:
        torch.set_num_threads(num_threads)
    assert speeds.find(MODEL, INNER) is not None


def test_a_finished_job_counts_half_and_never_raises_the_micro_batch(tmp_path: Path) -> None:
    speeds = make_speeds(tmp_path)
    speeds.observe(MODEL, INNER, Speed(micro_batch=4, tokens_per_second=100.0))
    speeds.observe(MODEL, INNER, Speed(micro_batch=2, tokens_per_second=200.0))
    speeds.observe(MODEL, INNER, Speed(micro_batch=4, tokens_per_second=150.0))
    assert speeds.find(MODEL, INNER) == Speed(micro_batch=2, tokens_per_second=150.0)


def test_a_broken_file_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "speeds.json").write_text("{")
    speeds = make_speeds(tmp_path)
    assert speeds.find(MODEL, INNER) is None
    speeds.observe(MODEL, INNER, Speed(micro_batch=1, tokens_per_second=5.0))
    assert speeds.find(MODEL, INNER) is not None


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("x"), RuntimeError("MPS out of memory")])
def test_too_little_memory_is_one_sentence(error: Exception) -> None:
    with pytest.raises(Stop, match="does not fit"), memory_errors():
        raise error


def test_another_error_of_torch_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError, match="shape"), memory_errors():
        raise RuntimeError("shape mismatch")
