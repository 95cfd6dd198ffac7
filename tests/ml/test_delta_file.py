import functools
import json
import math
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.codec import DeltaLabel, delta_size_bytes, encode, open_delta
from ml.codecs import codec_for
from ml.codecs.base import Codec, Floats
from ml.codecs.packing import pack_12
from ml.config import CODECS, PRESETS, InnerConfig
from ml.delta_file import ERROR_HEADROOM, DeltaFacts, DeltaInvalid, check, measure_norm, norm_bound
from ml.layout import parameter_shapes
from ml.protocol import PROTOCOL_VERSION, Reason
from tests.ml.codecs.make import make_source
from tests.ml.make_deltas import MODEL, SHAPES, make_delta, make_label, make_tensors

BUDGET = 1_000
MAX_NORM = 10.0
NAME = "model.layers.0.mlp.up_proj.weight"
SCALE = NAME + ".scale"

Fields = dict[str, Any]


def check_file(path: Path, label: DeltaLabel | None = None, *, max_norm: float = MAX_NORM) -> DeltaFacts:
    return check(path, model=MODEL, label=label or make_label(), token_budget=BUDGET, max_norm=max_norm)


def reason_of(path: Path, label: DeltaLabel | None = None, *, max_norm: float = MAX_NORM) -> Reason:
    with pytest.raises(DeltaInvalid) as caught:
        check_file(path, label, max_norm=max_norm)
    assert caught.value.detail
    assert caught.value.detail.isprintable()
    assert len(caught.value.detail) < 300
    return caught.value.reason


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "delta"
    encode(make_tensors(), label=make_label(), tokens=100, path=path)
    return path


def take_apart(path: Path) -> tuple[Fields, bytes]:
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def put_together(path: Path, fields: Fields, data: bytes) -> Path:
    header = json.dumps(fields, separators=(",", ":")).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    return path


def change(path: Path, edit: Callable[[Fields], object]) -> Path:
    """Edit the header's JSON and leave the tensors."""
    fields, data = take_apart(path)
    edit(fields)
    return put_together(path, fields, data)


def write_values(path: Path, name: str, values: list[float], dtype: str) -> Path:
    """Overwrite the first values of a tensor."""
    fields, data = take_apart(path)
    start = fields[name]["data_offsets"][0]
    patch = np.array(values, dtype).tobytes()
    return put_together(path, fields, data[:start] + patch + data[start + len(patch) :])


@pytest.mark.parametrize("codec", CODECS)
def test_check_accepts_what_encode_wrote_and_measures_it(tmp_path: Path, codec: str) -> None:
    delta = make_delta(tmp_path, seed=7, codec=codec)
    facts = check_file(delta.path, make_label(codec=codec))
    assert facts.tokens == 100
    assert facts.size_bytes == delta.path.stat().st_size
    sent = [np.square(values, dtype=np.float64).sum() for values in make_tensors(seed=7).values()]
    if codec in ("dense", "int8", "int4"):
        assert facts.norm == pytest.approx(math.sqrt(sum(sent)), rel=2e-2)
    else:
        assert 0.1 * math.sqrt(sum(sent)) < facts.norm < math.sqrt(sum(sent))
    decoded = open_delta(delta.path, shapes=SHAPES)
    squares = [np.square(decoded.tensor(name), dtype=np.float64).sum() for name in SHAPES]
    assert facts.norm == pytest.approx(math.sqrt(sum(squares)), rel=1e-12)
    assert measure_norm(decoded) == facts.norm


