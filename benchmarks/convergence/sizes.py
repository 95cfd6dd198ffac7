"""Work without training: the sizes of files alone, for scenarios that ask for the clock."""

from collections.abc import Sequence

from benchmarks.convergence.coordinator import Accepted, Job
from benchmarks.convergence.scenario import Scenario
from benchmarks.convergence.work import Handed, Task
from ml.codec import delta_size_bytes
from ml.layout import model_layout, parameter_shapes
from ml.tensor_file import format_header

SHARD_BYTES = 8_000_000
"""Four million tokens of two bytes, as an experiment's shards are by default."""


class SizesOnly:
    """Files that are never written: each job is trained to its end, and every delta is a good one."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        entries = model_layout(parameter_shapes(scenario.model))
        self.base_bytes = len(format_header({}, entries)) + 4 * scenario.model.num_parameters
        self._delta_bytes = delta_size_bytes(scenario.model, scenario.codec)

    def train(self, tasks: Sequence[Task], *, progress: tuple[float, float]) -> list[Handed]:
        batch_tokens = self._scenario.inner.batch_tokens
        return [Handed(tokens=task.last_step * batch_tokens, size_bytes=self._delta_bytes) for task in tasks]

    def check(self, job: Job) -> str:
        return ""

    def settle(self, job: Job, *, counts: bool) -> None:
        """Nothing waits for a verdict."""

    def merge(self, deltas: Sequence[tuple[Accepted, float]], *, round_number: int, progress: float) -> int | None:
        codec = self._scenario.outer.step_codec
        return None if codec == "none" else delta_size_bytes(self._scenario.model, codec)

    def evaluate(self) -> float:
        return 0.0

    def shard_bytes(self, shard: int) -> int:
        return SHARD_BYTES
