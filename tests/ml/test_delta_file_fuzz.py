"""Mutated real files of every codec: more than 10,000 cases, each of which must end in a verdict, in bounded memory."""

import functools
import json
import math
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.codec import encode, open_delta
from ml.codecs import codec_for
from ml.config import CODECS, ModelConfig
from ml.delta_file import DeltaFacts, DeltaInvalid, check
from ml.layout import parameter_shapes
from tests.ml.make_deltas import make_label

# 100 x 48 values are a block and 704: topk-64 keeps 75 of them, which fill no whole byte.
MODEL = ModelConfig(vocab_size=100, block_size=16, n_layer=1, n_head=4, n_kv_head=2, n_embd=48)
SHAPES = parameter_shapes(MODEL)
BUDGET = 1_000
MAX_NORM = 10.0
NUM_CASES = 1_200
"""Of each codec, drawn from a seed; hypothesis adds its own."""
NUM_TRACED = 200
"""Of them, in which memory is counted, which takes three times as long."""
PEAK_BYTES = 2_000_000

Content = bytes | bytearray


def make_content(folder: Path, codec: str) -> bytes:
    rng = np.random.default_rng(0)
    tensors = {name: rng.standard_normal(shape, dtype=np.float32) * np.float32(1e-3) for name, shape in SHAPES.items()}
    encode(tensors, label=make_label(codec=codec), tokens=100, path=folder / "real")
    return (folder / "real").read_bytes()


def judge(path: Path, content: Content, *, codec: str) -> DeltaFacts | DeltaInvalid:
    """The verdict on a file; one that is accepted must decode to the values of a delta."""
    path.write_bytes(content)
    verdict = verdict_on(path, codec=codec)
    if isinstance(verdict, DeltaInvalid):
        assert verdict.detail.isprintable()
        assert len(verdict.detail) < 300
    else:
        assert verdict.norm <= MAX_NORM
        assert 0 < verdict.tokens <= BUDGET
        assert_decodes(path, verdict)
    return verdict


def verdict_on(path: Path, *, codec: str) -> DeltaFacts | DeltaInvalid:
    try:
        return check(path, model=MODEL, label=make_label(codec=codec), token_budget=BUDGET, max_norm=MAX_NORM)
    except DeltaInvalid as error:
        return error


def assert_decodes(path: Path, facts: DeltaFacts) -> None:
    reader, squares = open_delta(path, shapes=SHAPES), 0.0
    for name, num_values in reader.codec.num_values.items():
        found = reader.slice(name, 0, num_values)
        squares += float(np.square(found.values, dtype=np.float64).sum())
        if found.positions is not None:
            assert found.positions[0] >= 0
            assert found.positions[-1] < num_values
            assert (np.diff(found.positions) > 0).all()
    assert math.sqrt(squares) == pytest.approx(facts.norm)


def places(content: bytes, codec: str) -> list[tuple[int, int]]:
    """The length, the header and each tensor: small parts of a file deserve as many mutations as large ones."""
    data_start = 8 + int.from_bytes(content[:8], "little")
    tensors = [(data_start + e.start, data_start + e.stop) for e in codec_for(codec, SHAPES).entries.values()]
    return [(0, 8), (8, data_start), *tensors]


def mutate(rng: np.random.Generator, content: bytes, parts: list[tuple[int, int]]) -> bytearray:
    mutated = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        start, stop = parts[rng.integers(len(parts))]
        place = int(rng.integers(start, stop))
        length = min(int(rng.integers(1, 9)), stop - place)
        match rng.integers(8):
            case 0 | 1:
                mutated[place : place + 1] = bytes([content[place] ^ (1 << int(rng.integers(8)))])
            case 2:
                mutated[place : place + length] = rng.bytes(length)
            case 3:
                mutated[place : place + length] = b"\xff" * length
            case 4:
                mutated[place : place + length] = b"\x00" * length
            case 5:
                mutated[place : place + length] = content[start : start + length]
            case 6:
                del mutated[place : place + length]
            case _:
                mutated[place:place] = rng.bytes(length)
    return mutated[: rng.integers(len(mutated))] if rng.integers(20) == 0 else mutated


@pytest.mark.parametrize("codec", CODECS)
def test_no_mutation_of_a_real_file_gets_anything_but_a_verdict(tmp_path: Path, codec: str) -> None:
    content = make_content(tmp_path, codec)
    parts = places(content, codec)
    rng = np.random.default_rng(CODECS.index(codec))
    verdicts = []
    tracemalloc.start()
    for case in range(NUM_CASES):
        if case == NUM_TRACED:
            _, peak_bytes = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        verdicts.append(type(judge(tmp_path / "mutated", mutate(rng, content, parts), codec=codec)))
    assert peak_bytes < PEAK_BYTES
    # Both verdicts are tried, or the mutations say little.
    assert min(verdicts.count(DeltaFacts), verdicts.count(DeltaInvalid)) > NUM_CASES // 20


@functools.cache
def cached_content(folder: Path, codec: str) -> bytes:
    return make_content(folder, codec)


@settings(max_examples=1_000, deadline=None)
@given(data=st.data())
def test_no_piece_put_in_anywhere_gets_anything_but_a_verdict(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp()
    codec = data.draw(st.sampled_from(CODECS))
    content = bytearray(cached_content(folder, codec))
    header_bytes = 8 + int.from_bytes(content[:8], "little")
    end = data.draw(st.sampled_from([8, header_bytes, len(content)]))
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, min(end, len(content)) - 1))
        piece = data.draw(st.binary(max_size=4) | st.sampled_from([b'"', b"[", b"{", b"1e999", b"NaN", b"-1", b"}"]))
        length = data.draw(st.sampled_from([len(piece), 0, 1]))
        content[position : position + length] = piece
    judge(folder / "mutated", content, codec=codec)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=8), children, max_size=3),
)
keys_of = st.sampled_from(["dtype", "shape", "data_offsets", "tokens", "x"])


@settings(max_examples=1_000, deadline=None)
@given(data=st.data(), key=keys_of, value=json_values, whole=st.booleans())
def test_no_json_in_the_header_gets_anything_but_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, key: str, value: Any, whole: bool
) -> None:
    folder = tmp_path_factory.getbasetemp()
    codec = data.draw(st.sampled_from(CODECS))
    field = data.draw(st.sampled_from(["__metadata__", *sorted(codec_for(codec, SHAPES).entries)]))
    content = cached_content(folder, codec)
    data_start = 8 + int.from_bytes(content[:8], "little")
    fields = json.loads(content[8:data_start])
    (fields if whole else fields[field]).update({key: value})
    header = json.dumps(fields, separators=(",", ":")).encode()
    mutated = len(header).to_bytes(8, "little") + header + content[data_start:]
    # No value that hypothesis draws here is the one that stands in a real file.
    assert isinstance(judge(folder / "header", mutated, codec=codec), DeltaInvalid)
