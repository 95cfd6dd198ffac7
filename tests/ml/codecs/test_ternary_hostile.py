"""Content that no device sends under ternary; 640 of each block, so that "half" has 640 + 320 and "odd" 640 + 166."""

import numpy as np
import pytest

from ml.codecs.base import BLOCK_VALUES, DeltaNotFinite
from ml.codecs.elias_fano import pack
from ml.codecs.ternary import Ternary
from ml.tensor_file import TensorFileInvalid
from tests.ml.codecs.make import make_content, make_source, make_ternary, make_values, read, write


def refused(codec: Ternary, content: bytearray, message: str) -> None:
    with pytest.raises(TensorFileInvalid, match=message):
        codec.check(make_source(codec, content))


@pytest.mark.parametrize(("byte", "number"), [(0x00, "95[0-9]"), (0xFF, "96[0-9]")])
def test_a_bitmap_for_another_number_of_values_is_refused(byte: int, number: str) -> None:
    codec = make_ternary()
    content = make_content(codec, make_values())
    write(codec, content, "uppers", 100, np.array([byte], "u1"))
    refused(codec, content, f"half has {number} indices, not 960")


def written(codec: Ternary, content: bytearray, name: str, positions: list[int], num_values: int) -> None:
    """Overwrite a parameter's positions."""
    lows, uppers = pack(np.array(positions, np.intp), num_values)
    place = codec.places[name]
    write(codec, content, "lows", place.byte_starts["lows"], lows)
    write(codec, content, "uppers", place.byte_starts["uppers"], uppers)


def test_a_bit_moved_from_one_block_to_the_next_is_refused() -> None:
    codec = make_ternary()
    for first in (639, 641):
        content = make_content(codec, make_values())
        positions = [*range(first), *range(BLOCK_VALUES + 100, BLOCK_VALUES + 100 + 960 - first)]
        written(codec, content, "half", positions, 6_144)
        refused(codec, content, "half has an index beyond its block")


@pytest.mark.parametrize("last", [4_095, 4_096, 4_099])
def test_an_index_in_the_next_blocks_first_values_is_refused(last: int) -> None:
    codec = make_ternary()
    content = make_content(codec, make_values())
    written(codec, content, "half", [*range(639), last, *range(4_100, 4_420)], 6_144)
    if last < BLOCK_VALUES:
        codec.check(make_source(codec, content))
    else:
        refused(codec, content, "half has an index beyond its block")


@pytest.mark.parametrize("last", [5_154, 5_155])
def test_an_index_beyond_the_end_of_a_parameter_is_refused(last: int) -> None:
    codec = make_ternary()
    content = make_content(codec, make_values())
    # 5,155 values and a place for 5,156, which the last four share.
    written(codec, content, "odd", [*range(640), *range(4_096, 4_096 + 165), last], 5_155)
    if last < 5_155:
        codec.check(make_source(codec, content))
    else:
        refused(codec, content, "odd has an index beyond its last value")


@pytest.mark.parametrize("lows", [0b01_01, 0b01_10])
def test_indices_twice_or_out_of_order_are_refused(lows: int) -> None:
    codec = make_ternary()
    content = make_content(codec, make_values())
    written(codec, content, "half", [*range(640), *range(4_096, 4_416)], 6_144)
    codec.check(make_source(codec, content))
    write(codec, content, "lows", codec.places["half"].byte_starts["lows"], np.array([0b11_10_00_00 | lows], "u1"))
    refused(codec, content, "half has an index twice, or out of order")


@pytest.mark.parametrize(("entry", "last"), [("lows", 240 + 202), ("uppers", 312 + 262), ("signs", 120 + 101)])
def test_bits_after_the_end_of_a_parameter_are_refused(entry: str, last: int) -> None:
    codec = make_ternary()
    content = make_content(codec, make_values())
    byte = read(codec, content, entry, "u1")[last - 1]
    assert byte < 0x80
    write(codec, content, entry, last - 1, np.array([byte | 0x80], "u1"))
    refused(codec, content, f"odd has bits set after its last in {entry}")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("entry", "dtype", "name"), [("scales", "<f4", "scale of odd"), ("dense", "<u2", "scale")])
def test_scales_and_dense_values_that_are_not_finite_are_refused(
    entry: str, dtype: str, name: str, value: float
) -> None:
    codec = make_ternary()
    content = make_content(codec, make_values())
    number = np.array([value], "<f4")
    write(codec, content, entry, 3, number if dtype == "<f4" else (number.view("<u4") >> 16).astype(dtype))
    with pytest.raises(DeltaNotFinite, match=f"{name} has a value that is not finite"):
        codec.check(make_source(codec, content))


def test_a_negative_scale_is_refused() -> None:
    codec = make_ternary()
    content = make_content(codec, make_values())
    write(codec, content, "scales", 4, np.array([-1e-9], "<f4"))
    refused(codec, content, "one has a negative scale")
