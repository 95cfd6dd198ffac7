from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.torch import load_file

from ml.codec import (
    CHUNK_VALUES,
    SMALLEST_SCALE,
    DeltaNotFinite,
    Floats,
    block_scales,
    chunks,
    dequantize_int8,
    encode,
    from_bfloat16,
    open_delta,
    quantize_int8,
    to_bfloat16,
)
from ml.layout import BLOCK_VALUES, delta_layouts
from ml.tensor_file import TensorFileInvalid
from tests.ml.make_deltas import SHAPES, make_label, make_tensors

LAYOUTS = delta_layouts(SHAPES)

finite = st.floats(width=32, min_value=-(2.0**100), max_value=2.0**100)
# Few distinct values are drawn, many are laid out: blocks are larger than what hypothesis likes to draw.
patterns = hnp.arrays(np.float32, st.integers(1, 40), elements=finite)
lengths = st.sampled_from([1, 40, BLOCK_VALUES - 1, BLOCK_VALUES, BLOCK_VALUES + 1, 3 * BLOCK_VALUES])


@settings(max_examples=200, deadline=None)
@given(pattern=patterns, length=lengths)
def test_int8_errs_by_at_most_half_a_scale(pattern: Floats, length: int) -> None:
    values_N = np.resize(pattern, length)
    scale_K = block_scales(values_N)
    decoded_N = dequantize_int8(quantize_int8(values_N, scale_K), scale_K)
    scale_N = np.repeat(scale_K, BLOCK_VALUES)[:length].astype(np.float64)
    error_N = np.abs(decoded_N.astype(np.float64) - values_N)
    rounding_N = np.abs(values_N) * 2.0**-22
    assert (error_N <= np.where(scale_N > 0, scale_N / 2 + rounding_N, 127 * SMALLEST_SCALE)).all()


@settings(max_examples=200, deadline=None)
@given(values_N=hnp.arrays(np.uint32, st.integers(1, 64)))
def test_bfloat16_rounds_as_torch_does(values_N: np.ndarray) -> None:
    floats_N = values_N.view(np.float32)
    floats_N[~np.isfinite(floats_N)] = 0
    expected_N = torch.from_numpy(floats_N).to(torch.bfloat16)
    np.testing.assert_array_equal(to_bfloat16(floats_N), expected_N.view(torch.uint16).numpy())
    np.testing.assert_array_equal(from_bfloat16(to_bfloat16(floats_N)), expected_N.to(torch.float32).numpy())


@settings(max_examples=200, deadline=None)
@given(pattern=patterns)
def test_bfloat16_errs_by_at_most_a_256th(pattern: Floats) -> None:
    error_N = np.abs(from_bfloat16(to_bfloat16(pattern)).astype(np.float64) - pattern)
    assert (error_N <= np.abs(pattern) * 2.0**-8 + 2.0**-134).all()


def test_a_block_of_zeros_stays_zero() -> None:
    scale_K = block_scales(np.zeros(10, np.float32))
    assert scale_K.tolist() == [0]
    assert not dequantize_int8(quantize_int8(np.zeros(10, np.float32), scale_K), scale_K).any()


def test_each_block_has_its_own_scale() -> None:
    values_N = np.full(2 * BLOCK_VALUES, 1e-3, np.float32)
    values_N[0] = 127.0
    scale_K = block_scales(values_N)
    assert scale_K.tolist() == [1.0, np.float32(1e-3) / np.float32(127)]
    decoded_N = dequantize_int8(quantize_int8(values_N, scale_K), scale_K)
    np.testing.assert_allclose(decoded_N[BLOCK_VALUES:], 1e-3, rtol=1e-6)


