"""Codecs: how a delta's values become the tensors of a file, and come out of it again. numpy only, no torch."""

import functools
from collections.abc import Mapping

from ml.codecs.base import Codec
from ml.codecs.blocks import Int4, Int8
from ml.codecs.dense import Dense
from ml.codecs.sparse import Sparse
from ml.codecs.ternary import Ternary
from ml.codecs.topk import TopK
from ml.tensor_file import Shape

SPARSE: dict[str, type[Sparse]] = {"topk": TopK, "ternary": Ternary}
"""By the name's first part; the second is how many values of a block are kept."""


def codec_for(name: str, shapes: Mapping[str, Shape]) -> Codec:
    """The codec `name` for a model of these parameters; the same one again where it was asked for before.

    Raises: ValueError where there is no such codec.
    """
    return _codec_for(name, tuple(sorted(shapes.items())))


@functools.lru_cache(maxsize=64)
def _codec_for(name: str, items: tuple[tuple[str, Shape], ...]) -> Codec:
    shapes = dict(items)
    match name:
        case "dense":
            return Dense(name, shapes)
        case "int8":
            return Int8(name, shapes)
        case "int4":
            return Int4(name, shapes)
    kind, _, number = name.partition("-")
    if kind in SPARSE and number.isdecimal() and number == str(int(number)):
        return SPARSE[kind](name, shapes, num_kept=int(number))
    raise ValueError(f"there is no codec {name!r}")
