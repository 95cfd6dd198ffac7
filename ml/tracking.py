"""Where a training's figures go: RUN/metrics.jsonl always; TensorBoard, Weights & Biases or a picture on request."""

import importlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Protocol, Self

from ml.bad_input import BadInput
from ml.files import replacing
from ml.run import METRICS_FILE
from ml.train_state import saving

Metrics = dict[str, int | float]
"""One line: a step's (step, tokens, loss, learning_rate, tokens_per_second, seconds) or an evaluation's (step, tokens,
validation_loss, seconds). `step` counts the steps done, `seconds` the time spent training since step 0."""

TRACKERS = {
    "picture": "ml.picture_tracking",
    "tensorboard": "ml.tensorboard_tracking",
    "wandb": "ml.wandb_tracking",
}
"""Modules that need packages of fai[learn], loaded only for who asks: each has `open_tracker(run, config, step)`."""


class MetricsInvalid(BadInput):
    """Figures of a run that somebody changed."""

    page: ClassVar[str] = "checkpoint"


class Tracker(Protocol):
    """Takes each line of figures as it is made."""

    def write(self, metrics: Metrics) -> None: ...

    def close(self) -> None: ...


class MetricsFile:
    """RUN/metrics.jsonl, a line of JSON each."""

    def __init__(self, run: Path, *, step: int) -> None:
        """Goes on after `step`: lines of later steps, which are about to be trained again, are cut off.

        Raises: MetricsInvalid, ml.train_state.SaveFailed.
        """
        self._path = run / METRICS_FILE
        with saving(self._path):
            if self._path.exists():
                _cut_after(self._path, step)
            # Unbuffered, so that a line which does not fit on the disk is not tried again on closing.
            self._file = self._path.open("ab", buffering=0)

    def write(self, metrics: Metrics) -> None:
        """Raises: ml.train_state.SaveFailed where the disk is full."""
        with saving(self._path):
            self._file.write(f"{json.dumps(metrics)}\n".encode())

    def sync(self) -> None:
        """Bring all lines to the disk: a checkpoint must not outlive the lines of its steps."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class Tracking:
    """All trackers of a run as one."""

    def __init__(self, run: Path, *, config: dict[str, Any], step: int, names: Iterable[str]) -> None:
        self._metrics = MetricsFile(run, step=step)
        self._trackers: list[Tracker] = [self._metrics]
        for name in names:
            self._trackers.append(importlib.import_module(TRACKERS[name]).open_tracker(run, config, step))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for tracker in reversed(self._trackers):
            tracker.close()

    def write(self, metrics: Metrics) -> None:
        for tracker in self._trackers:
            tracker.write(metrics)

    def sync(self) -> None:
        self._metrics.sync()


def require(names: Iterable[str]) -> None:
    """Load what the trackers need, before anything starts.

    Raises: ModuleNotFoundError.
    """
    for name in names:
        importlib.import_module(TRACKERS[name])


def read_metrics(run: Path) -> list[Metrics]:
    """Every whole line of RUN/metrics.jsonl; a last one that a killed process left half-written is left out.

    Raises: MetricsInvalid.
    """
    path = run / METRICS_FILE
    lines = path.read_bytes().split(b"\n")[:-1]
    try:
        metrics: list[Metrics] = [json.loads(line) for line in lines]
        if all("step" in line for line in metrics):
            return metrics
    except (ValueError, TypeError):
        pass
    raise MetricsInvalid(f"{path} is damaged: remove it to go on without the figures so far.")


def _cut_after(path: Path, step: int) -> None:
    kept = [metrics for metrics in read_metrics(path.parent) if metrics["step"] <= step]
    with replacing(path) as partial:
        partial.write_text("".join(json.dumps(metrics) + "\n" for metrics in kept), encoding="utf-8", newline="\n")
