import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.codecs import codec_for
from ml.codecs.base import BLOCK_VALUES, CHUNK_VALUES, Floats, Slice
from ml.codecs.elias_fano import pack
from ml.codecs.ternary import Ternary
from ml.tensor_file import Array
from tests.ml.codecs.make import SHAPES, make_content, make_source, make_ternary, make_values, read
from tests.ml.codecs.test_topk import expected_places

KEPT = {"half": 640 + 320, "odd": 640 + 166, "one": 640}
"""Of each large parameter under ternary-640: 2048 and 1059 values follow a whole block."""
UPPER_BYTES = {"half": 208 + 104, "odd": 208 + 54, "one": 208}
"""Of a bit for each kept value and each four of all values: 1664 for a block, 832 and 431 for the short ones."""


def decode(codec: Ternary, content: bytearray, name: str, start: int, stop: int) -> Slice:
    return codec.decode(make_source(codec, content), name, start, stop)


def whole(codec: Ternary, content: bytearray, name: str) -> Floats:
    num_values = codec.num_values[name]
    return decode(codec, content, name, 0, num_values).densified(num_values)


def expected_values(values_N: Floats, places: list[int]) -> Floats:
    """By the definition: the sign of each, times the mean magnitude of its block's."""
    blocks_K = np.array(places) // BLOCK_VALUES
    kept_K = values_N[places].astype(np.float64)
    scale_B = [np.abs(kept_K[blocks_K == block]).mean() for block in range(blocks_K[-1] + 1)]
    return (np.sign(kept_K) * np.array(scale_B)[blocks_K]).astype(np.float32)


@pytest.mark.parametrize("num_kept", [8, 512, 640, BLOCK_VALUES])
def test_the_largest_of_each_block_arrive_as_signs_of_its_mean_magnitude(num_kept: int) -> None:
    codec, delta = make_ternary(num_kept), make_values()
    content = make_content(codec, delta)
    codec.check(make_source(codec, content))
    for name in KEPT:
        values_N = delta[name].reshape(-1)
        places = expected_places(values_N, num_kept)
        found = decode(codec, content, name, 0, len(values_N))
        assert found.positions is not None
        assert found.positions.tolist() == places
        assert found.values.dtype == np.float32
        np.testing.assert_allclose(found.values, expected_values(values_N, places), rtol=2e-7)


def test_small_parameters_arrive_whole() -> None:
    codec, delta = make_ternary(), make_values()
    content = make_content(codec, delta)
    for name in ("scale", "tiny"):
        found = decode(codec, content, name, 0, codec.num_values[name])
        assert found.positions is None
        np.testing.assert_allclose(found.values, delta[name], rtol=2.0**-8)


def test_a_file_has_so_many_bits_as_the_format_says() -> None:
    codec = make_ternary()
    assert {name: codec.kept_of(codec.num_values[name]) for name in KEPT} == KEPT
    sizes = {name: entry.stop - entry.start for name, entry in codec.entries.items()}
    assert sizes == {
        "scales": 5 * 4,
        "dense": 2 * (48 + 3),
        "lows": 960 // 4 + 202 + 640 // 4,
        "uppers": sum(UPPER_BYTES.values()),
        "signs": 960 // 8 + 101 + 640 // 8,
    }
    assert codec.data_bytes == len(make_content(codec, make_values()))


@pytest.mark.parametrize(("num_kept", "bits"), [(640, 3_616), (512, 3_104)])
def test_a_block_takes_four_bits_for_each_kept_value_and_1056_more(num_kept: int, bits: int) -> None:
    assert 8 * codec_for(f"ternary-{num_kept}", {"x": (BLOCK_VALUES,)}).data_bytes == bits == 4 * num_kept + 1_056


