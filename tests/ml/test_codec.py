import concurrent.futures
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from ml.codec import (
    BLOCK_VALUES,
    CHUNK_VALUES,
    DeltaLabel,
    DeltaNotFinite,
    chunks,
    delta_size_bytes,
    encode,
    open_delta,
)
from ml.codecs import codec_for
from ml.config import CODECS, PRESETS
from ml.layout import parameter_shapes
from ml.tensor_file import TensorFileInvalid
from tests.ml.make_deltas import MODEL, SHAPES, make_label, make_tensors

EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture(params=CODECS)
def codec(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def write(path: Path, *, codec: str = "int8") -> Path:
    encode(make_tensors(), label=make_label(codec=codec), tokens=5, path=path)
    return path


@pytest.mark.parametrize(("codec", "tolerance"), [("dense", 2**-8), ("int8", 0.51 / 127), ("int4", 0.51 / 7)])
def test_every_value_comes_back_from_its_file(tmp_path: Path, codec: str, tolerance: float) -> None:
    reader = open_delta(write(tmp_path / "delta", codec=codec), shapes=SHAPES)
    for name, values in make_tensors().items():
        assert reader.tensor(name).shape == values.shape
        np.testing.assert_allclose(reader.tensor(name), values, atol=tolerance * np.abs(values).max(), rtol=0)


def test_the_largest_values_come_back_from_a_sparse_file(tmp_path: Path) -> None:
    reader = open_delta(write(tmp_path / "delta", codec="topk-256"), shapes=SHAPES)
    values_N = make_tensors()[EMBEDDING].reshape(-1)
    decoded_N = reader.tensor(EMBEDDING).reshape(-1)
    sent = np.flatnonzero(decoded_N)
    assert len(sent) == 256 + 128
    assert np.abs(values_N[sent]).min() > np.median(np.abs(values_N))
    assert (np.sign(decoded_N[sent]) == np.sign(values_N[sent])).all()
    np.testing.assert_allclose(decoded_N[sent], values_N[sent], rtol=0.5)


def test_a_reader_knows_what_the_file_says(tmp_path: Path, codec: str) -> None:
    reader = open_delta(write(tmp_path / "delta", codec=codec), shapes=SHAPES)
    assert reader.metadata == make_label(codec=codec).metadata(tokens=5)
    assert dict(reader.shapes) == SHAPES
    assert reader.codec.name == codec


def test_slices_of_a_parameter_are_the_parameter(tmp_path: Path, codec: str) -> None:
    reader = open_delta(write(tmp_path / "delta", codec=codec), shapes=SHAPES)
    parts = [
        reader.slice(EMBEDDING, start, stop).densified(stop - start)
        for start, stop in [(0, BLOCK_VALUES), (BLOCK_VALUES, 128 * 48)]
    ]
    np.testing.assert_array_equal(np.concatenate(parts), reader.tensor(EMBEDDING).reshape(-1))


@pytest.mark.parametrize("codec", ["dense", "int8", "int4"])
def test_values_are_written_to_a_given_buffer(tmp_path: Path, codec: str) -> None:
    reader = open_delta(write(tmp_path / "delta", codec=codec), shapes=SHAPES)
    buffer = np.full(BLOCK_VALUES, np.nan, np.float32)
    assert reader.slice(EMBEDDING, 0, BLOCK_VALUES, out=buffer).values is buffer
    np.testing.assert_array_equal(buffer, reader.slice(EMBEDDING, 0, BLOCK_VALUES).values)


def test_a_reader_that_is_kept_open_reads_on_from_a_file_that_was_removed(tmp_path: Path, codec: str) -> None:
    reader = open_delta(write(tmp_path / "delta", codec=codec), shapes=SHAPES)
    before = reader.tensor(EMBEDDING)
    with reader.kept_open():
        reader.path.unlink()
        np.testing.assert_array_equal(reader.tensor(EMBEDDING), before)
    with pytest.raises(FileNotFoundError):
        reader.tensor(EMBEDDING)


def test_threads_share_a_reader(tmp_path: Path, codec: str) -> None:
    reader = open_delta(write(tmp_path / "delta", codec=codec), shapes=SHAPES)
    expected = {name: reader.tensor(name) for name in SHAPES}
    with reader.kept_open(), concurrent.futures.ThreadPoolExecutor(4) as pool:
        names = sorted(SHAPES) * 20
        for name, found in zip(names, pool.map(reader.tensor, names), strict=True):
            np.testing.assert_array_equal(found, expected[name])


def test_chunks_cover_all_values_once() -> None:
    for num_values in (1, CHUNK_VALUES, CHUNK_VALUES + 1, 3 * CHUNK_VALUES):
        covered = [value for start, stop in chunks(num_values) for value in range(start, stop)]
        assert covered == list(range(num_values))


def test_encode_takes_torch_tensors_in_any_order(tmp_path: Path, codec: str) -> None:
    arrays = make_tensors()
    tensors = {name: torch.from_numpy(arrays[name]) for name in reversed(arrays)}
    from_arrays = encode(arrays, label=make_label(codec=codec), tokens=5, path=tmp_path / "arrays")
    assert encode(tensors, label=make_label(codec=codec), tokens=5, path=tmp_path / "tensors") == from_arrays


def test_the_library_reads_every_file(tmp_path: Path, codec: str) -> None:
    loaded = load_file(write(tmp_path / "delta", codec=codec))
    entries = codec_for(codec, SHAPES).entries
    assert {name: tuple(tensor.shape) for name, tensor in loaded.items()} == {n: e.shape for n, e in entries.items()}


def test_torch_rounds_to_the_dense_file(tmp_path: Path) -> None:
    loaded = load_file(write(tmp_path / "delta", codec="dense"))
    for name, values in make_tensors().items():
        assert torch.equal(loaded[name], torch.from_numpy(values).to(torch.bfloat16))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["model.norm.weight", EMBEDDING])
