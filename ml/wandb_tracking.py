"""A run's figures for Weights & Biases, in RUN/wandb; WANDB_MODE=offline keeps them there for `wandb sync`."""

import secrets
from pathlib import Path
from typing import Any, ClassVar

import wandb

from ml.bad_input import BadInput
from ml.tracking import Metrics

PROJECT = "fai"
ID_FILE = "wandb-id.txt"
"""Under RUN: the name by which a resumed training is the same run over there."""


class WandbUnavailable(BadInput):
    """Weights & Biases does not take the run."""

    page: ClassVar[str] = "training"


class WandbTracker:
    """Hands each line to wandb's own process."""

    def __init__(self, run: Path, *, config: dict[str, Any]) -> None:
        """Raises: WandbUnavailable."""
        path = run / ID_FILE
        if not path.exists():
            path.write_text(secrets.token_hex(4), encoding="utf-8")
        try:
            self._run = wandb.init(
                project=PROJECT,
                name=run.resolve().name,
                id=path.read_text(encoding="utf-8"),
                resume="allow",
                dir=run,
                config=config,
                settings=wandb.Settings(silent=True, console="off"),
            )
        except (wandb.errors.UsageError, wandb.errors.CommError) as error:
            raise WandbUnavailable(
                f"Weights & Biases does not take the run ({error}): log in with `wandb login`, or set "
                "WANDB_MODE=offline."
            ) from error

    def write(self, metrics: Metrics) -> None:
        # An evaluation follows its step under the same number; wandb joins both to one point.
        self._run.log({name: value for name, value in metrics.items() if name != "step"}, step=int(metrics["step"]))

    def close(self) -> None:
        self._run.finish()


def open_tracker(run: Path, config: dict[str, Any], step: int) -> WandbTracker:
    """Raises: WandbUnavailable."""
    return WandbTracker(run, config=config)
