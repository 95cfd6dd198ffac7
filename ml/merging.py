"""One outer step over a round's deltas, streamed: memory depends neither on their number nor on the model's size.

Deltas are summed in the order of their SHA-256, in float32, one numpy operation at a time. So the same deltas, weighed
the same, give the same bytes for any arrival order, on any machine and by any number of threads.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from ml.codec import DeltaReader, open_delta
from ml.codecs.base import BLOCK_VALUES, DeltaNotFinite, Floats
from ml.config import OuterConfig
from ml.delta_sums import Summand, mean_span, trimmed_mean_span
from ml.files import sha256_file
from ml.outer import OuterMoment, outer_moment, outer_step
from ml.outer_state import OuterState, OuterStateInvalid, put_buffers, state_layout, state_metadata
from ml.placed_file import PlacedWriter, WeightsReader, open_weights, placing
from ml.spans import Span, spans
from ml.step_file import StepFile, step_file
from ml.tensor_file import Shape
from ml.threads import in_threads
from ml.weighing import Clip, Weighing, WeightedDelta, weigh

__all__ = [
    "Clip",
    "MergeInvalid",
    "MergeResult",
    "StepNotFinite",
    "Weighing",
    "WeightedDelta",
    "find_weighing",
    "in_order",
    "merge",
]  # fmt: skip

SPAN_VALUES = 64 * BLOCK_VALUES
"""Values that are merged at a time: so many that opening a file costs little, so few that they stay in a cache."""

STACK_VALUES = 2**20
"""Values of all deltas together where a rule needs them side by side; more deltas take shorter spans."""


class MergeInvalid(ValueError):
    """Inputs that cannot be merged; the message names the one at fault."""


class StepNotFinite(MergeInvalid):
    """The step is beyond what its codec holds: no file can lead to the checkpoint."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MergeResult:
    """What a merge wrote, and what each delta counted for in it."""

    sha256: str
    state_sha256: str
    step_sha256: str | None
    """None where the step does not travel."""
    weighing: Weighing


def merge(  # noqa: PLR0913 - what goes in and where it comes out
    *,
    base_path: Path,
    base_sha256: str,
    deltas: Sequence[WeightedDelta],
    outer: OuterConfig,
    progress: float,
    outer_state_path: Path | None,
    result_path: Path,
    result_state_path: Path,
    step_path: Path | None,
    weighing: Weighing | None = None,
) -> MergeResult:
    """Write the weights after the outer step to `result_path` and the optimizer's state to `result_state_path`.

    The step goes to `step_path` by the codec of `outer`, and the result is the base less what that file says: whoever
    has the base gets the same bytes from it by `ml.step_file.apply_step`. Without `outer_state_path` the momentum
    begins at zero. `progress`, the share of the experiment's rounds that are over, places the merge on the schedule of
    the learning rate. `weighing` is that of an earlier merge of the same deltas, to be repeated; None: it is found.
    `base_sha256` is not checked here: a step that names another base than it begins with leads nobody to the result.
    The result keeps the metadata of the base.
    Raises: MergeInvalid or TensorFileInvalid; then no file is written.
    """
    with contextlib.ExitStack() as stack:
        inputs = stack.enter_context(_opened(base_path, deltas, outer_state_path))
        base, shapes, state = inputs.base, inputs.shapes, inputs.state
        weighing = weighing or inputs.weigh(outer)
        result = stack.enter_context(placing(result_path, metadata=base.metadata, entries=base.entries))
        new_state = stack.enter_context(
            placing(
                result_state_path,
                metadata=state_metadata(num_merges=state.num_merges + 1, trust=weighing.trust),
                entries=state_layout(shapes, delayed=outer.delay > 1),
            )
        )
        step = None
        if outer.step_codec != "none":
            path = step_path or Path(stack.enter_context(TemporaryDirectory(dir=result_path.parent))) / "step"
            step = stack.enter_context(step_file(path, codec=outer.step_codec, shapes=shapes, base_sha256=base_sha256))
        merging = _Merging(
            base=base,
            state=state,
            summands=inputs.weighed(weighing),
            outer=outer,
            moment=outer_moment(outer, progress=progress, num_merges=state.num_merges),
            reference_factor=np.float32(weighing.reference_factor),
            result=result.writer,
            new_state=new_state.writer,
            step=step,
        )
        merging.run()
        written = [result.path, new_state.path, *([step.path] if step else [])]
        sha256, state_sha256, *step_sha256 = in_threads(sha256_file, written)
    return MergeResult(
        sha256=sha256,
        state_sha256=state_sha256,
        step_sha256=step_sha256[0] if step_sha256 else None,
        weighing=weighing,
    )


