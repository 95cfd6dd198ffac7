"""What a simulation leaves to others: the training, the files and the merge, real ones or their sizes alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from benchmarks.convergence.coordinator import Accepted, Job


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A job as its device will do it."""

    job: Job
    last_step: int
    """The device stops after so many steps, at the latest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Handed:
    """What a device hands in after a job."""

    tokens: int
    """0 where training diverged and there is no delta."""
    size_bytes: int


class Work(Protocol):
    """The devices' and the coordinator's work on tensors and files."""

    base_bytes: int
    """Of a whole checkpoint."""

    def train(self, tasks: Sequence[Task], *, progress: tuple[float, float]) -> list[Handed]:
        """Train on the newest checkpoint; all tasks begin at one moment, each on a device of its own."""

    def check(self, job: Job) -> str:
        """Why the coordinator refuses the job's delta; empty where it accepts it."""

    def settle(self, job: Job, *, counts: bool) -> None:
        """Tell the device whether the delta that it sent counts."""

    def merge(self, deltas: Sequence[tuple[Accepted, float]], *, round_number: int, progress: float) -> int | None:
        """Make the next checkpoint; bytes of the step that leads to it, None where there is no step file."""

    def evaluate(self) -> float:
        """Validation loss of the newest checkpoint, in nats per token."""

    def shard_bytes(self, shard: int) -> int: ...
