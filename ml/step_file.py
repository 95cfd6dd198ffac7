"""The outer step as a file: a device that has the base gets the next checkpoint from it, byte for byte.

The merge itself subtracts what the file says, rounding and all, so that nothing stands between the two.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ml.codec import open_delta
from ml.codecs import codec_for
from ml.codecs.base import BLOCK_VALUES, Codec, DeltaNotFinite, Floats, SliceCodec, Source
from ml.files import sha256_file
from ml.placed_file import PlacedFile, open_weights, placing
from ml.spans import Span, spans
from ml.tensor_file import Shape, TensorFileInvalid
from ml.threads import in_threads

SPAN_VALUES = 32 * BLOCK_VALUES
"""Values that are worked on at a time."""

CONTENT = "outer step"


class StepFile:
    """A step file in the making; threads may share it."""

    def __init__(self, placed: PlacedFile, codec: SliceCodec) -> None:
        self._placed = placed
        self._codec = codec

    @property
    def path(self) -> Path:
        """Where it stands until it is whole."""
        return self._placed.path

    def put(self, span: Span, step_K: Floats) -> Floats:
        """Write the step of a span, and return what its readers will find.

        Raises: ml.codecs.base.DeltaNotFinite where a value is beyond the codec.
        """
        if not np.isfinite(step_K).all():
            raise DeltaNotFinite(f"the outer step at {span.name} has values that are not finite")
        for piece in span.pieces:
            content = self._codec.encode_slice(piece.name, step_K[piece.offset : piece.end])
            for name, values in content.items():
                entry = self._codec.entries[name]
                # A piece begins with a block, before which lies the same part of every tensor of a parameter.
                start = piece.start * entry.num_values // self._codec.num_values[piece.name]
                self._placed.writer.put(name, start, values)
        return _read_step(self._codec, self._placed.source, span)


@contextmanager
def step_file(path: Path, *, codec: str, shapes: Mapping[str, Shape], base_sha256: str) -> Iterator[StepFile]:
    """A file that takes the place of `path` when the block ends well and the whole step is there."""
    bound = codec_for(codec, shapes)
    assert isinstance(bound, SliceCodec)
    metadata = {"content": CONTENT, "codec": codec, "base_sha256": base_sha256}
    with placing(path, metadata=metadata, entries=bound.entries) as placed:
        yield StepFile(placed, bound)


def apply_step(*, base_path: Path, step_path: Path, result_path: Path) -> str:
    """Write the checkpoint to which the step leads from the base, with the base's metadata, and return its SHA-256.

    The step may come from a stranger. Raises: TensorFileInvalid where it does not belong to the base.
    """
    with open_weights(base_path) as base:
        shapes = {name: entry.shape for name, entry in base.entries.items()}
        step = open_delta(step_path, shapes=shapes)
        if step.metadata.get("content") != CONTENT or step.metadata.get("base_sha256") != sha256_file(base_path):
            raise TensorFileInvalid(f"{step_path.name} is no step from this base")
        with step.opened() as source, placing(result_path, metadata=base.metadata, entries=base.entries) as result:
            try:
                step.codec.check(source)
            except DeltaNotFinite as error:
                raise TensorFileInvalid(f"{step_path.name} is no step: {error}") from error

            def descend(span: Span) -> None:
                start = span.pieces[0].start
                weights_K = base.read(span.name, start, span.num_values)
                weights_K -= _read_step(step.codec, source, span)
                result.writer.put(span.name, start, weights_K)

            for _ in in_threads(descend, spans(base.entries, max_values=SPAN_VALUES)):
                pass
            result.writer.finish()
            return sha256_file(result.path)


def _read_step(codec: Codec, source: Source, span: Span) -> Floats:
    step_K = np.empty(span.num_values, np.float32)
    for piece in span.pieces:
        codec.decode(source, piece.name, piece.start, piece.stop, out=step_K[piece.offset : piece.end])
    return step_K
