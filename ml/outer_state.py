"""The outer optimizer's state between two merges, as a file next to the checkpoint."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ml import protocol
from ml.layout import model_layout
from ml.outer import Floats, OuterBuffers
from ml.placed_file import PlacedWriter, WeightsReader
from ml.spans import Span
from ml.tensor_file import Entry, Shape
from ml.trust import SenderTrust

MOMENTUM, PENDING = "momentum/", "pending/"
"""Before a parameter's name, in that order in the file."""


class OuterStateInvalid(ValueError):
    """A file that is not the outer state of the model that is merged."""


def state_layout(shapes: Mapping[str, Shape], *, delayed: bool) -> dict[str, Entry]:
    """All momentum in order of parameter, then, where it is updated with a delay, all gradients since the last time."""
    prefixes = (MOMENTUM, PENDING) if delayed else (MOMENTUM,)
    return model_layout({prefix + name: shape for prefix in prefixes for name, shape in shapes.items()})


def state_metadata(*, num_merges: int, trust: Sequence[SenderTrust]) -> dict[str, str]:
    """What stands in the state beside its tensors."""
    trusted = json.dumps([dataclasses.asdict(sender) for sender in trust], separators=(",", ":"))
    return {"content": "outer state", "merges": str(num_merges), "trust": trusted}


class OuterState:
    """What the merge before left; where there was none, zeros."""

    def __init__(self, reader: WeightsReader | None, *, shapes: Mapping[str, Shape]) -> None:
        """Raises: OuterStateInvalid where the file is not the outer state of a model of these shapes."""
        self._reader = reader
        self._has_pending = False
        self.num_merges = 0
        self.trust: tuple[SenderTrust, ...] = ()
        if reader:
            self._read_header(reader, shapes)

    @property
    def is_empty(self) -> bool:
        """Whether there was no merge before."""
        return self._reader is None

    def momentum(self, span: Span) -> Floats:
        return self._read(MOMENTUM, span)

    def buffers(self, span: Span, *, delayed: bool) -> OuterBuffers:
        return OuterBuffers(self.momentum(span), self._pending(span) if delayed else None)

    def _pending(self, span: Span) -> Floats:
        return self._read(PENDING, span) if self._has_pending else np.zeros(span.num_values, np.float32)

    def _read(self, prefix: str, span: Span) -> Floats:
        if self._reader is None:
            return np.zeros(span.num_values, np.float32)
        return self._reader.read(prefix + span.name, span.pieces[0].start, span.num_values)

    def _read_header(self, reader: WeightsReader, shapes: Mapping[str, Shape]) -> None:
        self._has_pending = reader.entries == state_layout(shapes, delayed=True)
        if not self._has_pending and reader.entries != state_layout(shapes, delayed=False):
            raise OuterStateInvalid("the file is no outer state of this model")
        try:
            self.num_merges = int(reader.metadata["merges"])
            trust = protocol.decode(_Trust, {"senders": json.loads(reader.metadata["trust"])})
        except (KeyError, ValueError, RecursionError) as error:
            raise OuterStateInvalid(f"the metadata of the outer state is wrong: {error}") from error
        self.trust = trust.senders


@dataclass(frozen=True, slots=True)
class _Trust:
    senders: tuple[SenderTrust, ...]


def put_buffers(writer: PlacedWriter, span: Span, buffers: OuterBuffers) -> None:
    """Write what the optimizer remembers of a span to a file of `state_layout`."""
    writer.put(MOMENTUM + span.name, span.pieces[0].start, buffers.momentum)
    if buffers.pending is not None:
        writer.put(PENDING + span.name, span.pieces[0].start, buffers.pending)
