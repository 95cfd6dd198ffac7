"""Codecs on small shapes, and what they wrote as a source to read from."""

import io
from collections.abc import Mapping

import numpy as np

from ml.codecs import codec_for
from ml.codecs.base import Codec, Floats, Source
from ml.codecs.ternary import Ternary
from ml.tensor_file import Array, Header

# A block and a half; an odd number of values; a whole block; too few to be sparse.
SHAPES = {"half": (128, 48), "odd": (5, 1_031), "one": (4_096,), "scale": (48,), "tiny": (3,)}


def make_codec(name: str) -> Codec:
    return codec_for(name, SHAPES)


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
