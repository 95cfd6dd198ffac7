"""One job of local training: from a base checkpoint and a token budget to a delta and a report."""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from ml import allocator
from ml.checkpoint import load_model
from ml.config import InnerConfig, ModelConfig
from ml.data import open_shard, sample_batch
from ml.hardware import Hardware, resolve_precision, rows_per_batch
from ml.model import GPT
from ml.protocol import Report, ShardRef
from ml.trainer import Trainer, learning_rate_at


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """Where a job stands after a step."""

    tokens: int
    """Trained so far."""
    num_steps: int
    """Done so far."""
    loss: float
    """Of the last step, in nats per token."""
    tokens_per_second: float
    """Over the whole job so far."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalResult:
    """What a job made."""

    delta: dict[str, Tensor]
    """Base - local in float32 on the CPU: the direction that the outer optimizer descends."""
    report: Report
    moments: dict[str, Tensor]
    """The inner optimizer's, for the device's next job of the experiment."""
    micro_batch: int
    """Rows that fitted; fewer than asked for where memory ran out."""


def run_job(  # noqa: PLR0913 - the parts of a job, which stand apart in its spec too
    *,
    model_config: ModelConfig,
    inner: InnerConfig,
    base_path: Path,
    shard_path: Path,
    shard: ShardRef,
    token_budget: int,
    seed: int,
    progress_start: float,
    progress_end: float,
    hardware: Hardware,
    micro_batch: int,
    on_step: Callable[[Progress], bool],
    moments: dict[str, Tensor] | None = None,
) -> LocalResult:
    """Train as many whole batches as the budget pays for, at least one, and never more tokens than it.

    With `moments` of the device's job before, there is no warm-up. The batches depend on seed and step alone. `on_step`
    is called after every step; when it returns False, the job ends there, and what is done is the result.

    Raises: ValueError where the budget does not pay for one row or the base is another model; TrainingDiverged;
    ml.bad_input.CorpusInvalid; ml.checkpoint.CheckpointInvalid; ml.data.ShardInvalid.
    """
    tokens = open_shard(shard_path, shard.dtype)
    num_rows, num_steps = plan_steps(model_config, inner, token_budget=token_budget)
    model = _load_base(base_path, model_config).to(hardware.device)
    precision = resolve_precision("auto", hardware)
    try:
        trainer = Trainer(model, inner=inner, precision=precision, micro_batch=min(micro_batch, num_rows), seed=seed)
        if moments:
            trainer.load_moments(moments)
            inner = dataclasses.replace(inner, warmup_steps=0)
        losses: list[float] = []
        start = time.perf_counter()
        for step in range(num_steps):
            batch = sample_batch(tokens, seed=seed, step=step, num_rows=num_rows, block_size=model_config.block_size)
            rate = learning_rate_at(
                step, inner=inner, num_steps=num_steps, progress_start=progress_start, progress_end=progress_end
            )
            losses.append(trainer.step(batch, learning_rate=rate))
            seconds = time.perf_counter() - start
            num_tokens = len(losses) * num_rows * model_config.block_size
            progress = Progress(
                tokens=num_tokens, num_steps=len(losses), loss=losses[-1], tokens_per_second=num_tokens / seconds
            )
            if not on_step(progress):
                break
        report = Report(
            tokens=progress.tokens,
            num_steps=progress.num_steps,
            seconds=seconds,
            first_loss=losses[0],
            last_loss=losses[-1],
            tokens_per_second=progress.tokens_per_second,
            partial=progress.num_steps < num_steps,
        )
        num_fitting_rows = trainer.micro_batch
        kept = {name: tensor.cpu() for name, tensor in trainer.moments().items()}
        del trainer
    finally:
        allocator.return_freed_memory()
    return LocalResult(
        delta=_subtract_from_base(model, base_path), report=report, moments=kept, micro_batch=num_fitting_rows
    )


def plan_steps(config: ModelConfig, inner: InnerConfig, *, token_budget: int) -> tuple[int, int]:
    """Rows per step and number of steps, which together stay within the budget.

    A budget below one batch gives one step with fewer rows.
    Raises: ValueError where not even one row is paid for.
    """
    num_rows = min(rows_per_batch(config, inner), token_budget // config.block_size)
    if num_rows < 1:
        raise ValueError(f"a budget of {token_budget} tokens is below one row of {config.block_size}")
    return num_rows, token_budget // (num_rows * config.block_size)


def _load_base(path: Path, config: ModelConfig) -> GPT:
    model = load_model(path)
    if model.config != config:
        raise ValueError(f"{path.name} holds another model than the job's")
    return model


def _subtract_from_base(model: GPT, base_path: Path) -> dict[str, Tensor]:
    # The base is read again, tensor by tensor, rather than held in memory while the job trains.
    with safe_open(base_path, framework="pt") as base:
        return {name: base.get_tensor(name) - tensor.cpu() for name, tensor in model.state_dict().items()}