@pytest.mark.parametrize("codec", CODECS)
def test_a_delta_of_zeros_is_accepted(path: Path, codec: str) -> None:
    zeros = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    encode(zeros, label=make_label(codec=codec), tokens=100, path=path)
    assert check_file(path, make_label(codec=codec), max_norm=0.0).norm == 0.0


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("protocol", str(PROTOCOL_VERSION + 1), Reason.WRONG_METADATA),
        ("experiment", "another", Reason.WRONG_METADATA),
        ("experiment", "\ud800\0", Reason.WRONG_METADATA),
        ("round", "4", Reason.WRONG_METADATA),
        ("round", "03", Reason.WRONG_METADATA),
        ("base_sha256", "0" * 64, Reason.WRONG_BASE),
        ("codec", "dense", Reason.WRONG_METADATA),
        ("attempt", "8", Reason.WRONG_METADATA),
        ("tokens", "0", Reason.NO_TOKENS),
        ("tokens", str(BUDGET + 1), Reason.TOO_MANY_TOKENS),
        ("tokens", "-1", Reason.WRONG_METADATA),
        ("tokens", "1e3", Reason.WRONG_METADATA),
        ("tokens", "٣", Reason.WRONG_METADATA),
        ("tokens", "0100", Reason.WRONG_METADATA),
        ("tokens", "100\n", Reason.WRONG_METADATA),
        ("tokens", "", Reason.WRONG_METADATA),
    ],
)
def test_check_refuses_metadata_of_another_job(path: Path, key: str, value: str, reason: Reason) -> None:
    assert reason_of(change(path, lambda fields: fields["__metadata__"].update({key: value}))) == reason


def test_check_refuses_metadata_that_is_missing_or_unknown(path: Path) -> None:
    _, content = take_apart(path), path.read_bytes()
    assert reason_of(change(path, lambda fields: fields["__metadata__"].pop("tokens"))) == Reason.WRONG_METADATA
    path.write_bytes(content)
    assert reason_of(change(path, lambda fields: fields["__metadata__"].update(x="y"))) == Reason.WRONG_METADATA
    path.write_bytes(content)
    assert reason_of(change(path, lambda fields: fields.pop("__metadata__"))) == Reason.WRONG_METADATA


def test_check_accepts_the_whole_budget(path: Path) -> None:
    encode(make_tensors(), label=make_label(), tokens=BUDGET, path=path)
    assert check_file(path).tokens == BUDGET


def swap_places(fields: Fields) -> None:
    one, two = "model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.up_proj.weight"
    fields[one]["data_offsets"], fields[two]["data_offsets"] = fields[two]["data_offsets"], fields[one]["data_offsets"]


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda fields: fields.update({"x": fields.pop(NAME)}), Reason.WRONG_TENSORS),
        (lambda fields: fields[NAME].update(dtype="U8"), Reason.WRONG_TENSORS),
        (lambda fields: fields[SCALE].update(dtype="I32"), Reason.WRONG_TENSORS),
        (lambda fields: fields[NAME].update(shape=[48, 128]), Reason.WRONG_TENSORS),
        (lambda fields: fields[NAME].update(shape=[128 * 48]), Reason.WRONG_TENSORS),
        (lambda fields: fields[NAME].update(shape=[128, 48, 1]), Reason.WRONG_TENSORS),
        (lambda fields: fields[NAME].update(shape=[2**40, 2**40]), Reason.MALFORMED),
        (lambda fields: fields[NAME].update(shape=[129, 48]), Reason.MALFORMED),
        (lambda fields: fields[NAME].update(data_offsets=[0, 128 * 48]), Reason.MALFORMED),
        (lambda fields: fields.pop(NAME), Reason.MALFORMED),
        (swap_places, Reason.MALFORMED),
    ],
)
def test_check_refuses_tensors_of_another_shape_name_type_or_place(
    path: Path, edit: Callable[[Fields], object], reason: Reason
) -> None:
    assert reason_of(change(path, edit)) == reason


