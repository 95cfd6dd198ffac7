import math
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ml import data, local
from ml.bad_input import CorpusInvalid
from ml.checkpoint import load_model, save_model
from ml.local import LocalResult, Progress
from ml.trainer import Trainer
from tests.ml.make import TEXT, make_base, make_config, make_hardware, make_inner, make_shard, make_tokenizer


def keep_on(_: Progress) -> bool:
    return True


def run(folder: Path, **changes: Any) -> LocalResult:
    """One job of make_config's model: 8 rows of 16 tokens a step."""
    shard_path, shard = make_shard(folder, changes.pop("tokens", None))
    job: dict[str, Any] = {
        "model_config": make_config(),
        "inner": make_inner(),
        "base_path": folder / "base.safetensors",
        "shard_path": shard_path,
        "shard": shard,
        "token_budget": 1_280,
        "seed": 1,
        "progress_start": 0.0,
        "progress_end": 1.0,
        "hardware": make_hardware(),
        "micro_batch": 8,
        "on_step": keep_on,
    } | changes
    if not job["base_path"].exists():
        make_base(folder, job["model_config"])
    return local.run_job(**job)


def test_a_job_reports_every_step_and_what_it_made(tmp_path: Path) -> None:
    seen: list[Progress] = []
    result = run(tmp_path, on_step=lambda progress: seen.append(progress) is None)
    assert [progress.num_steps for progress in seen] == list(range(1, 11))
    assert [progress.tokens for progress in seen] == [128 * step for step in range(1, 11)]
    report = result.report
    assert (report.tokens, report.num_steps, report.partial) == (1_280, 10, False)
    assert (report.first_loss, report.last_loss) == (seen[0].loss, seen[-1].loss)
    assert report.tokens_per_second == pytest.approx(report.tokens / report.seconds)
    assert result.micro_batch == 8


def test_base_minus_delta_is_the_trained_model(tmp_path: Path) -> None:
    result = run(tmp_path, progress_start=0.5, token_budget=128)
    base = load_model(tmp_path / "base.safetensors")
    trained = load_model(tmp_path / "base.safetensors")
    with torch.no_grad():
        for name, tensor in trained.state_dict().items():
            assert result.delta[name].dtype == torch.float32
            tensor -= result.delta[name]
    shard = data.open_shard(tmp_path / "shard.bin", "uint16")
    rows = torch.from_numpy(data.sample_batch(shard, seed=1, step=0, num_rows=8, block_size=16))
    before, after = (model.loss(rows[:, :-1], rows[:, 1:]).item() for model in (base, trained))
    assert before == pytest.approx(result.report.first_loss, rel=1e-5)
    assert after < before


def test_the_same_job_gives_the_same_delta(tmp_path: Path) -> None:
    first, second = run(tmp_path), run(tmp_path)
    assert all(torch.equal(first.delta[name], second.delta[name]) for name in first.delta)


def test_moments_go_on_where_the_job_before_ended(tmp_path: Path) -> None:
    """Two jobs, the second from the first one's weights and moments, are one job twice as long."""
    inner = make_inner(warmup_steps=0, min_learning_rate_ratio=1.0)
    shard_path, shard = make_shard(tmp_path)
    first = run(tmp_path, inner=inner, token_budget=640)
    model = load_model(tmp_path / "base.safetensors")
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            tensor -= first.delta[name]
    save_model(model, tmp_path / "second.safetensors")
    steps = {key: value.item() for key, value in first.moments.items() if key.endswith("/step")}
    assert set(steps.values()) == {5.0}
    kept = run(
        tmp_path, inner=inner, token_budget=640, base_path=tmp_path / "second.safetensors", moments=first.moments
    )
    fresh = run(tmp_path, inner=inner, token_budget=640, base_path=tmp_path / "second.safetensors")
    trainer = Trainer(load_model(tmp_path / "base.safetensors"), inner=inner, precision="fp32", micro_batch=8, seed=1)
    tokens = data.open_shard(shard_path, shard.dtype)
    for step in (*range(5), *range(5)):
        batch = data.sample_batch(tokens, seed=1, step=step, num_rows=8, block_size=16)
        loss = trainer.step(batch, learning_rate=inner.learning_rate)
    assert kept.report.last_loss == pytest.approx(loss, rel=1e-5)
    assert fresh.report.last_loss != pytest.approx(loss, rel=1e-4)


