"""Geometry of server-rendered SVG: templates write what is computed here, so that no page needs a script."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

MAX_POINTS = 400
LEAST_SPAN = 0.01
"""A flat curve is drawn as flat, not as its noise."""
MAX_MARKED_POINTS = 60
"""More points than this are drawn as a line alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    number: int
    loss: float
    x: float
    y: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Tick:
    label: str
    at: float


@dataclass(frozen=True, kw_only=True, slots=True)
class LossChart:
    """A loss curve over rounds. Units: those of the SVG's view box."""

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int
    points: tuple[Point, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    untrained: Point | None
    """Number 0, where the experiment has it: what the untrained model scores."""

    @property
    def line(self) -> str:
        return " ".join(f"{point.x},{point.y}" for point in self.points)

    @property
    def marks(self) -> tuple[Point, ...]:
        """Points that get a dot of their own; always the newest."""
        return self.points if len(self.points) <= MAX_MARKED_POINTS else self.points[-1:]

    @property
    def newest(self) -> Point:
        return self.points[-1]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sparkline:
    width: int
    height: int
    line: str
    end_x: float
    end_y: float


def loss_chart(losses: Sequence[tuple[int, float]], *, width: int = 640, height: int = 300) -> LossChart | None:
    """The curve through (round, loss) pairs, given in order; None where there is no finite loss."""
    finite = _thin([(number, loss) for number, loss in losses if math.isfinite(loss)])
    if not finite:
        return None
    left, right, top, bottom = 58, width - 16, 34, height - 44
    low, high = min(loss for _, loss in finite), max(loss for _, loss in finite)
    room = max(high - low, LEAST_SPAN) * 0.14
    low, high = low - 1.6 * room, high + room  # below the newest point stands its label
    first, last = finite[0][0], max(finite[-1][0], finite[0][0] + 1)

    def x_of(number: float) -> float:
        return round(left + (number - first) / (last - first) * (right - left), 1)

    def y_of(loss: float) -> float:
        return round(bottom - (loss - low) / (high - low) * (bottom - top), 1)

    points = tuple(Point(number=number, loss=loss, x=x_of(number), y=y_of(loss)) for number, loss in finite)
    return LossChart(
        width=width,
        height=height,
        left=left,
        right=right,
        top=top,
        bottom=bottom,
        points=points,
        x_ticks=tuple(Tick(label=label, at=x_of(value)) for value, label in ticks(first, last, 7, least_step=1)),
        y_ticks=tuple(Tick(label=label, at=y_of(value)) for value, label in ticks(low, high, 5)),
        untrained=points[0] if points[0].number == 0 else None,
    )


def sparkline(values: Sequence[float], *, width: int = 140, height: int = 36) -> Sparkline | None:
    """A line without axes; None for fewer than two finite values."""
    finite = [loss for _, loss in _thin([(0, value) for value in values if math.isfinite(value)])]
    if len(finite) < 2:
        return None
    low, high = min(finite), max(finite)
    margin = 4
    step = (width - 2 * margin) / (len(finite) - 1)
    scale = (height - 2 * margin) / max(high - low, LEAST_SPAN)
    at = [
        (round(margin + index * step, 1), round(height - margin - (value - low) * scale, 1))
        for index, value in enumerate(finite)
    ]
    return Sparkline(
        width=width, height=height, line=" ".join(f"{x},{y}" for x, y in at), end_x=at[-1][0], end_y=at[-1][1]
    )


def ticks(low: float, high: float, at_most: int, *, least_step: float = 0.0) -> list[tuple[float, str]]:
    """Round numbers within [low, high], evenly apart by 1, 2 or 5 times a power of ten, and how they are written."""
    rough = (high - low) / at_most
    power = 10.0 ** math.floor(math.log10(rough))
    step = max(next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough), least_step)
    start = math.ceil(low / step - 1e-9)
    stop = math.floor(high / step + 1e-9)
    decimals = max(0, -math.floor(math.log10(step)))
    return [(index * step, f"{index * step:.{decimals}f}") for index in range(start, stop + 1)]


def _thin(pairs: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """At most MAX_POINTS of the pairs, evenly picked, first and last among them."""
    if len(pairs) <= MAX_POINTS:
        return pairs
    stride = (len(pairs) - 1) / (MAX_POINTS - 1)
    return [pairs[round(index * stride)] for index in range(MAX_POINTS)]
