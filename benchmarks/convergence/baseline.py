"""What every scenario is held against: data-parallel AdamW by the same Trainer, each step on all devices' batches."""

from collections.abc import Callable

from benchmarks.convergence.results import Point
from benchmarks.convergence.scenario import Scenario
from benchmarks.convergence.text import Text
from ml import data, evaluation
from ml.hardware import Hardware, resolve_precision, rows_per_batch
from ml.model import GPT, initial_model
from ml.trainer import Trainer, learning_rate_at

BYTES_PER_GRADIENT = 4
"""Of a parameter; each device sends all gradients, and fetches their mean, in every step."""


def train(scenario: Scenario, *, text: Text, seed: int, hardware: Hardware, on_point: Callable[[Point], None]) -> None:
    """As many tokens as the scenario's rounds have; `on_point` is called at the start and at each of their ends.

    The tokens of each step come from one shard, the shards taking turns.
    Raises: TrainingDiverged.
    """
    model = initial_model(scenario.model, seed=seed).to(hardware.device)
    num_devices = len(scenario.devices)
    num_rows = num_devices * rows_per_batch(scenario.model, scenario.inner)
    trainer = Trainer(
        model,
        inner=scenario.inner,
        precision=resolve_precision("auto", hardware),
        micro_batch=num_rows,
        seed=seed,
    )
    shards = [data.open_shard(shard.path, shard.ref.dtype) for shard in text.shards]
    num_steps = scenario.num_tokens // (num_rows * scenario.model.block_size)

    def record(number: int, *, step: int) -> None:
        is_measured = number % scenario.evaluate_every == 0 or number == scenario.rules.num_rounds
        loss = _evaluate(model, scenario, text) if is_measured else None
        on_point(_point(scenario, number, num_steps=step, loss=loss))

    record(0, step=0)
    num_rounds = scenario.rules.num_rounds
    for number in range(1, num_rounds + 1):
        first, last = (num_steps * mark // num_rounds for mark in (number - 1, number))
        for step in range(first, last):
            batch = data.sample_batch(
                shards[step % len(shards)],
                seed=seed,
                step=step,
                num_rows=num_rows,
                block_size=scenario.model.block_size,
            )
            rate = learning_rate_at(
                step, inner=scenario.inner, num_steps=num_steps, progress_start=0.0, progress_end=1.0
            )
            trainer.step(batch, learning_rate=rate)
        record(number, step=last)


def _evaluate(model: GPT, scenario: Scenario, text: Text) -> float:
    return evaluation.validation_loss(
        model, text.held_out, block_size=scenario.model.block_size, max_tokens=scenario.validation_tokens
    )


def _point(scenario: Scenario, number: int, *, num_steps: int, loss: float | None) -> Point:
    num_devices = len(scenario.devices)
    step_tokens = num_devices * rows_per_batch(scenario.model, scenario.inner) * scenario.model.block_size
    step_bytes = BYTES_PER_GRADIENT * scenario.model.num_parameters
    return Point(
        round_number=number,
        num_deltas=num_devices,
        tokens=num_steps * step_tokens,
        uploaded_bytes=num_steps * step_bytes * num_devices,
        downloaded_bytes=num_steps * step_bytes * num_devices,
        seconds=num_steps * step_seconds(scenario, step_bytes=step_bytes),
        loss=loss,
    )


def step_seconds(scenario: Scenario, *, step_bytes: int) -> float:
    """Simulated seconds of a step, which waits for the slowest device's batch, gradients and weights."""
    batch_tokens = rows_per_batch(scenario.model, scenario.inner) * scenario.model.block_size
    return max(
        batch_tokens / device.tokens_per_second
        + device.upload_seconds(step_bytes)
        + device.download_seconds(step_bytes)
        for device in scenario.devices
    )