def find_weighing(
    *, base_path: Path, deltas: Sequence[WeightedDelta], outer: OuterConfig, outer_state_path: Path | None
) -> Weighing:
    """What each delta counts for in a merge of these.

    Raises: as `merge`.
    """
    with _opened(base_path, deltas, outer_state_path) as inputs:
        return inputs.weigh(outer)


def in_order(deltas: Sequence[WeightedDelta]) -> list[WeightedDelta]:
    """The order in which deltas are summed, and in which a weighing counts them."""
    return sorted(deltas, key=lambda delta: (delta.sha256, delta.weight, delta.attempt_id))


@dataclass(frozen=True, slots=True)
class _Inputs:
    """What is merged, its files open; the deltas in the order of their sum."""

    base: WeightsReader
    shapes: dict[str, Shape]
    state: OuterState
    deltas: list[WeightedDelta]
    readers: list[DeltaReader]

    def weigh(self, outer: OuterConfig) -> Weighing:
        return weigh(
            self.deltas,
            readers=self.readers,
            outer=outer,
            reference=None if self.state.is_empty else self.state.momentum,
            trust=self.state.trust,
            num_merges=self.state.num_merges,
        )

    def weighed(self, weighing: Weighing) -> list[Summand]:
        """Raises: MergeInvalid where the weighing is of other deltas."""
        if not len(self.readers) == len(weighing.shares) == len(weighing.factors):
            raise MergeInvalid(f"{len(self.readers)} deltas were weighed as {len(weighing.shares)}")
        weighed = zip(self.readers, weighing.shares, weighing.factors, strict=True)
        return [Summand(reader, np.float32(share), np.float32(factor)) for reader, share, factor in weighed]


@contextlib.contextmanager
def _opened(base_path: Path, deltas: Sequence[WeightedDelta], state_path: Path | None) -> Iterator[_Inputs]:
    _check_numbers(deltas)
    ordered = in_order(deltas)
    with contextlib.ExitStack() as stack:
        base = stack.enter_context(open_weights(base_path))
        shapes = {name: entry.shape for name, entry in base.entries.items()}
        state_reader = stack.enter_context(open_weights(state_path)) if state_path else None
        try:
            state = OuterState(state_reader, shapes=shapes)
        except OuterStateInvalid as error:
            raise MergeInvalid(f"{state_path}: {error}") from error
        yield _Inputs(base, shapes, state, ordered, [open_delta(delta.path, shapes=shapes) for delta in ordered])


@dataclass(frozen=True, kw_only=True, slots=True)
class _Merging:
    """A merge whose files are open."""

    base: WeightsReader
    state: OuterState
    summands: list[Summand]
    outer: OuterConfig
    moment: OuterMoment
    reference_factor: np.float32
    result: PlacedWriter
    new_state: PlacedWriter
    step: StepFile | None

    def run(self) -> None:
        """Raises: StepNotFinite."""
        try:
            for _ in in_threads(self._merge_span, spans(self.base.entries, max_values=self._span_values())):
                pass
        except DeltaNotFinite as error:
            raise StepNotFinite(str(error)) from error

    def _merge_span(self, span: Span) -> None:
        gradient_K = self._aggregate(span)
        buffers = self.state.buffers(span, delayed=self.outer.delay > 1)
        if self.reference_factor:
            gradient_K += self.reference_factor * buffers.momentum
        # A model that diverges is for its evaluation to find.
        with np.errstate(over="ignore", invalid="ignore"):
            step_K, buffers = outer_step(gradient_K, buffers, config=self.outer, moment=self.moment)
        if self.step:
            step_K = self.step.put(span, step_K)
        start = span.pieces[0].start
        weights_K = self.base.read(span.name, start, span.num_values)
        weights_K -= step_K
        self.result.put(span.name, start, weights_K)
        put_buffers(self.new_state, span, buffers)

    def _aggregate(self, span: Span) -> Floats:
        if self.outer.rule == "trimmed_mean":
            return trimmed_mean_span(self.summands, span, num_trimmed=self._num_trimmed())
        return mean_span(self.summands, span, over_senders=self.outer.mean == "senders")

    def _num_trimmed(self) -> int:
        """At either end; of fewer than three deltas nothing can be left out at both."""
        num_deltas = len(self.summands)
        return min(max(1, int(self.outer.trim_share * num_deltas / 2)), (num_deltas - 1) // 2)

    def _span_values(self) -> int:
        if self.outer.rule != "trimmed_mean":
            return SPAN_VALUES
        num_blocks = STACK_VALUES // len(self.summands) // BLOCK_VALUES
        return min(max(num_blocks, 1) * BLOCK_VALUES, SPAN_VALUES)


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
