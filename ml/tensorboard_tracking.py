"""A run's figures for TensorBoard, in RUN/tensorboard: `tensorboard --logdir RUN`."""

import json
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from ml.tracking import Metrics

FOLDER = "tensorboard"
_TAGS = {
    "loss": "loss/training",
    "validation_loss": "loss/validation",
    "learning_rate": "learning_rate",
    "tokens_per_second": "tokens_per_second",
}


class TensorBoardTracker:
    """Writes event files, the configuration as a text among them."""

    def __init__(self, folder: Path, *, config: dict[str, Any], step: int) -> None:
        # Points after the step that is resumed from are about to be drawn again.
        self._writer = SummaryWriter(str(folder), purge_step=step + 1)
        if step == 0:
            as_markdown = "\n".join(f"    {line}" for line in json.dumps(config, indent=1).splitlines())
            self._writer.add_text("config", as_markdown, step)

    def write(self, metrics: Metrics) -> None:
        for name, tag in _TAGS.items():
            if name in metrics:
                self._writer.add_scalar(tag, metrics[name], metrics["step"])

    def close(self) -> None:
        self._writer.close()


def open_tracker(run: Path, config: dict[str, Any], step: int) -> TensorBoardTracker:
    return TensorBoardTracker(run / FOLDER, config=config, step=step)
