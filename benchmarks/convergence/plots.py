"""Plots of loss against what it costs: tokens, uploaded bytes, simulated time."""

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.ticker import NullFormatter

from benchmarks.convergence.goals import Runs
from benchmarks.convergence.results import Point, Run
from ml.files import replacing

FIRST_SHARE = 0.2
"""Of the tokens, before which losses fall too steeply to be told apart on one scale with the end."""
HEADROOM = 1.2
"""Highest loss that is shown, over the lowest curve's first: what diverges leaves at the top."""
STYLES = tuple(itertools.product(("-", "--", ":"), (f"C{number}" for number in range(10))))
"""Curves of one plot: a colour each, then the same colours dashed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What a panel shows losses against."""

    label: str
    of: Callable[[Run, Point], float]
    scale: str


TOKENS = Cost(label="million tokens", of=lambda run, point: point.tokens / 1e6, scale="linear")
BYTES = Cost(label="MB uploaded by each device", of=lambda run, point: run.device_bytes(point) / 1e6, scale="log")
SECONDS = Cost(label="simulated seconds", of=lambda run, point: point.seconds, scale="log")


def draw(runs: Runs, *, titles: Mapping[str, str], names: Sequence[str], costs: Sequence[Cost], path: Path) -> None:
    """A panel for each cost, in it the mean validation loss over the seeds of each scenario."""
    mpl.use("Agg")
    figure, grid = plt.subplots(
        1, len(costs), figsize=(max(7.0, 4.4 * len(costs)), 5.6), sharey=True, squeeze=False, layout="constrained"
    )
    panels = list(grid[0])
    for axes, cost in zip(panels, costs, strict=True):
        for (style, colour), name in zip(itertools.cycle(STYLES), names, strict=False):
            points, losses = mean_curve(runs[name])
            places = [cost.of(runs[name][0], point) for point in points]
            axes.plot(places, losses, style, color=colour, label=titles[name], linewidth=1.4)
        axes.set_xlabel(cost.label)
        axes.set_xscale(cost.scale)
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.3)
    curves = [mean_curve(runs[name])[1] for name in names]
    panels[0].set_ylim(min(map(min, curves)) * 0.99, min(losses[0] for losses in curves) * HEADROOM)
    panels[0].set_ylabel("validation loss, nats per token")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(3, len(costs) + 1), fontsize=9)
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=130)
    plt.close(figure)


def mean_curve(seeds: Sequence[Run]) -> tuple[list[Point], list[float]]:
    """The first seed's points from FIRST_SHARE on, its last at least, and the mean loss of all seeds at each."""
    curves = [run.curve for run in seeds]
    least = FIRST_SHARE * curves[0][-1].tokens
    # A run that diverged has fewer points.
    kept = [at for at in zip(*curves, strict=False) if at[0].tokens >= least]
    return [at[0] for at in kept], [statistics.mean(point.loss or 0.0 for point in at) for at in kept]
