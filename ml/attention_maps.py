"""Pictures of attention: one small map for each head, or for each layer where there are many."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import matplotlib as mpl
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, PowerNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from ml.bad_input import BadInput
from ml.files import require_free, writing

KOREAN_FONTS = (
    "NanumGothic",
    "NanumBarunGothic",
    "Noto Sans CJK KR",
    "Noto Sans KR",
    "Apple SD Gothic Neo",
    "AppleGothic",
    "Malgun Gothic",
    "Gulim",
    "UnDotum",
)
INSTALL_FONT = (
    "No Korean font was found, so Korean labels are drawn as boxes: install one with `apt install fonts-nanum` "
    "(Debian, Ubuntu), `dnf install google-noto-sans-cjk-fonts` (Fedora) or from https://fonts.google.com/noto."
)
MAX_MAPS = 40
"""Where layers x heads are more, each layer is shown as the mean of its heads."""
MAX_LABELS = 48
"""Tokens that are named along a side; with more tokens, every second, third ... is."""
MAX_LABEL_LETTERS = 13
"""As many as <|endoftext|> has."""
DPI = 110
MIN_INCHES = 4.6
"""Width and height of the smallest picture, so that its title and the words beside the colours fit."""


class MapsInvalid(BadInput):
    """A picture that cannot be drawn."""

    page: ClassVar[str] = "commands"


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """Which maps are drawn; None is all of them."""

    layer: int | None = None
    head: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Map:
    """One square of a picture."""

    title: str
    shares: NDArray[np.float64]
    """Shapes: (T, T)."""


def draw(maps_LHTT: Tensor, labels: Sequence[str], *, out: Path, choice: Choice, force: bool = False) -> list[str]:
    """Write the picture; sentences on what could not be drawn as it should be.

    Each row of a map is a token, and shows how much it takes in of the tokens before it and of itself.

    Raises: MapsInvalid, ml.files.OutputExists, ml.files.FileUnwritable.
    """
    require_free(out, force=force)
    if out.suffix.lower() != ".png" or not out.parent.is_dir():
        raise MapsInvalid(f"{out} cannot be written: name a file ending in .png in a folder that exists.")
    grid = choose(maps_LHTT, choice)
    font = korean_font()
    # The Korean font comes second: some draw the backslash of a byte as a won sign. A label may hold $, and
    # letters that no font here has.
    families = ["DejaVu Sans", *([font] if font else [])]
    with (
        mpl.rc_context({"font.family": families, "text.parse_math": False}),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = _figure(grid, labels)
        with writing(out) as partial:
            figure.savefig(partial, format="png", dpi=DPI)
    return [INSTALL_FONT] if font is None and any(_is_korean(label) for label in labels) else []


def choose(maps_LHTT: Tensor, choice: Choice) -> list[list[Map]]:
    """The chosen maps in rows; the mean of each layer's heads where all would be too many.

    Raises: MapsInvalid.
    """
    num_layers, num_heads = maps_LHTT.shape[:2]
    for name, index, count in (("layer", choice.layer, num_layers), ("head", choice.head, num_heads)):
        if index is not None and not 0 <= index < count:
            raise MapsInvalid(f"--{name} {index} does not exist: the model has {name}s 0 to {count - 1}.")
    layers = range(num_layers) if choice.layer is None else [choice.layer]
    heads = range(num_heads) if choice.head is None else [choice.head]
    if len(layers) * len(heads) <= MAX_MAPS:
        rows = [[_head_map(maps_LHTT, layer, head) for head in heads] for layer in layers]
        return rows if len(layers) > 1 and len(heads) > 1 else _wrapped([one for row in rows for one in row])
    return _wrapped(
        [
            Map(title=f"layer {layer}, mean of {num_heads} heads", shares=maps_LHTT[layer].mean(0).numpy())
            for layer in layers
        ]
    )


def korean_font() -> str | None:
    """The name of an installed font that has Hangul."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    return next((name for name in KOREAN_FONTS if name in installed), None)


def _head_map(maps_LHTT: Tensor, layer: int, head: int) -> Map:
    return Map(title=f"layer {layer}, head {head}", shares=maps_LHTT[layer, head].numpy())


def _wrapped(maps: list[Map]) -> list[list[Map]]:
    width = math.ceil(math.sqrt(len(maps)))
    return [maps[first : first + width] for first in range(0, len(maps), width)]


def _figure(grid: list[list[Map]], labels: Sequence[str]) -> Figure:
    num_rows, num_columns = len(grid), len(grid[0])
    side = _side_inches(len(labels), num_maps=num_columns)
    # One small map leaves no room for the words around it.
    size = max(MIN_INCHES, num_columns * side + 1.2), max(MIN_INCHES, num_rows * side + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    colours = mpl.colormaps["viridis"].with_extremes(bad="#f2f2f2")
    # The root lets small shares be seen beside the first token, which often takes nearly all.
    norm = PowerNorm(0.5, vmin=0.0, vmax=1.0)
    axes = figure.subplots(num_rows, num_columns, squeeze=False)
    for row, row_axes in zip(grid, axes, strict=True):
        for place, one in enumerate(row):
            _draw_map(row_axes[place], one, labels, colours=colours, norm=norm, side=side)
        for empty in row_axes[len(row) :]:
            empty.set_axis_off()
    bar = figure.colorbar(ScalarMappable(norm, colours), ax=axes, shrink=0.6, aspect=30, pad=0.01)
    bar.set_label("share of attention (each row adds up to 1)")
    figure.suptitle("row: the token that reads; column: the token it takes from", fontsize=9)
    return figure


def _draw_map(axes: Axes, one: Map, labels: Sequence[str], *, colours: Colormap, norm: PowerNorm, side: float) -> None:
    is_later_TT = np.triu(np.ones_like(one.shares, dtype=bool), 1)
    axes.imshow(np.ma.masked_array(one.shares, is_later_TT), cmap=colours, norm=norm, interpolation="nearest")
    axes.set_title(one.title, fontsize=8)
    step = math.ceil(len(labels) / min(MAX_LABELS, side / 0.13))
    places = range(0, len(labels), step)
    named = [_shortened(labels[place]) for place in places]
    size = min(9.0, 0.8 * 72 * (side - 0.8) / len(places))
    axes.set_xticks(places, named, rotation=90, fontsize=size)
    axes.set_yticks(places, named, fontsize=size)
    axes.tick_params(length=2, pad=1)
    axes.spines[:].set_visible(False)


def _side_inches(num_tokens: int, *, num_maps: int) -> float:
    """Of one map: enough for its labels, as far as the whole picture stays of a size that can be looked at."""
    return min(max(2.4, 0.17 * num_tokens + 0.8), max(2.4, 22 / num_maps))


def _shortened(label: str) -> str:
    return label if len(label) <= MAX_LABEL_LETTERS else f"{label[: MAX_LABEL_LETTERS - 1]}…"


def _is_korean(text: str) -> bool:
    return any("\uac00" <= letter <= "\ud7a3" or "\u1100" <= letter <= "\u11ff" for letter in text)
