"""A model's parameters as one flat series of values, cut into spans that are worked on one at a time.

Parameters follow each other in order of name, as they do in a file that has one type for all of them. A span may hold
many small parameters: most of a model's tensors are tiny, and each read has its price.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ml.codecs.base import BLOCK_VALUES
from ml.tensor_file import Entry


@dataclass(frozen=True, slots=True)
class Piece:
    """Values [start, stop) of one flattened parameter; `start` is a multiple of BLOCK_VALUES."""

    name: str
    start: int
    stop: int
    offset: int
    """Where the piece begins in its span."""

    @property
    def end(self) -> int:
        """Where the piece ends in its span."""
        return self.offset + self.stop - self.start


@dataclass(frozen=True, slots=True)
class Span:
    """Values [start, stop) of the flat series."""

    start: int
    stop: int
    pieces: tuple[Piece, ...]

    @property
    def name(self) -> str:
        """Of the parameter with which it begins."""
        return self.pieces[0].name

    @property
    def num_values(self) -> int:
        return self.stop - self.start


def spans(entries: Mapping[str, Entry], *, max_values: int) -> Iterator[Span]:
    """Cover the parameters of `entries`, which stand in their order in the file, by spans of at most `max_values`.

    Units: `max_values` is a multiple of BLOCK_VALUES.
    """
    position, pieces, room = 0, [], max_values
    for name, entry in entries.items():
        start = 0
        while start < entry.num_values:
            length = min(entry.num_values - start, room)
            if start + length < entry.num_values:
                length -= length % BLOCK_VALUES
            if length:
                pieces.append(Piece(name, start, start + length, max_values - room))
                start, room = start + length, room - length
            if start < entry.num_values:
                yield _span(position, pieces)
                position, pieces, room = position + max_values - room, [], max_values
    if pieces:
        yield _span(position, pieces)


def _span(position: int, pieces: list[Piece]) -> Span:
    return Span(position, position + pieces[-1].end, tuple(pieces))
