import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ml.codecs.packing import num_bytes_2, num_bytes_12, pack_2, pack_4, pack_12, unpack_2, unpack_4, unpack_12

sizes = st.integers(0, 50)


@settings(max_examples=200, deadline=None)
@given(numbers_N=hnp.arrays(np.uint16, sizes, elements=st.integers(0, 4_095)))
def test_twelve_bits_come_back_and_take_twelve_bits(numbers_N: np.ndarray) -> None:
    packed = pack_12(numbers_N)
    assert packed.nbytes == num_bytes_12(len(numbers_N)) == -(-12 * len(numbers_N) // 8)
    np.testing.assert_array_equal(unpack_12(packed, len(numbers_N)), numbers_N)


@settings(max_examples=200, deadline=None)
@given(numbers_N=hnp.arrays(np.uint8, sizes, elements=st.integers(0, 3)))
def test_two_bits_come_back_and_take_two_bits(numbers_N: np.ndarray) -> None:
    packed = pack_2(numbers_N)
    assert packed.nbytes == num_bytes_2(len(numbers_N)) == -(-2 * len(numbers_N) // 8)
    np.testing.assert_array_equal(unpack_2(packed, len(numbers_N)), numbers_N)


@settings(max_examples=200, deadline=None)
@given(numbers_N=hnp.arrays(np.int8, sizes, elements=st.integers(-8, 7)))
def test_four_bits_come_back_and_take_four_bits(numbers_N: np.ndarray) -> None:
    packed = pack_4(numbers_N)
    assert packed.nbytes == -(-4 * len(numbers_N) // 8)
    unpacked = unpack_4(packed)
    np.testing.assert_array_equal(unpacked[: len(numbers_N)], numbers_N)
    assert not unpacked[len(numbers_N) :].any()


@settings(max_examples=50, deadline=None)
@given(numbers_N=hnp.arrays(np.uint16, sizes, elements=st.integers(0, 4_095)))
def test_the_first_number_lies_in_the_lowest_bits(numbers_N: np.ndarray) -> None:
    as_one = sum(int(number) << 12 * place for place, number in enumerate(numbers_N))
    assert pack_12(numbers_N).tobytes() == as_one.to_bytes(num_bytes_12(len(numbers_N)), "little")


def test_bytes_are_what_the_format_says() -> None:
    assert pack_12(np.array([0xABC, 0x123, 0xFFF], np.uint16)).tobytes().hex() == "bc3a12" + "ff0f"
    assert pack_2(np.array([0, 1, 2, 3, 1], np.uint8)).tolist() == [0b11_10_01_00, 0b01]
    assert pack_4(np.array([-7, 7, -1], np.int8)).tolist() == [0x79, 0x0F]


@pytest.mark.parametrize("num_numbers", [0, 1, 2, 3, 4, 5])
def test_bits_after_the_last_number_are_zero(num_numbers: int) -> None:
    used = {12: 12 * num_numbers, 2: 2 * num_numbers, 4: 4 * num_numbers}
    packed = {
        12: pack_12(np.full(num_numbers, 4_095, np.uint16)),
        2: pack_2(np.full(num_numbers, 3, np.uint8)),
        4: pack_4(np.full(num_numbers, -1, np.int8)),
    }
    for bits, content in packed.items():
        assert int.from_bytes(content.tobytes(), "little") == (1 << used[bits]) - 1