@pytest.mark.parametrize(("codec", "tolerance"), [("dense", 2**-8), ("int8", 0.51 / 127)])
def test_a_delta_comes_back_from_its_file(tmp_path: Path, codec: str, tolerance: float) -> None:
    tensors = make_tensors()
    encode(tensors, label=make_label(codec=codec), tokens=5, path=tmp_path / "delta")
    reader = open_delta(tmp_path / "delta", layouts=LAYOUTS)
    assert reader.header.metadata == make_label(codec=codec).metadata(tokens=5)
    for name, values in tensors.items():
        assert reader.tensor(name).shape == values.shape
        np.testing.assert_allclose(reader.tensor(name), values, atol=tolerance * np.abs(values).max(), rtol=0)


@pytest.mark.parametrize("codec", ["dense", "int8"])
def test_chunks_of_a_tensor_are_the_tensor(tmp_path: Path, codec: str) -> None:
    encode(make_tensors(), label=make_label(codec=codec), tokens=5, path=tmp_path / "delta")
    reader = open_delta(tmp_path / "delta", layouts=LAYOUTS)
    name = "model.embed_tokens.weight"
    parts = [reader.chunk(name, 0, BLOCK_VALUES), reader.chunk(name, BLOCK_VALUES, 128 * 48)]
    np.testing.assert_array_equal(np.concatenate(parts), reader.tensor(name).reshape(-1))


def test_chunks_cover_all_values_once() -> None:
    for num_values in (1, CHUNK_VALUES, CHUNK_VALUES + 1, 3 * CHUNK_VALUES):
        covered = [value for start, stop in chunks(num_values) for value in range(start, stop)]
        assert covered == list(range(num_values))


def test_encode_takes_torch_tensors(tmp_path: Path) -> None:
    arrays = make_tensors()
    tensors = {name: torch.from_numpy(values) for name, values in arrays.items()}
    from_arrays = encode(arrays, label=make_label(), tokens=5, path=tmp_path / "arrays")
    assert encode(tensors, label=make_label(), tokens=5, path=tmp_path / "tensors") == from_arrays


def test_torch_loads_the_file_with_the_library(tmp_path: Path) -> None:
    tensors = make_tensors()
    encode(tensors, label=make_label(codec="dense"), tokens=5, path=tmp_path / "delta")
    loaded = load_file(tmp_path / "delta")
    assert set(loaded) == set(tensors)
    for name, values in tensors.items():
        assert torch.equal(loaded[name], torch.from_numpy(values).to(torch.bfloat16))


@pytest.mark.parametrize(("codec", "value"), [("dense", np.nan), ("int8", np.inf), ("dense", 3.4e38)])
def test_encode_refuses_values_that_are_not_finite_and_leaves_no_file(tmp_path: Path, codec: str, value: float) -> None:
    tensors = make_tensors()
    tensors["model.norm.weight"][3] = value
    with pytest.raises(DeltaNotFinite, match=r"model\.norm\.weight"):
        encode(tensors, label=make_label(codec=codec), tokens=5, path=tmp_path / "delta")
    assert not list(tmp_path.iterdir())


def test_open_delta_refuses_the_delta_of_another_model(tmp_path: Path) -> None:
    tensors = make_tensors()
    tensors["model.norm.weight"] = tensors["model.norm.weight"][1:]
    encode(tensors, label=make_label(), tokens=5, path=tmp_path / "delta")
    with pytest.raises(TensorFileInvalid, match="no delta of this model"):
        open_delta(tmp_path / "delta", layouts=LAYOUTS)


def test_a_reader_refuses_a_file_cut_short_after_it_was_opened(tmp_path: Path) -> None:
    path = tmp_path / "delta"
    encode(make_tensors(), label=make_label(), tokens=5, path=path)
    reader = open_delta(path, layouts=LAYOUTS)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(TensorFileInvalid, match="too early"):
        reader.tensor("model.norm.weight")


def test_readers_share_one_layout(tmp_path: Path) -> None:
    encode(make_tensors(), label=make_label(), tokens=5, path=tmp_path / "delta")
    assert open_delta(tmp_path / "delta", layouts=LAYOUTS).header.entries is LAYOUTS["int8"]