def test_check_names_a_missing_tensor(tmp_path: Path) -> None:
    tensors = make_tensors()
    del tensors["model.norm.weight"]
    encode(tensors, label=make_label(), tokens=100, path=tmp_path / "delta")
    with pytest.raises(DeltaInvalid, match=r"model\.norm\.weight.* is missing") as caught:
        check_file(tmp_path / "delta")
    assert caught.value.reason == Reason.WRONG_TENSORS


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([math.nan], Reason.NOT_FINITE),
        ([math.inf], Reason.NOT_FINITE),
        ([-math.inf], Reason.NOT_FINITE),
        ([3.3e38], Reason.NOT_FINITE),
        ([-1e-6], Reason.MALFORMED),
        ([1.0], Reason.NORM_OUT_OF_BOUNDS),
    ],
)
def test_check_refuses_scales(path: Path, values: list[float], reason: Reason) -> None:
    assert reason_of(write_values(path, SCALE, values, "<f4")) == reason


@pytest.mark.parametrize(
    ("bits", "reason"),
    [
        (0x7FC0, Reason.NOT_FINITE),
        (0x7F80, Reason.NOT_FINITE),
        (0xFF80, Reason.NOT_FINITE),
        (0x7F7F, Reason.NORM_OUT_OF_BOUNDS),
    ],
)
def test_check_refuses_dense_values(tmp_path: Path, bits: int, reason: Reason) -> None:
    delta = make_delta(tmp_path, seed=7, codec="dense")
    assert reason_of(write_values(delta.path, NAME, [bits], "<u2"), make_label(codec="dense")) == reason


def index_bytes(*indices: int) -> list[int]:
    return pack_12(np.array(indices, np.uint16)).tolist()


@pytest.mark.parametrize(
    ("codec", "name", "values", "dtype", "reason"),
    [
        ("int4", NAME, [0x08], "u1", Reason.MALFORMED),
        ("int4", SCALE, [math.nan], "<f4", Reason.NOT_FINITE),
        ("int4", SCALE, [-1.0], "<f4", Reason.MALFORMED),
        ("int4", SCALE, [3.3e38], "<f4", Reason.NOT_FINITE),
        ("int4", SCALE, [1e10], "<f4", Reason.NORM_OUT_OF_BOUNDS),
        ("topk-64", "indices", index_bytes(9, 9), "u1", Reason.MALFORMED),
        ("topk-64", "indices", index_bytes(9, 8), "u1", Reason.MALFORMED),
        ("topk-64", "tables", [0, 0, math.inf], "<f4", Reason.NOT_FINITE),
        ("topk-64", "tables", [math.nan], "<f4", Reason.NOT_FINITE),
        ("topk-64", "tables", [1e10] * 4, "<f4", Reason.NORM_OUT_OF_BOUNDS),
        ("topk-64", "tables", [3e38] * 4, "<f4", Reason.NORM_OUT_OF_BOUNDS),
        ("topk-64", "dense", [0x7FC0], "<u2", Reason.NOT_FINITE),
        ("topk-64", "dense", [0x7F7F], "<u2", Reason.NORM_OUT_OF_BOUNDS),
        ("ternary-640", "uppers", [0xFF, 0xFF, 0xFF], "u1", Reason.MALFORMED),
        ("ternary-640", "scales", [math.nan], "<f4", Reason.NOT_FINITE),
        ("ternary-640", "scales", [-1e-9], "<f4", Reason.MALFORMED),
        ("ternary-640", "scales", [3e38], "<f4", Reason.NORM_OUT_OF_BOUNDS),
    ],
)
def test_check_refuses_content_of_each_codec(
    tmp_path: Path, codec: str, name: str, values: list[float], dtype: str, reason: Reason
) -> None:
    delta = make_delta(tmp_path, seed=7, codec=codec)
    assert reason_of(write_values(delta.path, name, values, dtype), make_label(codec=codec)) == reason


@pytest.mark.parametrize("codec", CODECS)
def test_check_refuses_sizes_that_promise_terabytes_without_allocating_them(tmp_path: Path, codec: str) -> None:
    path = make_delta(tmp_path, seed=7, codec=codec).path
    fields, data = take_apart(path)
    last = max(codec_for(codec, SHAPES).entries.items(), key=lambda item: item[1].stop)[0]
    width = {"BF16": 2}.get(fields[last]["dtype"], 1)
    start = fields[last]["data_offsets"][0]
    fields[last].update(shape=[2**43], data_offsets=[start, start + width * 2**43])
    put_together(path, fields, data)
    tracemalloc.start()
    reason = reason_of(path, make_label(codec=codec))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert reason == Reason.MALFORMED
    assert peak_bytes < 500_000


