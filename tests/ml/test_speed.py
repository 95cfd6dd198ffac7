import json

import pytest
import torch

from ml.packed import can_pack
from ml.speed import BATCH_ROWS, SpeedInvalid, measure_speed
from tests.ml.make import make_model

MODEL = make_model()


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ml.speed.BANDWIDTH_BYTES", 2**20)


@pytest.mark.usefixtures("small_memory")
def test_the_figures_fit_together() -> None:
    speed = measure_speed(MODEL, prompt_tokens=10, new_tokens=4, seconds=0.0)
    assert [variant.weights for variant in speed.variants] == ["fp32", *(["fp16 packed"] if can_pack(MODEL) else [])]
    assert speed.peak_memory_bytes is None or speed.peak_memory_bytes > 50e6
    for variant in speed.variants:
        bytes_per_second = variant.weight_bytes * variant.decode_tokens_per_second
        assert variant.bandwidth_share == pytest.approx(bytes_per_second / speed.bandwidth_bytes_per_second)
        batch_steps = variant.batch_tokens_per_second / BATCH_ROWS
        assert variant.batch_bandwidth_share == pytest.approx(
            variant.weight_bytes * batch_steps / speed.bandwidth_bytes_per_second
        )
        assert 10 / variant.prefill_tokens_per_second < variant.first_token_seconds


@pytest.mark.usefixtures("small_memory")
def test_a_step_reads_every_weight_once_and_packed_ones_are_half_as_large() -> None:
    speed = measure_speed(MODEL, prompt_tokens=1, new_tokens=2, seconds=0.0)
    sizes = [variant.weight_bytes for variant in speed.variants]
    assert sizes[0] == 4 * MODEL.config.num_parameters
    assert sizes[1:] in ([], [sizes[0] // 2])


@pytest.mark.usefixtures("small_memory")
def test_by_default_the_context_is_filled_and_the_figures_are_plain_data() -> None:
    threads = torch.get_num_threads()
    speed = measure_speed(MODEL, seconds=0.0)
    assert (speed.prompt_tokens, speed.new_tokens, speed.threads) == (8, 8, threads)
    assert json.loads(json.dumps(speed.to_dict()))["variants"][0]["weights"] == "fp32"


@pytest.mark.parametrize(("prompt_tokens", "new_tokens"), [(0, 4), (4, 1), (10, 7)])
def test_tokens_that_do_not_fit_are_refused(prompt_tokens: int, new_tokens: int) -> None:
    with pytest.raises(SpeedInvalid, match="at most 16 together"):
        measure_speed(MODEL, prompt_tokens=prompt_tokens, new_tokens=new_tokens)
