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

from ml.codec import DeltaLabel, encode, open_delta
from ml.config import PRESETS, InnerConfig
from ml.delta_file import DeltaFacts, DeltaInvalid, check, measure_norm, norm_bound
from ml.layout import delta_layouts, delta_size_bytes, parameter_shapes
from ml.protocol import Reason
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


@pytest.mark.parametrize("codec", ["dense", "int8"])
def test_check_accepts_what_encode_wrote_and_measures_it(tmp_path: Path, codec: str) -> None:
    delta = make_delta(tmp_path, seed=7, codec=codec)
    facts = check_file(delta.path, make_label(codec=codec))
    assert facts.tokens == 100
    assert facts.size_bytes == delta.path.stat().st_size
    sent = [np.square(values, dtype=np.float64).sum() for values in make_tensors(seed=7).values()]
    assert facts.norm == pytest.approx(math.sqrt(sum(sent)), rel=1e-2)
    decoded = open_delta(delta.path, layouts=delta_layouts(SHAPES))
    squares = [np.square(decoded.tensor(name), dtype=np.float64).sum() for name in SHAPES]
    assert facts.norm == pytest.approx(math.sqrt(sum(squares)), rel=1e-12)
    assert measure_norm(decoded) == facts.norm


def test_a_delta_of_zeros_is_accepted(path: Path) -> None:
    zeros = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    encode(zeros, label=make_label(), tokens=100, path=path)
    assert check_file(path, max_norm=0.0).norm == 0.0


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("protocol", "2", Reason.WRONG_METADATA),
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


def verdict_on(path: Path) -> DeltaFacts | DeltaInvalid:
    try:
        return check_file(path)
    except DeltaInvalid as error:
        return error


@functools.cache
def real_content(path: Path) -> bytes:
    encode(make_tensors(), label=make_label(), tokens=100, path=path)
    return path.read_bytes()


@settings(max_examples=1_500, deadline=None)
@given(data=st.data())
def test_no_mutation_of_a_real_file_gets_anything_but_a_verdict(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "mutated"
    content = bytearray(real_content(path))
    header_bytes = 8 + int.from_bytes(content[:8], "little")
    end = data.draw(st.sampled_from([8, header_bytes, len(content)]))
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, min(end, len(content)) - 1))
        piece = data.draw(st.binary(max_size=4) | st.sampled_from([b'"', b"[", b"{", b"1e999", b"NaN", b"-1", b"}"]))
        length = data.draw(st.sampled_from([len(piece), 0, 1]))
        content[position : position + length] = piece
    path.write_bytes(content)
    verdict = verdict_on(path)
    if isinstance(verdict, DeltaFacts):
        assert verdict.norm <= MAX_NORM
        assert 0 < verdict.tokens <= BUDGET
    else:
        assert verdict.detail.isprintable()


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=8), children, max_size=3),
)
fields_of = st.sampled_from([NAME, SCALE, "__metadata__", "model.norm.weight"])
keys_of = st.sampled_from(["dtype", "shape", "data_offsets", "tokens", "x"])


@settings(max_examples=1_500, deadline=None)
@given(field=fields_of, key=keys_of, value=json_values, whole=st.booleans())
def test_no_json_in_the_header_gets_anything_but_a_verdict(
    tmp_path_factory: pytest.TempPathFactory, field: str, key: str, value: Any, whole: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "header"
    path.write_bytes(real_content(path))
    verdict = verdict_on(change(path, lambda fields: (fields if whole else fields[field]).update({key: value})))
    # No value that hypothesis draws here is the one that stands in a real file.
    assert isinstance(verdict, DeltaInvalid)
    assert verdict.detail.isprintable()


def test_check_needs_no_more_memory_for_a_larger_file(tmp_path: Path) -> None:
    model = PRESETS["m4"]
    label = make_label()
    path = tmp_path / "delta"
    encode(
        {name: np.zeros(shape, np.float32) for name, shape in parameter_shapes(model).items()},
        label=label,
        tokens=100,
        path=path,
    )
    tracemalloc.start()
    check(path, model=model, label=label, token_budget=BUDGET, max_norm=MAX_NORM)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert path.stat().st_size > 19_000_000
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
    bound = norm_bound(model=MODEL, inner=inner, tokens=16 * len(gradients))
    assert largest_step(inner, gradients) * math.sqrt(MODEL.num_parameters) <= bound


def test_the_norm_bound_holds_for_the_worst_gradients() -> None:
    # Cauchy-Schwarz is an equality where gradients grow by beta2 / beta1 from step to step.
    inner = InnerConfig(batch_tokens=16)
    gradients = [(inner.beta1 / inner.beta2) ** -step for step in range(100)]
    distance = largest_step(inner, gradients) - largest_step(inner, gradients[:-1])
    longest = norm_bound(model=MODEL, inner=inner, tokens=1) / math.sqrt(MODEL.num_parameters) / 2
    assert 0.99 * longest < distance <= longest


def test_the_norm_bound_counts_steps_of_whole_rows() -> None:
    bound_of = functools.partial(norm_bound, model=MODEL)
    one_step = bound_of(inner=InnerConfig(batch_tokens=16), tokens=16)
    assert bound_of(inner=InnerConfig(batch_tokens=40), tokens=32) == one_step
    assert bound_of(inner=InnerConfig(batch_tokens=40), tokens=64) == 2 * one_step
    assert bound_of(inner=InnerConfig(batch_tokens=40), tokens=48) == 2 * one_step
    assert bound_of(inner=InnerConfig(batch_tokens=3), tokens=16) == one_step


def test_there_is_no_norm_bound_where_adam_has_none() -> None:
    assert norm_bound(model=MODEL, inner=InnerConfig(beta1=0.99, beta2=0.9), tokens=10) == math.inf
    assert norm_bound(model=MODEL, inner=InnerConfig(beta1=0.0, beta2=0.0), tokens=10) == math.inf