def test_check_refuses_a_norm_above_the_bound_and_accepts_the_bound(path: Path) -> None:
    norm = check_file(path).norm
    assert check_file(path, max_norm=norm).norm == norm
    assert reason_of(path, max_norm=math.nextafter(norm, 0.0)) == Reason.NORM_OUT_OF_BOUNDS


def test_check_refuses_every_truncation(path: Path) -> None:
    content = path.read_bytes()
    header_bytes = 8 + int.from_bytes(content[:8], "little")
    for size_bytes in [*range(0, header_bytes + 40, 37), header_bytes, len(content) - 1]:
        path.write_bytes(content[:size_bytes])
        assert reason_of(path) == Reason.MALFORMED


def test_check_refuses_bytes_after_the_tensors(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")
    assert reason_of(path) == Reason.MALFORMED


def test_check_refuses_a_larger_file_before_it_reads_a_byte(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(delta_size_bytes(MODEL, "int8") + 1)
    assert reason_of(path) == Reason.TOO_LARGE


def test_check_refuses_a_header_longer_than_a_real_one(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes((len(content) - 8).to_bytes(8, "little") + content[8:])
    assert reason_of(path) == Reason.MALFORMED


def test_check_refuses_a_name_that_stands_twice(path: Path) -> None:
    fields, data = take_apart(path)
    text = json.dumps(fields, separators=(",", ":"))
    text = text[:-1] + f',"model.norm.weight":{json.dumps(fields["model.norm.weight"], separators=(",", ":"))}}}'
    content = text.encode()
    path.write_bytes(len(content).to_bytes(8, "little") + content + data)
    assert reason_of(path) == Reason.MALFORMED


@pytest.mark.parametrize("codec", ["dense", "int8", "int4", "topk-256", "ternary-640"])
def test_check_needs_no_more_memory_for_a_larger_file(tmp_path: Path, codec: str) -> None:
    model = PRESETS["m4"]
    label = make_label(codec=codec)
    zeros = {name: np.zeros(shape, np.float32) for name, shape in parameter_shapes(model).items()}
    encode(zeros, label=label, tokens=100, path=tmp_path / "delta")
    tracemalloc.start()
    check(tmp_path / "delta", model=model, label=label, token_budget=BUDGET, max_norm=MAX_NORM)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (tmp_path / "delta").stat().st_size > 2_000_000
    assert peak_bytes < 6_000_000


def largest_step(inner: InnerConfig, gradients: list[float]) -> float:
    """Distance that AdamW carries a parameter which saw these gradients."""
    parameter = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.AdamW(
        [parameter], lr=inner.learning_rate, betas=(inner.beta1, inner.beta2), eps=0, weight_decay=0
    )
    for gradient in gradients:
        parameter.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
    return abs(float(parameter.detach()))


@settings(max_examples=100, deadline=None)
@given(gradients=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=30), beta2=st.sampled_from([0.95, 0.999]))
def test_no_gradients_carry_adamw_beyond_the_norm_bound(gradients: list[float], beta2: float) -> None:
    inner = InnerConfig(beta2=beta2, batch_tokens=16)
    bound = norm_bound(model=MODEL, inner=inner, codec="int8", tokens=16 * len(gradients))
    assert largest_step(inner, gradients) * math.sqrt(MODEL.num_parameters) <= bound


def test_the_norm_bound_holds_for_the_worst_gradients() -> None:
    # Cauchy-Schwarz is an equality where gradients grow by beta2 / beta1 from step to step.
    inner = InnerConfig(batch_tokens=16)
    gradients = [(inner.beta1 / inner.beta2) ** -step for step in range(100)]
    distance = largest_step(inner, gradients) - largest_step(inner, gradients[:-1])
    longest = norm_bound(model=MODEL, inner=inner, codec="int8", tokens=1) / math.sqrt(MODEL.num_parameters) / 2
    assert 0.99 * longest < distance <= longest


def test_the_norm_bound_counts_steps_of_whole_rows() -> None:
    bound_of = functools.partial(norm_bound, model=MODEL, codec="int8")
    one_step = bound_of(inner=InnerConfig(batch_tokens=16), tokens=16)
    assert bound_of(inner=InnerConfig(batch_tokens=40), tokens=32) == one_step
    assert bound_of(inner=InnerConfig(batch_tokens=40), tokens=64) == 2 * one_step
    assert bound_of(inner=InnerConfig(batch_tokens=40), tokens=48) == 2 * one_step
    assert bound_of(inner=InnerConfig(batch_tokens=3), tokens=16) == one_step


def test_there_is_no_norm_bound_where_adam_has_none() -> None:
    assert norm_bound(model=MODEL, inner=InnerConfig(beta1=0.99, beta2=0.9), codec="int8", tokens=10) == math.inf
    assert norm_bound(model=MODEL, inner=InnerConfig(beta1=0.0, beta2=0.0), codec="int8", tokens=10) == math.inf


def test_the_norm_bound_leaves_room_for_errors_that_are_fed_back() -> None:
    bound_of = functools.partial(norm_bound, model=MODEL, inner=InnerConfig(), tokens=16)
    assert bound_of(codec="topk-64") == bound_of(codec="ternary-640") == pytest.approx(20 * bound_of(codec="dense"))
    # Of deltas that all point the same way, none of which is ever sent, the next one holds what is left.
    error = 0.0
    for _ in range(200):
        error = 0.95 * error + bound_of(codec="dense")
        assert error <= bound_of(codec="topk-64")


@pytest.mark.parametrize(("num_moved", "num_rounds"), [(1, 2_500), (64, 200), (1_024, 200), (4_096, 200)])
@pytest.mark.parametrize("codec", [codec for codec in CODECS if "ternary" in codec])
def test_errors_without_decay_stay_within_the_headroom(codec: str, num_moved: int, num_rounds: int) -> None:
    shapes = {"x": (4_096,)}
    delta_N = np.zeros(4_096, np.float32)
    delta_N[:num_moved] = np.random.default_rng(0).choice([-1, 1], num_moved)
    error_N, norms = np.zeros(4_096, np.float32), []
    for _ in range(num_rounds):
        error_N += delta_N
        norms.append(float(np.linalg.norm(error_N)) / math.sqrt(4_096))
        error_N -= sent_of(codec_for(codec, shapes), error_N)
    assert max(norms) < 6 < ERROR_HEADROOM
    # It has stopped growing.
    assert max(norms[-num_rounds // 4 :]) < 1.05 * max(norms[: num_rounds * 3 // 4])


def sent_of(codec: Codec, values_N: Floats) -> Floats:
    content = bytearray(b"".join(piece.tobytes() for piece in codec.encode({"x": values_N})))
    return codec.decode(make_source(codec, content), "x", 0, len(values_N)).densified(len(values_N))


def test_muon_stays_below_the_norm_bound() -> None:
    inner = InnerConfig(optimizer="muon", weight_decay=0.0)
    matrix = torch.nn.Parameter(torch.zeros(48, 128))
    optimizer = torch.optim.Muon([matrix], lr=inner.learning_rate, weight_decay=0, adjust_lr_fn="match_rms_adamw")
    matrix.grad = torch.randn(48, 128, generator=torch.Generator().manual_seed(0))
    optimizer.step()
    longest = norm_bound(model=MODEL, inner=inner, codec="int8", tokens=1) / 2
    assert float(matrix.detach().norm()) / math.sqrt(48 * 128) < longest / math.sqrt(MODEL.num_parameters)