@pytest.mark.parametrize("num_rest", [1, 2, 3, 5, 7, 63, 64, 65, 4_095])
def test_a_short_block_keeps_its_share_and_at_least_one(num_rest: int) -> None:
    codec = codec_for("ternary-512", {"x": (BLOCK_VALUES + num_rest,)})
    assert isinstance(codec, Ternary)
    assert codec.kept_of(BLOCK_VALUES + num_rest) == 512 + -(-num_rest // 8)
    values_N = np.zeros(BLOCK_VALUES + num_rest, np.float32)
    values_N[-1] = -1
    content = make_content(codec, {"x": values_N})
    codec.check(make_source(codec, content))
    assert whole(codec, content, "x")[-1] < 0


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_slice_is_a_part_of_the_whole(data: st.DataObject) -> None:
    codec = make_ternary()
    content = make_content(codec, make_values(seed=3))
    name = data.draw(st.sampled_from(sorted(SHAPES)))
    num_values = codec.num_values[name]
    start = BLOCK_VALUES * data.draw(st.integers(0, (num_values - 1) // BLOCK_VALUES))
    stop = data.draw(st.integers(start + 1, num_values))
    found = decode(codec, content, name, start, stop).densified(stop - start)
    np.testing.assert_array_equal(found, whole(codec, content, name)[start:stop])


def test_slices_of_a_parameter_of_several_chunks_are_the_whole() -> None:
    shapes = {"x": (2 * CHUNK_VALUES + BLOCK_VALUES + 77,)}
    codec = codec_for("ternary-640", shapes)
    assert isinstance(codec, Ternary)
    values_N = make_values(shapes=shapes)["x"]
    content = make_content(codec, {"x": values_N})
    codec.check(make_source(codec, content))
    decoded_N = whole(codec, content, "x")
    assert np.flatnonzero(decoded_N).tolist() == expected_places(values_N, 640)
    for start in range(0, len(values_N), CHUNK_VALUES):
        stop = min(start + CHUNK_VALUES, len(values_N))
        part_N = decode(codec, content, "x", start, stop).densified(stop - start)
        np.testing.assert_array_equal(part_N, decoded_N[start:stop])


@pytest.mark.parametrize(("num_kept", "bound"), [(512, 0.54), (640, 0.48)])
def test_what_is_sent_leaves_less_than_there_was(num_kept: int, bound: float) -> None:
    codec, delta = make_ternary(num_kept), make_values(seed=5)
    content = make_content(codec, delta)
    for name in KEPT:
        values_N = delta[name].reshape(-1).astype(np.float64)
        left = np.square(values_N - whole(codec, content, name)).sum() / np.square(values_N).sum()
        # Of normal values: 1 - (2 density(t))**2 / share, where the largest share lies beyond t; 0.516 and 0.454.
        assert left < bound


finite = st.floats(width=32, min_value=-(2.0**100), max_value=2.0**100)


@settings(max_examples=150, deadline=None)
@given(pattern=st.lists(finite, min_size=1, max_size=40), num_kept=st.sampled_from([8, 512, 640, BLOCK_VALUES]))
def test_sending_never_leaves_more_than_there_was(pattern: list[float], num_kept: int) -> None:
    codec = codec_for(f"ternary-{num_kept}", {"x": (BLOCK_VALUES + 100,)})
    assert isinstance(codec, Ternary)
    values_N = np.resize(np.array(pattern, np.float32), BLOCK_VALUES + 100)
    content = make_content(codec, {"x": values_N})
    codec.check(make_source(codec, content))
    left_N = values_N.astype(np.float64) - whole(codec, content, "x")
    assert np.square(left_N).sum() <= np.square(values_N.astype(np.float64)).sum() * (1 + 1e-6)


def test_fed_back_errors_reach_every_value() -> None:
    codec, gradient = make_ternary(), make_values(seed=6)
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
        assert np.square(sent[name] - wanted_N).sum() / np.square(wanted_N).sum() < 0.002


@pytest.mark.parametrize("num_kept", [0, 4, 636, BLOCK_VALUES + 8])
def test_a_number_that_does_not_fill_bytes_is_refused(num_kept: int) -> None:
    with pytest.raises(ValueError, match="a multiple of 8"):
        codec_for(f"ternary-{num_kept}", SHAPES)


def test_what_is_packed_stands_in_order_of_name_each_block_from_a_whole_byte() -> None:
    codec, delta = make_ternary(), make_values()
    content = make_content(codec, delta)
    pieces: dict[str, list[Array]] = {"scales": [], "lows": [], "uppers": [], "signs": []}
    for name in sorted(KEPT):
        values_N = delta[name].reshape(-1)
        for start in range(0, len(values_N), BLOCK_VALUES):
            block_V = values_N[start : start + BLOCK_VALUES]
            places = expected_places(block_V, 640)
            lows, uppers = pack(np.array(places, np.intp), len(block_V))
            pieces["lows"].append(lows)
            pieces["uppers"].append(uppers)
            pieces["signs"].append(np.packbits(block_V[places] < 0, bitorder="little"))
            pieces["scales"].append(np.abs(block_V[places]).mean(dtype=np.float64, keepdims=True).astype("<f4"))
    for entry, parts in pieces.items():
        if entry == "scales":
            np.testing.assert_allclose(read(codec, content, entry, "<f4"), np.concatenate(parts), rtol=2e-7)
        else:
            np.testing.assert_array_equal(read(codec, content, entry, "u1"), np.concatenate(parts))


def test_zeros_are_sent_as_zeros() -> None:
    codec = make_ternary()
    content = make_content(codec, {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()})
    codec.check(make_source(codec, content))
    assert not any(whole(codec, content, name).any() for name in KEPT)


def test_a_model_without_large_parameters_is_sent_whole() -> None:
    shapes = {"b": (7,), "a": (2, 3)}
    codec = codec_for("ternary-640", shapes)
    delta = make_values(shapes=shapes)
    content = make_content(codec, delta)
    codec.check(make_source(codec, content))
    assert codec.data_bytes == 2 * 13
    decoded_N = codec.decode(make_source(codec, content), "b", 0, 7).values
    np.testing.assert_allclose(decoded_N, delta["b"], rtol=2.0**-8)
