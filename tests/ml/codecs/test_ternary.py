import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.codecs import codec_for
from ml.codecs.base import BLOCK_VALUES, Floats
from ml.codecs.elias_fano import pack
from ml.tensor_file import Array
from tests.ml.codecs.make import (
    decode,
    expected_places,
    make_content,
    make_source,
    make_sparse,
    make_ternary,
    make_values,
    read,
    whole,
)

KEPT = {"half": 640 + 320, "odd": 640 + 166, "one": 640}
"""Of each large parameter under ternary-640: 2048 and 1059 values follow a whole block."""
UPPER_BYTES = {"half": 208 + 104, "odd": 208 + 54, "one": 208}
"""Of a bit for each kept value and each four of all values: 1664 for a block, 832 and 431 for the short ones."""


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


finite = st.floats(width=32, min_value=-(2.0**100), max_value=2.0**100)


@settings(max_examples=150, deadline=None)
@given(pattern=st.lists(finite, min_size=1, max_size=40), num_kept=st.sampled_from([8, 512, 640, BLOCK_VALUES]))
def test_sending_never_leaves_more_than_there_was(pattern: list[float], num_kept: int) -> None:
    codec = make_sparse(f"ternary-{num_kept}", {"x": (BLOCK_VALUES + 100,)})
    values_N = np.resize(np.array(pattern, np.float32), BLOCK_VALUES + 100)
    content = make_content(codec, {"x": values_N})
    codec.check(make_source(codec, content))
    left_N = values_N.astype(np.float64) - whole(codec, content, "x")
    assert np.square(left_N).sum() <= np.square(values_N.astype(np.float64)).sum() * (1 + 1e-6)


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
