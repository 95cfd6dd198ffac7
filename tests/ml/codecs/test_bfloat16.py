import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ml.codecs.base import DeltaNotFinite, Floats
from ml.codecs.bfloat16 import from_bfloat16, require_finite_bits, to_bfloat16, to_finite_bfloat16

finite = st.floats(width=32, min_value=-(2.0**100), max_value=2.0**100)


@settings(max_examples=200, deadline=None)
@given(bits_N=hnp.arrays(np.uint32, st.integers(1, 64)))
def test_bfloat16_rounds_as_torch_does(bits_N: np.ndarray) -> None:
    floats_N = bits_N.view(np.float32)
    floats_N[~np.isfinite(floats_N)] = 0
    expected_N = torch.from_numpy(floats_N).to(torch.bfloat16)
    np.testing.assert_array_equal(to_bfloat16(floats_N), expected_N.view(torch.uint16).numpy())
    np.testing.assert_array_equal(from_bfloat16(to_bfloat16(floats_N)), expected_N.to(torch.float32).numpy())


@settings(max_examples=200, deadline=None)
@given(values_N=hnp.arrays(np.float32, st.integers(1, 64), elements=finite))
def test_bfloat16_errs_by_at_most_a_256th(values_N: Floats) -> None:
    error_N = np.abs(from_bfloat16(to_bfloat16(values_N)).astype(np.float64) - values_N)
    assert (error_N <= np.abs(values_N) * 2.0**-8 + 2.0**-134).all()


def test_values_are_written_to_a_given_buffer() -> None:
    buffer = np.empty(3, np.float32)
    assert from_bfloat16(to_bfloat16(np.array([1, -2, 0.5], np.float32)), out=buffer) is buffer
    assert buffer.tolist() == [1, -2, 0.5]


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_bits_that_are_not_finite_are_refused(value: float) -> None:
    bits_N = to_bfloat16(np.array([1, value], np.float32))
    with pytest.raises(DeltaNotFinite, match="here has a value that is not finite"):
        require_finite_bits(bits_N, name="here")


def test_a_value_beyond_bfloat16_is_refused() -> None:
    largest = float(from_bfloat16(np.array([0x7F7F], np.uint16))[0])
    assert to_finite_bfloat16(np.array([largest], np.float32), name="here").tolist() == [0x7F7F]
    with pytest.raises(DeltaNotFinite, match="here has values beyond bfloat16"):
        to_finite_bfloat16(np.array([largest * 1.003], np.float32), name="here")
