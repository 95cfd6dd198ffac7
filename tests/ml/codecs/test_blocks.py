import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ml.codecs.base import BLOCK_VALUES, Codec, DeltaNotFinite, Floats
from ml.codecs.blocks import SMALLEST_SCALE, Int4, Int8, block_scales, quantize, scale_blocks
from ml.tensor_file import TensorFileInvalid
from tests.ml.codecs.make import SHAPES, make_codec, make_content, make_source, make_values, read, write

finite = st.floats(width=32, min_value=-(2.0**100), max_value=2.0**100)
# Few distinct values are drawn, many are laid out: blocks are larger than what hypothesis likes to draw.
patterns = hnp.arrays(np.float32, st.integers(1, 40), elements=finite)
lengths = st.sampled_from([1, 40, 255, 256, 257, BLOCK_VALUES - 1, BLOCK_VALUES, BLOCK_VALUES + 1, 3 * BLOCK_VALUES])


def there_and_back(values_N: Floats, codec: type[Int8 | Int4]) -> tuple[Floats, Floats]:
    """Decoded values, and the scale of each."""
    sizes = {"block_values": codec.block_values, "max_level": codec.max_level}
    scale_K = block_scales(values_N, **sizes)
    decoded_N = quantize(values_N, scale_K, **sizes).astype(np.float32)
    scale_blocks(decoded_N, scale_K, block_values=codec.block_values)
    return decoded_N, np.repeat(scale_K, codec.block_values)[: len(values_N)]


@pytest.mark.parametrize("codec", [Int8, Int4])
@settings(max_examples=150, deadline=None)
@given(pattern=patterns, length=lengths)
def test_each_value_errs_by_at_most_half_a_scale(codec: type[Int8 | Int4], pattern: Floats, length: int) -> None:
    values_N = np.resize(pattern, length)
    decoded_N, scale_N = there_and_back(values_N, codec)
    error_N = np.abs(decoded_N.astype(np.float64) - values_N)
    rounding_N = np.abs(values_N) * 2.0**-22
    zeroed = codec.max_level * SMALLEST_SCALE
    assert (error_N <= np.where(scale_N > 0, scale_N.astype(np.float64) / 2 + rounding_N, zeroed)).all()


@pytest.mark.parametrize("codec", [Int8, Int4])
def test_the_largest_value_of_a_block_is_a_whole_number_of_scales(codec: type[Int8 | Int4]) -> None:
    values_N = np.linspace(-1, 3, codec.block_values, dtype=np.float32)
    decoded_N, scale_N = there_and_back(values_N, codec)
    assert scale_N[0] == np.float32(3) / np.float32(codec.max_level)
    assert decoded_N[-1] == pytest.approx(3, rel=1e-6)


@pytest.mark.parametrize("codec", [Int8, Int4])
def test_each_block_has_its_own_scale(codec: type[Int8 | Int4]) -> None:
    values_N = np.full(2 * codec.block_values, 1e-3, np.float32)
    values_N[0] = 127.0
    decoded_N, _ = there_and_back(values_N, codec)
    assert decoded_N[0] == pytest.approx(127, rel=1e-6)
    assert not decoded_N[1 : codec.block_values].any()
    np.testing.assert_allclose(decoded_N[codec.block_values :], 1e-3, rtol=1e-6)


@pytest.mark.parametrize("codec", [Int8, Int4])
@pytest.mark.parametrize("value", [0.0, 1e-40])
def test_a_block_of_nothing_stays_zero(codec: type[Int8 | Int4], value: float) -> None:
    decoded_N, scale_N = there_and_back(np.full(10, value, np.float32), codec)
    assert not scale_N.any()
    assert not decoded_N.any()


def test_int4_bounds_the_error_of_normal_values() -> None:
    values_N = make_values(shapes={"x": (40 * BLOCK_VALUES,)})["x"]
    decoded_N, _ = there_and_back(values_N, Int4)
    # A 4,096th would share its scale with its largest of 4,096, and err by twice as much energy.
    assert np.square(decoded_N - values_N).mean() < 0.02


@pytest.mark.parametrize(("name", "value_bits", "scale_values"), [("int8", 8, 4_096), ("int4", 4, 256)])
def test_a_file_has_so_many_bits_a_value_and_a_float_a_block(name: str, value_bits: int, scale_values: int) -> None:
    codec = make_codec(name)
    expected = sum(-(-n * value_bits // 8) + 4 * -(-n // scale_values) for n in codec.num_values.values())
    assert codec.data_bytes == expected == len(make_content(codec, make_values()))


def test_int4_stands_in_the_file_as_the_format_says() -> None:
    codec = make_codec("int4")
    delta = make_values()
    delta["tiny"][:] = [7, -3, 1]
    content = make_content(codec, delta)
    assert read(codec, content, "tiny", "u1").tolist() == [0xD7, 0x01]
    assert read(codec, content, "tiny.scale", "<f4").tolist() == [1]


@pytest.mark.parametrize("name", ["dense", "int8", "int4"])
def test_slices_encoded_one_by_one_are_the_file(name: str) -> None:
    codec, delta = make_codec(name), make_values()
    content = make_content(codec, delta)
    for parameter, values in delta.items():
        pieces: dict[str, list[bytes]] = {}
        for start in range(0, values.size, BLOCK_VALUES):
            encoded = codec.encode_slice(parameter, values.reshape(-1)[start : start + BLOCK_VALUES])
            for entry, piece in encoded.items():
                pieces.setdefault(entry, []).append(piece.tobytes())
        for entry, parts in pieces.items():
            assert b"".join(parts) == read(codec, content, entry, "u1").tobytes()


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_scales_of_hostile_files_are_refused(name: str) -> None:
    codec = make_codec(name)
    for value, error in [(np.nan, DeltaNotFinite), (np.inf, DeltaNotFinite), (-1e-9, TensorFileInvalid)]:
        content = make_content(codec, make_values())
        write(codec, content, "odd.scale", 1, np.array([value], "<f4"))
        with pytest.raises(error, match=r"odd\.scale has a"):
            codec.check(make_source(codec, content))


@pytest.mark.parametrize(
    ("parameter", "place", "byte", "message"),
    [
        ("half", 0, 0x08, "half has the value -8"),
        ("half", 3_071, 0x87, "half has the value -8"),
        ("odd", 2_577, 0x10, "odd has bits set after its last value"),
        ("tiny", 1, 0x70, "tiny has bits set after its last value"),
    ],
)
def test_nibbles_that_no_delta_has_are_refused(parameter: str, place: int, byte: int, message: str) -> None:
    codec = make_codec("int4")
    content = make_content(codec, make_values())
    codec.check(make_source(codec, content))
    write(codec, content, parameter, place, np.array([byte], "u1"))
    with pytest.raises(TensorFileInvalid, match=message):
        codec.check(make_source(codec, content))


def decoded(codec: Codec, content: bytearray, name: str) -> Floats:
    num_values = codec.num_values[name]
    return codec.decode(make_source(codec, content), name, 0, num_values).densified(num_values)


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_a_scale_that_overflows_decodes_to_infinity_without_a_warning(name: str) -> None:
    codec = make_codec(name)
    content = make_content(codec, {name: np.ones(shape, np.float32) for name, shape in SHAPES.items()})
    write(codec, content, "half.scale", 0, np.array([3e38], "<f4"))
    codec.check(make_source(codec, content))
    assert np.isinf(decoded(codec, content, "half")[0])
