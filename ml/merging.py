"""One outer step over a round's deltas, streamed: memory depends neither on their number nor on the model's size.

Deltas are summed in the order of their SHA-256, in float32, one numpy operation at a time. So the same deltas give the
same bytes for any arrival order, and on any machine.
"""

import contextlib
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from ml.codec import DeltaReader, chunks, open_delta
from ml.config import OuterConfig
from ml.files import replacing
from ml.layout import delta_layouts, model_layout
from ml.outer import outer_step
from ml.tensor_file import Entry, Header, InputFile, TensorFileInvalid, TensorFileWriter, read_header, read_values

CLIP_MIN_DELTAS = 3
"""Of fewer deltas the median says nothing about which one is off."""

Floats = npt.NDArray[np.float32]


class MergeInvalid(ValueError):
    """Inputs that cannot be merged; the message names the one at fault."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightedDelta:
    """A checked delta and what it counts for."""

    path: Path
    attempt_id: int
    sha256: str
    tokens: int
    """Verified tokens that it was trained on."""
    weight: float
    """Its tokens, less for staleness; only the ratios to the other deltas matter."""
    norm: float
    """L2 norm, as ml.delta_file.check measured it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip:
    """How far a round's deltas may go: their median norm, for the median number of tokens."""

    norm: float
    tokens: float

    def limit(self, tokens: int) -> float:
        """Longest norm of a delta of `tokens` tokens.

        Jobs are sized by their devices' speed, so one limit for all would cut down the fast. A job of r times the
        tokens goes r times as far where its steps agree, sqrt(r) times where they are a random walk; the more generous
        one counts.
        """
        ratio = tokens / self.tokens
        return self.norm * max(ratio, math.sqrt(ratio))


@dataclass(frozen=True, kw_only=True, slots=True)
class MergeResult:
    """What a merge wrote, and the clip under which it shortened deltas that went too far."""

    sha256: str
    state_sha256: str
    clip: Clip | None


def merge(
    *,
    base_path: Path,
    deltas: Sequence[WeightedDelta],
    outer: OuterConfig,
    outer_state_path: Path | None,
    result_path: Path,
    result_state_path: Path,
) -> MergeResult:
    """Write the weights after the outer step to `result_path` and the optimizer's state to `result_state_path`.

    Without `outer_state_path` the momentum begins at zero. The result keeps the metadata of the base.
    Raises: MergeInvalid or TensorFileInvalid; then neither file is written.
    """
    _check_numbers(deltas)
    ordered = sorted(deltas, key=lambda delta: (delta.sha256, delta.weight, delta.attempt_id))
    clip = find_clip(ordered)
    weights = final_weights(ordered, clip=clip)
    with contextlib.ExitStack() as stack:
        base = stack.enter_context(_open_weights(base_path))
        entries = model_layout({name: entry.shape for name, entry in base.header.entries.items()})
        state = stack.enter_context(_open_weights(outer_state_path)) if outer_state_path else None
        if state and state.header.entries != entries:
            raise MergeInvalid(f"{outer_state_path} is no outer state of this model")
        readers = _open_deltas(ordered, entries)
        result_file = stack.enter_context(_writing(result_path))
        state_file = stack.enter_context(_writing(result_state_path))
        result = TensorFileWriter(result_file, metadata=base.header.metadata, entries=entries)
        new_state = TensorFileWriter(state_file, metadata={"content": "outer momentum"}, entries=entries)
        for name, entry in entries.items():
            for start, stop in chunks(entry.num_values):
                mean_N = _mean(readers, weights, name, start, stop)
                momentum_N = state.read(name, start, stop) if state else np.zeros_like(mean_N)
                new_N, momentum_N = outer_step(base.read(name, start, stop), momentum_N, mean_N, config=outer)
                result.append(new_N)
                new_state.append(momentum_N)
        return MergeResult(sha256=result.finish(), state_sha256=new_state.finish(), clip=clip)


def find_clip(deltas: Sequence[WeightedDelta]) -> Clip | None:
    """The medians of a round; None where there are too few deltas to tell."""
    if len(deltas) < CLIP_MIN_DELTAS:
        return None
    return Clip(
        norm=statistics.median(delta.norm for delta in deltas),
        tokens=float(statistics.median(delta.tokens for delta in deltas)),
    )


def final_weights(deltas: Sequence[WeightedDelta], *, clip: Clip | None) -> list[np.float32]:
    """Factor of each delta in the sum: its share of all weights, times what clipping leaves of it.

    Clipping does not raise the share of the others: one diverged device makes the step shorter, not theirs longer.
    """
    total = math.fsum(delta.weight for delta in deltas)
    return [np.float32(delta.weight / total * _kept(delta, clip)) for delta in deltas]


def _kept(delta: WeightedDelta, clip: Clip | None) -> float:
    if clip is None or delta.norm <= (limit := clip.limit(delta.tokens)):
        return 1.0
    return limit / delta.norm


def _check_numbers(deltas: Sequence[WeightedDelta]) -> None:
    if not deltas:
        raise MergeInvalid("there is no delta to merge")
    for delta in deltas:
        if delta.tokens < 1:
            raise MergeInvalid(f"delta {delta.sha256} has {delta.tokens} tokens; it must have at least one")
        if not (math.isfinite(delta.weight) and delta.weight > 0):
            raise MergeInvalid(f"delta {delta.sha256} has the weight {delta.weight}; it must be above 0")
        if not (math.isfinite(delta.norm) and delta.norm >= 0):
            raise MergeInvalid(f"delta {delta.sha256} has the norm {delta.norm}")


def _mean(readers: Sequence[DeltaReader], weights: Sequence[np.float32], name: str, start: int, stop: int) -> Floats:
    sum_N = np.zeros(stop - start, np.float32)
    for reader, weight in zip(readers, weights, strict=True):
        values_N = reader.chunk(name, start, stop)
        values_N *= weight
        sum_N += values_N
    return sum_N


def _open_deltas(deltas: Sequence[WeightedDelta], entries: dict[str, Entry]) -> list[DeltaReader]:
    layouts = delta_layouts({name: entry.shape for name, entry in entries.items()})
    return [open_delta(delta.path, layouts=layouts) for delta in deltas]


@dataclass(frozen=True, slots=True)
class _Weights:
    file: InputFile
    header: Header

    def read(self, name: str, start: int, stop: int) -> Floats:
        entry = self.header.entries[name]
        return read_values(self.file, header=self.header, entry=entry, start=start, stop=stop)


@contextlib.contextmanager
def _open_weights(path: Path) -> Iterator[_Weights]:
    with path.open("rb") as file:
        header = read_header(file, size_bytes=path.stat().st_size)
        if any(entry.dtype != "F32" for entry in header.entries.values()):
            raise TensorFileInvalid(f"{path.name} is not in float32")
        yield _Weights(file, header)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[BinaryIO]:
    with replacing(path) as temporary, temporary.open("wb") as file:
        yield file
