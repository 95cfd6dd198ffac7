import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ml.codecs.base import BLOCK_VALUES, Floats
from ml.codecs.selection import BIN_SIGMAS, largest, two_bits

finite = st.floats(width=32, min_value=-(2.0**100), max_value=2.0**100)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_largest_is_what_a_stable_sort_keeps(data: st.DataObject) -> None:
    # Small integers: ties are the rule.
    elements = st.one_of(st.integers(-3, 3).map(float), finite)
    blocks_BV = data.draw(hnp.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 30)), elements=elements))
    num_kept = data.draw(st.integers(1, blocks_BV.shape[1]))
    order_BV = np.argsort(-np.abs(blocks_BV), axis=1, kind="stable")
    expected = np.sort(order_BV[:, :num_kept], axis=1).reshape(-1)
    np.testing.assert_array_equal(largest(blocks_BV, num_kept), expected)


def test_of_a_block_of_zeros_the_first_are_kept() -> None:
    assert largest(np.zeros((2, BLOCK_VALUES), np.float32), 4).tolist() == [0, 1, 2, 3] * 2


@settings(max_examples=300, deadline=None)
@given(values_K=hnp.arrays(np.float32, st.integers(1, 60), elements=finite))
def test_two_bits_never_err_more_than_sending_nothing(values_K: Floats) -> None:
    codes_K, table = two_bits(values_K)
    doubles_K = values_K.astype(np.float64)
    error_K = table.astype(np.float64)[codes_K] - doubles_K
    assert np.square(error_K).sum() <= np.square(doubles_K).sum() * (1 + 1e-6)
    step = BIN_SIGMAS * doubles_K.std()
    inner_K = (codes_K == 1) | (codes_K == 2)
    assert (np.abs(error_K[inner_K]) <= step * (1 + 1e-6) + np.abs(doubles_K[inner_K]) * 2.0**-22).all()


@settings(max_examples=100, deadline=None)
@given(values_K=hnp.arrays(np.float32, st.integers(1, 60), elements=finite))
def test_each_code_stands_for_the_mean_of_its_values(values_K: Floats) -> None:
    codes_K, table = two_bits(values_K)
    for code in range(4):
        members = values_K[codes_K == code].astype(np.float64)
        expected = members.mean() if len(members) else 0.0
        assert table[code] == pytest.approx(expected, rel=1e-6, abs=float(np.abs(values_K).max()) * 1e-6)


def test_two_bits_lose_a_few_percent_of_the_energy_of_what_is_kept() -> None:
    values_N = np.sort(np.random.default_rng(0).standard_normal(100 * BLOCK_VALUES).astype(np.float32))
    kept_K = np.concatenate([values_N[:3_200], values_N[-3_200:]])
    codes_K, table = two_bits(kept_K)
    assert np.square(table[codes_K] - kept_K).sum() / np.square(kept_K).sum() < 0.03


def test_equal_values_are_exact() -> None:
    codes_K, table = two_bits(np.full(7, 0.1, np.float32))
    assert (table[codes_K] == np.float32(0.1)).all()
