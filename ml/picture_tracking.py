"""A run's losses as a picture, RUN/loss.png: drawn anew at each evaluation and at the end."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ml.files import replacing
from ml.run import PICTURE_FILE
from ml.tracking import Metrics, read_metrics
from ml.train_state import saving

MEAN_SHARE = 0.05
"""Of the steps, over which the line is a mean: the loss of one batch jumps with its texts."""
DPI = 100


class PictureTracker:
    """Draws what RUN/metrics.jsonl holds, so that a resumed run is in the picture from its first step on."""

    def __init__(self, run: Path) -> None:
        self._run = run

    def write(self, metrics: Metrics) -> None:
        """Raises: ml.train_state.SaveFailed where the disk is full."""
        if "validation_loss" in metrics:
            self._draw()

    def close(self) -> None:
        """Raises: ml.train_state.SaveFailed where the disk is full."""
        self._draw()

    def _draw(self) -> None:
        lines = read_metrics(self._run)
        if lines:
            with saving(self._run / PICTURE_FILE), replacing(self._run / PICTURE_FILE) as partial:
                draw(lines).savefig(partial, format="png", dpi=DPI)


def open_tracker(run: Path, _config: dict[str, Any], _step: int) -> PictureTracker:
    return PictureTracker(run)


def draw(lines: list[Metrics]) -> Figure:
    """Training and validation loss over the tokens seen."""
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    _draw_training(axes, [line for line in lines if "loss" in line])
    _draw_validation(axes, [line for line in lines if "validation_loss" in line])
    axes.set_xlabel("tokens seen")
    axes.set_ylabel("loss (nats per token)")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def _draw_training(axes: Axes, steps: list[Metrics]) -> None:
    tokens, losses = [line["tokens"] for line in steps], np.array([line["loss"] for line in steps])
    axes.plot(tokens, losses, color="C0", alpha=0.25, linewidth=0.8)
    window = max(1, round(MEAN_SHARE * len(losses)))
    means = np.convolve(losses, np.ones(window) / window, mode="valid")
    middle = (window - 1) // 2
    axes.plot(tokens[middle : middle + len(means)], means, color="C0", label="training")


def _draw_validation(axes: Axes, evaluations: list[Metrics]) -> None:
    if not evaluations:
        return
    tokens, losses = [line["tokens"] for line in evaluations], [line["validation_loss"] for line in evaluations]
    axes.plot(tokens, losses, "o-", color="C1", markersize=4, label="validation")
    best = min(evaluations, key=lambda line: line["validation_loss"])
    axes.annotate(
        f"lowest: {best['validation_loss']:.3f}",
        (best["tokens"], best["validation_loss"]),
        xytext=(0, 14),
        textcoords="offset points",
        ha="right",
        color="C1",
    )