def test_a_device_with_moments_does_not_warm_up(tmp_path: Path) -> None:
    inner = make_inner(warmup_steps=1_000)
    first = run(tmp_path, inner=inner, token_budget=128)
    kept = run(tmp_path, inner=inner, token_budget=128, moments=first.moments)
    length, kept_length = (
        math.sqrt(sum(float(values.square().sum()) for values in result.delta.values())) for result in (first, kept)
    )
    assert kept_length > 100 * length


def test_dropout_follows_from_the_seed(tmp_path: Path) -> None:
    config = make_config(dropout=0.2)
    first, second = (run(tmp_path, model_config=config) for _ in range(2))
    assert first.report.last_loss == second.report.last_loss


def test_the_micro_batch_does_not_change_what_is_learned(tmp_path: Path) -> None:
    losses = [run(tmp_path, micro_batch=size).report.last_loss for size in (1, 3, 8, 1_000)]
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-3)
    assert run(tmp_path, seed=2).report.last_loss != pytest.approx(losses[0], rel=1e-3)


@pytest.mark.parametrize(
    ("token_budget", "tokens", "num_steps"),
    [(16, 16, 1), (127, 112, 1), (128, 128, 1), (255, 128, 1), (1_400, 1_280, 10)],
)
def test_a_job_trains_no_more_than_its_budget(tmp_path: Path, token_budget: int, tokens: int, num_steps: int) -> None:
    report = run(tmp_path, token_budget=token_budget).report
    assert (report.tokens, report.num_steps, report.partial) == (tokens, num_steps, False)


def test_a_batch_below_one_row_is_one_row(tmp_path: Path) -> None:
    report = run(tmp_path, inner=make_inner(batch_tokens=10), token_budget=40).report
    assert (report.tokens, report.num_steps) == (32, 2)


def test_a_budget_below_one_row_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="15 tokens is below one row of 16"):
        run(tmp_path, token_budget=15)


def test_stopping_early_hands_in_what_is_done(tmp_path: Path) -> None:
    stopped = run(tmp_path, on_step=lambda progress: progress.num_steps < 3)
    assert (stopped.report.tokens, stopped.report.num_steps, stopped.report.partial) == (384, 3, True)
    assert any(bool(tensor.abs().max() > 0) for tensor in stopped.delta.values())


def test_stopping_after_the_last_step_is_not_stopping(tmp_path: Path) -> None:
    assert not run(tmp_path, on_step=lambda progress: progress.num_steps < 10).report.partial


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_a_job_that_fails_leaves_no_freed_memory_with_the_process(tmp_path: Path) -> None:
    def fail(_: Progress) -> bool:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        run(tmp_path, on_step=fail)
    before = resident_bytes()
    # More than any earlier test may have freed inside the heap.
    large = torch.ones(100_000_000)
    del large
    assert resident_bytes() - before < 40_000_000


def test_a_base_of_another_model_is_refused(tmp_path: Path) -> None:
    make_base(tmp_path, make_config(n_layer=1))
    with pytest.raises(ValueError, match="another model"):
        run(tmp_path)


def test_a_shard_below_the_block_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusInvalid, match="too small for the block size"):
        run(tmp_path, tokens=np.zeros(16, dtype=np.uint16))


def _unigram_entropy(tokens: NDArray[np.uint16]) -> float:
    shares = np.bincount(tokens) / len(tokens)
    return float(-(shares[shares > 0] * np.log(shares[shares > 0])).sum())


def test_a_model_learns_a_text_far_below_its_unigram_entropy(tmp_path: Path) -> None:
    tokens = data.encode_documents([TEXT] * 5, tokenizer=make_tokenizer())
    inner = make_inner(batch_tokens=256, warmup_steps=5)
    config = make_config(n_embd=64, block_size=32)
    report = run(tmp_path, tokens=tokens, model_config=config, inner=inner, token_budget=256 * 120).report
    assert report.first_loss == pytest.approx(math.log(300), abs=0.2)
    assert report.last_loss < 0.3 * _unigram_entropy(tokens)
