"""Every value in bfloat16, each parameter under its own name."""

from collections.abc import Iterator, Mapping

import numpy.typing as npt

from ml.codecs.base import Floats, Slice, SliceCodec, Source, chunks, flatten
from ml.codecs.bfloat16 import from_bfloat16, require_finite_bits, to_finite_bfloat16
from ml.tensor_file import Array, Shape, arrange


class Dense(SliceCodec):
    """2 bytes a value. Error: relatively at most 2**-8."""

    def __init__(self, name: str, shapes: Mapping[str, Shape]) -> None:
        super().__init__(name, shapes)
        self.entries = arrange({parameter: ("BF16", shape) for parameter, shape in shapes.items()})

    def encode(self, delta: Mapping[str, npt.ArrayLike]) -> Iterator[Array]:
        for name in self.entries:
            values_N = flatten(delta, name)
            for start, stop in chunks(len(values_N)):
                yield from self.encode_slice(name, values_N[start:stop]).values()

    def encode_slice(self, name: str, values_N: Floats) -> dict[str, Array]:
        return {name: to_finite_bfloat16(values_N, name=name)}

    def decode(self, source: Source, name: str, start: int, stop: int, *, out: Floats | None = None) -> Slice:
        return Slice(from_bfloat16(source.read(name, start, stop), out=out), None)

    def check(self, source: Source) -> None:
        for name, num_values in self.num_values.items():
            for start, stop in chunks(num_values):
                require_finite_bits(source.read(name, start, stop), name=name)
