"""What came of a run, as JSON that tells whether the same run is still to be made."""

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from benchmarks.convergence.scenario import Scenario
from ml.files import replacing


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """Where a run stood after a round; counts are of all devices together, from the start."""

    round_number: int
    num_deltas: int
    """Merged in this round."""
    tokens: int
    """Trained on, in lost and refused deltas too."""
    uploaded_bytes: int
    downloaded_bytes: int
    seconds: float
    """Simulated."""
    loss: float | None
    """Validation loss in nats per token; None where it was not measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """What one scenario came to with one seed."""

    name: str
    seed: int
    learning_rate: float
    num_devices: int
    points: list[Point]
    utilisations: list[float]
    """Of each device: share of the simulated time that it trained."""
    outcomes: dict[str, int]
    """How many deltas ended how."""
    seconds: float
    """That the run itself took."""

    @property
    def curve(self) -> list[Point]:
        """The points at which the loss was measured."""
        return [point for point in self.points if point.loss is not None]

    def device_bytes(self, point: Point) -> float:
        """Uploaded by a device up to then, on the average."""
        return point.uploaded_bytes / self.num_devices

    @property
    def loss(self) -> float:
        """The last one; infinite where training diverged."""
        last = self.curve[-1].loss
        return last if last is not None and math.isfinite(last) else math.inf

    @classmethod
    def read(cls, path: Path) -> Self:
        values: dict[str, Any] = json.loads(path.read_text("utf-8"))["run"]
        return cls(**values | {"points": [Point(**point) for point in values["points"]]})


def path_of(scenario: Scenario, *, seed: int, text_sha256: str, device: str, folder: Path) -> Path:
    """Where the run is recorded; another place for any change to what it is made of, but for the code."""
    said = {name: value for name, value in scenario.to_dict().items() if name not in ("title", "num_seeds")}
    means = {"scenario": said, "seed": seed, "text": text_sha256, "device": device}
    key = hashlib.sha256(json.dumps(means, sort_keys=True).encode()).hexdigest()[:10]
    return folder / f"{scenario.name}-{scenario.inner.learning_rate:g}-{seed}-{key}.json"


def write(run: Run, scenario: Scenario, path: Path) -> None:
    record = {"scenario": scenario.to_dict(), "run": dataclasses.asdict(run)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_text(json.dumps(record, separators=(",", ":")) + "\n", "utf-8")
