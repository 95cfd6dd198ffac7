"""Codecs on small shapes, and what they wrote as a source to read from."""

import io
from collections.abc import Mapping

import numpy as np

from ml.codecs import codec_for
from ml.codecs.base import BLOCK_VALUES, Codec, Floats, Slice, Source
from ml.codecs.sparse import Sparse
from ml.codecs.ternary import Ternary
from ml.codecs.topk import TopK
from ml.tensor_file import Array, Header

# A block and a half; an odd number of values; a whole block; too few to be sparse.
SHAPES = {"half": (128, 48), "odd": (5, 1_031), "one": (4_096,), "scale": (48,), "tiny": (3,)}
LARGE = ("half", "odd", "one")


def make_codec(name: str) -> Codec:
    return codec_for(name, SHAPES)


def make_sparse(name: str, shapes: Mapping[str, tuple[int, ...]] = SHAPES) -> Sparse:
    codec = codec_for(name, shapes)
    assert isinstance(codec, Sparse)
    return codec


def make_topk(num_kept: int = 64) -> TopK:
    codec = make_codec(f"topk-{num_kept}")
    assert isinstance(codec, TopK)
    return codec


def make_ternary(num_kept: int = 640) -> Ternary:
    codec = make_codec(f"ternary-{num_kept}")
    assert isinstance(codec, Ternary)
    return codec


def make_values(*, seed: int = 0, shapes: Mapping[str, tuple[int, ...]] = SHAPES) -> dict[str, Floats]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


def make_content(codec: Codec, delta: Mapping[str, Floats]) -> bytearray:
    """The tensors as they would stand in a file, without a header."""
    return bytearray(b"".join(piece.tobytes() for piece in codec.encode(delta)))


def make_source(codec: Codec, content: bytearray) -> Source:
    return Source(io.BufferedReader(io.BytesIO(content)), Header({}, codec.entries, 0))


def write(codec: Codec, content: bytearray, entry: str, place: int, values: Array) -> None:
    """Overwrite values of a tensor from `place`, counted in values."""
    start = codec.entries[entry].start + place * values.itemsize
    content[start : start + values.nbytes] = values.tobytes()


def read(codec: Codec, content: bytearray, entry: str, dtype: str) -> Array:
    """A tensor of the content, flattened."""
    found = codec.entries[entry]
    return np.frombuffer(bytes(content[found.start : found.stop]), dtype)


def decode(codec: Codec, content: bytearray, name: str, start: int, stop: int) -> Slice:
    return codec.decode(make_source(codec, content), name, start, stop)


def whole(codec: Codec, content: bytearray, name: str) -> Floats:
    """All values of a parameter."""
    num_values = codec.num_values[name]
    return decode(codec, content, name, 0, num_values).densified(num_values)


def expected_places(values_N: Floats, num_kept: int) -> list[int]:
    """By the definition of sparse codecs: of each block the largest, a short block's share rounded up."""
    places: list[int] = []
    for start in range(0, len(values_N), BLOCK_VALUES):
        block = values_N[start : start + BLOCK_VALUES]
        share = -(-num_kept * len(block) // BLOCK_VALUES)
        places += sorted(start + place for place in np.argsort(-np.abs(block), kind="stable")[:share].tolist())
    return places
