import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.codecs import elias_fano
from ml.tensor_file import TensorFileInvalid


def packed(positions: list[int], num_values: int) -> tuple[bytes, bytes]:
    lows, uppers = elias_fano.pack(np.array(positions, np.intp), num_values)
    return lows.tobytes(), uppers.tobytes()


def unpacked(lows: bytes, uppers: bytes, num_positions: int, num_values: int) -> list[int]:
    arrays = np.frombuffer(lows, np.uint8), np.frombuffer(uppers, np.uint8)
    found = elias_fano.unpack(*arrays, num_positions=num_positions, num_values=num_values, name="x")
    assert found.dtype == np.intp
    return found.tolist()


@st.composite
def position_lists(draw: st.DrawFn) -> tuple[list[int], int]:
    num_values = draw(st.integers(1, 300))
    return sorted(draw(st.sets(st.integers(0, num_values - 1), min_size=1))), num_values


@settings(max_examples=400, deadline=None)
@given(drawn=position_lists())
def test_positions_come_back_and_take_three_bits_and_a_quarter_of_the_values(drawn: tuple[list[int], int]) -> None:
    positions, num_values = drawn
    lows, uppers = packed(positions, num_values)
    assert len(lows) == -(-len(positions) // 4)
    assert len(uppers) == -(-(len(positions) + -(-num_values // 4)) // 8)
    assert unpacked(lows, uppers, len(positions), num_values) == positions


@settings(max_examples=200, deadline=None)
@given(drawn=position_lists())
def test_bits_are_what_the_format_says(drawn: tuple[list[int], int]) -> None:
    positions, num_values = drawn
    lows, uppers = packed(positions, num_values)
    as_one = sum((position & 3) << 2 * place for place, position in enumerate(positions))
    assert int.from_bytes(lows, "little") == as_one
    bitmap = sum(1 << (position >> 2) + place for place, position in enumerate(positions))
    assert int.from_bytes(uppers, "little") == bitmap


def test_the_lowest_and_the_highest_positions_fit() -> None:
    for positions in ([*range(640)], [*range(4_096 - 640, 4_096)], [*range(4_096)]):
        lows, uppers = packed(positions, 4_096)
        assert unpacked(lows, uppers, len(positions), 4_096) == positions


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), num_kept=st.sampled_from([8, 16, 64]))
def test_blocks_packed_together_are_the_blocks_end_to_end(seed: int, num_kept: int) -> None:
    rng = np.random.default_rng(seed)
    blocks = [np.sort(rng.choice(64, num_kept, replace=False)) for _ in range(3)]
    end_to_end = [packed(block.tolist(), 64) for block in blocks]
    together = packed([64 * place + int(index) for place, block in enumerate(blocks) for index in block], 192)
    assert together == (b"".join(lows for lows, _ in end_to_end), b"".join(uppers for _, uppers in end_to_end))


@settings(max_examples=200, deadline=None)
@given(lows=st.binary(min_size=2, max_size=2), uppers=st.binary(min_size=3, max_size=3))
def test_any_bitmap_is_read_or_refused(lows: bytes, uppers: bytes) -> None:
    num_ones = int.from_bytes(uppers, "little").bit_count()
    if num_ones == 8:
        assert len(unpacked(lows, uppers, 8, 64)) == 8
    else:
        with pytest.raises(TensorFileInvalid, match=f"x has {num_ones} indices, not 8"):
            unpacked(lows, uppers, 8, 64)
