import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.codecs import codec_for
from ml.codecs.base import BLOCK_VALUES, CHUNK_VALUES, DeltaNotFinite, Floats, Slice
from ml.codecs.packing import pack_12, unpack_2, unpack_12
from ml.codecs.selection import two_bits
from ml.codecs.topk import TopK
from ml.tensor_file import TensorFileInvalid
from tests.ml.codecs.make import SHAPES, make_codec, make_content, make_source, make_values, read, write

KEPT = {"half": 64 + 32, "odd": 64 + 17, "one": 64}
"""Of each large parameter under topk-64: 2048 and 1059 values follow a whole block."""


def make_topk(num_kept: int = 64) -> TopK:
    codec = make_codec(f"topk-{num_kept}")
    assert isinstance(codec, TopK)
    return codec


def decode(codec: TopK, content: bytearray, name: str, start: int, stop: int) -> Slice:
    return codec.decode(make_source(codec, content), name, start, stop)


def whole(codec: TopK, content: bytearray, name: str) -> Floats:
    num_values = codec.num_values[name]
    return decode(codec, content, name, 0, num_values).densified(num_values)


def expected_places(values_N: Floats, num_kept: int) -> list[int]:
    """By the definition: of each block the largest, a short block's share rounded up."""
    places: list[int] = []
    for start in range(0, len(values_N), BLOCK_VALUES):
        block = values_N[start : start + BLOCK_VALUES]
        share = -(-num_kept * len(block) // BLOCK_VALUES)
        places += sorted(start + place for place in np.argsort(-np.abs(block), kind="stable")[:share].tolist())
    return places


@pytest.mark.parametrize("num_kept", [4, 64, 256, BLOCK_VALUES])
def test_the_largest_of_each_block_arrive_as_their_codes_values(num_kept: int) -> None:
    codec, delta = make_topk(num_kept), make_values()
    content = make_content(codec, delta)
    codec.check(make_source(codec, content))
    for name in KEPT:
        values_N = delta[name].reshape(-1)
        places = expected_places(values_N, num_kept)
        found = decode(codec, content, name, 0, len(values_N))
        assert found.positions is not None
        assert found.positions.tolist() == places
        codes_K, table = two_bits(values_N[places])
        np.testing.assert_array_equal(found.values, table[codes_K])


def test_small_parameters_arrive_whole() -> None:
    codec, delta = make_topk(), make_values()
    content = make_content(codec, delta)
    for name in ("scale", "tiny"):
        found = decode(codec, content, name, 0, codec.num_values[name])
        assert found.positions is None
        np.testing.assert_allclose(found.values, delta[name], rtol=2.0**-8)


def test_a_file_has_fourteen_bits_for_each_kept_value() -> None:
    codec = make_topk()
    assert {name: codec.kept_of(codec.num_values[name]) for name in KEPT} == KEPT
    sizes = {name: entry.stop - entry.start for name, entry in codec.entries.items()}
    assert sizes == {
        "tables": 3 * 4 * 4,
        "dense": 2 * (48 + 3),
        "codes": 96 // 4 + 21 + 64 // 4,
        "indices": 96 * 3 // 2 + 122 + 64 * 3 // 2,
    }
    assert codec.data_bytes == len(make_content(codec, make_values()))


@pytest.mark.parametrize("num_rest", [1, 2, 3, 5, 63, 64, 65, 4_095])
def test_a_short_block_keeps_its_share_and_at_least_one(num_rest: int) -> None:
    codec = codec_for("topk-64", {"x": (BLOCK_VALUES + num_rest,)})
    assert isinstance(codec, TopK)
    assert codec.kept_of(BLOCK_VALUES + num_rest) == 64 + -(-num_rest // 64)
    values_N = np.zeros(BLOCK_VALUES + num_rest, np.float32)
    values_N[-1] = 1
    content = make_content(codec, {"x": values_N})
    codec.check(make_source(codec, content))
    assert whole(codec, content, "x")[-1] > 0


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_slice_is_a_part_of_the_whole(data: st.DataObject) -> None:
    codec = make_topk(64)
    content = make_content(codec, make_values(seed=3))
    name = data.draw(st.sampled_from(sorted(SHAPES)))
    num_values = codec.num_values[name]
    start = BLOCK_VALUES * data.draw(st.integers(0, (num_values - 1) // BLOCK_VALUES))
    stop = data.draw(st.integers(start + 1, num_values))
    found = decode(codec, content, name, start, stop).densified(stop - start)
    np.testing.assert_array_equal(found, whole(codec, content, name)[start:stop])


def test_slices_of_a_parameter_of_several_chunks_are_the_whole() -> None:
    shapes = {"x": (2 * CHUNK_VALUES + BLOCK_VALUES + 77,)}
    codec = codec_for("topk-128", shapes)
    assert isinstance(codec, TopK)
    values_N = make_values(shapes=shapes)["x"]
    content = make_content(codec, {"x": values_N})
    decoded_N = whole(codec, content, "x")
    assert np.flatnonzero(decoded_N).tolist() == expected_places(values_N, 128)
    for start in range(0, len(values_N), CHUNK_VALUES):
        stop = min(start + CHUNK_VALUES, len(values_N))
        part_N = decode(codec, content, "x", start, stop).densified(stop - start)
        np.testing.assert_array_equal(part_N, decoded_N[start:stop])


@pytest.mark.parametrize("num_kept", [64, 256])
def test_what_is_sent_leaves_less_than_there_was(num_kept: int) -> None:
    codec, delta = make_topk(num_kept), make_values(seed=5)
    content = make_content(codec, delta)
    for name in KEPT:
        values_N = delta[name].reshape(-1).astype(np.float64)
        left = np.square(values_N - whole(codec, content, name)).sum() / np.square(values_N).sum()
        # Of normal values the largest 1/64 carry 12% of the energy, the largest 1/16 32%.
        assert left < {64: 0.90, 256: 0.70}[num_kept]


def test_fed_back_errors_reach_every_value() -> None:
    codec, gradient = make_topk(256), make_values(seed=6)
    error = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    sent = {name: np.zeros(codec.num_values[name], np.float32) for name in KEPT}
    for _ in range(150):
        delta = {name: error[name] + gradient[name] for name in SHAPES}
        content = make_content(codec, delta)
        for name in KEPT:
            decoded_N = whole(codec, content, name)
            sent[name] += decoded_N
            error[name] = delta[name] - decoded_N.reshape(SHAPES[name])
    for name in KEPT:
        wanted_N = 150 * gradient[name].reshape(-1)
        assert (sent[name] != 0).mean() > 0.9
        assert np.square(sent[name] - wanted_N).sum() / np.square(wanted_N).sum() < 0.01


@pytest.mark.parametrize("num_kept", [0, 3, 66, BLOCK_VALUES + 4])
def test_a_number_that_does_not_fill_bytes_is_refused(num_kept: int) -> None:
    with pytest.raises(ValueError, match="a multiple of 4"):
        codec_for(f"topk-{num_kept}", SHAPES)


def first_of(codec: TopK, name: str) -> int:
    """Where the indices of a parameter begin, in bytes."""
    before = [parameter for parameter in KEPT if parameter < name]
    return sum(-(-codec.kept_of(codec.num_values[parameter]) * 3 // 2) for parameter in before)


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ([5, 5], "half has an index twice, or out of order"),
        ([6, 5], "half has an index twice, or out of order"),
        ([4_095, 0], "half has an index twice, or out of order"),
    ],
)
def test_indices_twice_or_out_of_order_are_refused(places: list[int], message: str) -> None:
    codec = make_topk()
    content = make_content(codec, make_values())
    write(codec, content, "indices", first_of(codec, "half"), pack_12(np.array(places, np.uint16)))
    with pytest.raises(TensorFileInvalid, match=message):
        codec.check(make_source(codec, content))


def test_an_index_beyond_the_end_of_a_short_block_is_refused() -> None:
    codec = make_topk()
    content = make_content(codec, make_values())
    short_block = first_of(codec, "half") + 64 * 3 // 2
    write(codec, content, "indices", short_block, pack_12(np.array([*range(31), 2_047], np.uint16)))
    codec.check(make_source(codec, content))
    write(codec, content, "indices", short_block, pack_12(np.array([*range(31), 2_048], np.uint16)))
    with pytest.raises(TensorFileInvalid, match="half has an index beyond its last value"):
        codec.check(make_source(codec, content))


@pytest.mark.parametrize(
    ("entry", "message"),
    [("indices", "odd has bits set after its last in indices"), ("codes", "odd has bits set after")],
)
def test_bits_after_the_end_of_a_parameter_are_refused(entry: str, message: str) -> None:
    codec = make_topk()
    content = make_content(codec, make_values())
    last = {"indices": first_of(codec, "odd") + 122 - 1, "codes": 24 + 21 - 1}[entry]
    byte = read(codec, content, entry, "u1")[last]
    write(codec, content, entry, last, np.array([byte | 0x80], "u1"))
    with pytest.raises(TensorFileInvalid, match=message):
        codec.check(make_source(codec, content))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("entry", "dtype", "name"), [("tables", "<f4", "table of odd"), ("dense", "<u2", "scale")])
def test_tables_and_dense_values_that_are_not_finite_are_refused(
    entry: str, dtype: str, name: str, value: float
) -> None:
    codec = make_topk()
    content = make_content(codec, make_values())
    written = np.array([value], "<f4")
    write(codec, content, entry, 4, written if dtype == "<f4" else (written.view("<u4") >> 16).astype(dtype))
    with pytest.raises(DeltaNotFinite, match=f"{name} has a value that is not finite"):
        codec.check(make_source(codec, content))


def test_codes_and_indices_stand_in_order_of_name() -> None:
    codec, delta = make_topk(), make_values()
    content = make_content(codec, delta)
    indices, codes = read(codec, content, "indices", "u1"), read(codec, content, "codes", "u1")
    tables = read(codec, content, "tables", "<f4").reshape(3, 4)
    values_N = delta["odd"].reshape(-1)
    places = expected_places(values_N, 64)
    in_block = [place % BLOCK_VALUES for place in places]
    assert unpack_12(indices[144 : 144 + 122], 81).tolist() == in_block
    codes_K, table = two_bits(values_N[places])
    np.testing.assert_array_equal(unpack_2(codes[24 : 24 + 21], 81), codes_K)
    np.testing.assert_array_equal(tables[1], table)


def test_a_model_without_large_parameters_is_sent_whole() -> None:
    shapes = {"b": (7,), "a": (2, 3)}
    codec = codec_for("topk-64", shapes)
    delta = make_values(shapes=shapes)
    content = make_content(codec, delta)
    codec.check(make_source(codec, content))
    assert codec.data_bytes == 2 * 13
    decoded_N = codec.decode(make_source(codec, content), "b", 0, 7).values
    np.testing.assert_allclose(decoded_N, delta["b"], rtol=2.0**-8)
