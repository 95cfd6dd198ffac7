"""A training in plain data: what is to be done, what is going on, how it ended."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml.config import TrainConfig
from ml.hardware import Hardware, rows_per_batch


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A training that was checked and whose folder was made; every process has a copy."""

    run: Path
    config: TrainConfig
    train_path: Path
    val_path: Path
    dtype: str
    """Of both files."""
    devices: int
    """Processes that share every batch."""
    trackers: tuple[str, ...]
    is_resumed: bool
    micro_batch: int | None
    """Rows per forward pass of a fresh training; None where they are not found yet, or stand in the checkpoint."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What is about to be trained."""

    run: Path
    config: TrainConfig
    train_tokens: int
    first_step: int
    """0, or the step of the checkpoint that is resumed from."""
    num_steps: int
    num_rows: int
    """Of each step, on all devices together."""
    hardware: Hardware
    devices: int
    precision: str
    micro_batch: int
    """Rows of one forward pass, on each device."""

    @property
    def step_tokens(self) -> int:
        return self.num_rows * self.config.model.block_size


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """Where a training stands after a step."""

    step: int
    """Done so far."""
    num_steps: int
    tokens: int
    """Trained so far."""
    loss: float
    """Of the step's batch before the step, in nats per token."""
    learning_rate: float
    tokens_per_second: float
    """Of this step."""
    eta_seconds: float
    """At the speed since this process began, evaluations and checkpoints included."""
    validation_loss: float | None
    """None where this step was not evaluated."""
    best_loss: float | None


@dataclass(frozen=True, slots=True)
class Searching:
    """The rows per forward pass that train fastest are looked for, which takes some seconds."""


@dataclass(frozen=True, slots=True)
class Stopping:
    """The wish to stop was heard; the present step ends first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a training ended; its models are in `run`."""

    run: Path
    reason: str
    """finished, patience (the validation loss fell no more) or interrupted."""
    step: int
    num_steps: int
    best_loss: float | None
    best_step: int
    seconds: float
    """Spent training, from the first step on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Observer:
    """Who watches the first process, and may wish it to stop after a step."""

    on_plan: Callable[[Plan], Any]
    on_step: Callable[[Progress], Any]
    wants_stop: Callable[[], bool]


def count_steps(config: TrainConfig, *, train_tokens: int) -> int:
    """Optimizer steps in all: max_steps, or as many as see the tokens `epochs` times."""
    if config.max_steps is not None:
        return config.max_steps
    step_tokens = rows_per_batch(config.model, config.optimizer) * config.model.block_size
    return max(1, math.ceil(config.epochs * train_tokens / step_tokens))