def test_encode_refuses_values_that_are_not_finite_and_leaves_no_file(
    tmp_path: Path, codec: str, name: str, value: float
) -> None:
    tensors = make_tensors()
    tensors[name].reshape(-1)[3] = value
    with pytest.raises(DeltaNotFinite, match=name):
        encode(tensors, label=make_label(codec=codec), tokens=5, path=tmp_path / "delta")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("codec", ["dense", "topk-64"])
def test_encode_refuses_values_beyond_bfloat16(tmp_path: Path, codec: str) -> None:
    tensors = make_tensors()
    tensors["model.norm.weight"][3] = 3.4e38
    with pytest.raises(DeltaNotFinite, match=r"model\.norm\.weight has values beyond bfloat16"):
        encode(tensors, label=make_label(codec=codec), tokens=5, path=tmp_path / "delta")
    assert not list(tmp_path.iterdir())


def test_open_delta_refuses_the_delta_of_another_model(tmp_path: Path, codec: str) -> None:
    tensors = make_tensors()
    tensors["model.norm.weight"] = tensors["model.norm.weight"][2:]
    encode(tensors, label=make_label(codec=codec), tokens=5, path=tmp_path / "delta")
    with pytest.raises(TensorFileInvalid, match="no delta of this model"):
        open_delta(tmp_path / "delta", shapes=SHAPES)


@pytest.mark.parametrize(
    ("written", "claimed", "message"),
    [
        (b'"codec":"int8"', b'"codec":"int9"', "no codec 'int9'"),
        (b'"codec":"int8"', b'"codec":"int4"', "no delta of this model"),
        (b'"codec":"int8"', b'"codes":"int8"', "no codec ''"),
        (b'"codec":"topk-64"', b'"codec":"topk-65"', "a multiple of 4"),
    ],
)
def test_open_delta_refuses_a_codec_that_is_not_the_files(
    tmp_path: Path, written: bytes, claimed: bytes, message: str
) -> None:
    path = write(tmp_path / "delta", codec=written.split(b'"')[3].decode())
    path.write_bytes(path.read_bytes().replace(written, claimed))
    with pytest.raises(TensorFileInvalid, match=message):
        open_delta(path, shapes=SHAPES)


def test_a_reader_refuses_a_file_cut_short_after_it_was_opened(tmp_path: Path, codec: str) -> None:
    reader = open_delta(write(tmp_path / "delta", codec=codec), shapes=SHAPES)
    name = "model.layers.1.mlp.up_proj.weight" if "-" in codec else "model.layers.1.self_attn.v_proj.weight"
    reader.path.write_bytes(reader.path.read_bytes()[:-1_000])
    with pytest.raises(TensorFileInvalid, match="too early"):
        reader.tensor(name)


BITS = {
    "dense": 16, "int8": 8, "int4": 4, "topk-64": 0.21875, "topk-128": 0.4375, "topk-256": 0.875,
    "ternary-512": 0.7578125, "ternary-640": 0.8828125,
}  # fmt: skip


@pytest.mark.parametrize(("codec", "bits"), BITS.items())
def test_a_delta_has_as_many_bits_a_value_as_its_codec_says(codec: str, bits: float) -> None:
    size_bytes = delta_size_bytes(PRESETS["m4"], codec)
    assert 1 < size_bytes * 8 / PRESETS["m4"].num_parameters / bits < 1.04


def test_the_header_of_a_sparse_delta_is_short() -> None:
    config = PRESETS["default"]
    sizes = {name: codec_for(name, parameter_shapes(config)).data_bytes for name in ("topk-64", "ternary-640", "int8")}
    assert delta_size_bytes(config, "topk-64") - sizes["topk-64"] < 800
    assert delta_size_bytes(config, "ternary-640") - sizes["ternary-640"] < 800
    assert delta_size_bytes(config, "int8") - sizes["int8"] > 50_000


labels = st.builds(
    DeltaLabel,
    experiment=st.from_regex(r"[-a-zA-Z0-9_]{1,50}", fullmatch=True),
    round_number=st.integers(0, 2**63 - 1),
    base_sha256=st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
    codec=st.sampled_from(CODECS),
    attempt_id=st.integers(0, 2**63 - 1),
)


@settings(max_examples=70, deadline=None)
@given(label=labels, tokens=st.integers(0, 2**63 - 1))
def test_no_encoded_delta_exceeds_its_announced_size(
    tmp_path_factory: pytest.TempPathFactory, label: DeltaLabel, tokens: int
) -> None:
    path: Path = tmp_path_factory.getbasetemp() / "delta"
    encode(make_tensors(), label=label, tokens=tokens, path=path)
    limit = delta_size_bytes(MODEL, label.codec)
    assert limit - 150 <= path.stat().st_size <= limit


def test_the_size_depends_on_the_codec_and_not_on_the_values(tmp_path: Path, codec: str) -> None:
    sizes = set()
    for scale in (0.0, 1e-3, 1e3):
        encode(make_tensors(scale=scale), label=make_label(codec=codec), tokens=5, path=tmp_path / "delta")
        sizes.add((tmp_path / "delta").stat().st_size)
    assert len(sizes) == 1
    num_parameters = sum(math.prod(shape) for shape in SHAPES.values())
    assert sizes.pop() < 2 * num_parameters + 8_000


@pytest.mark.parametrize("module", ["layout", "delta_file", "codec", "codecs", "files"])
def test_deltas_are_read_without_torch(module: str) -> None:
    code = f"import sys, ml.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
