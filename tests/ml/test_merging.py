import dataclasses
import hashlib
import math
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from ml.codec import CHUNK_VALUES, Floats, encode, open_delta
from ml.config import OuterConfig
from ml.layout import delta_layouts
from ml.merging import Clip, MergeInvalid, MergeResult, WeightedDelta, final_weights, find_clip, merge
from ml.tensor_file import TensorFileInvalid
from tests.ml.make_deltas import SHAPES, make_delta, make_label, make_tensors, make_weights_file

FEDAVG = OuterConfig(learning_rate=1.0, momentum=0.0)


def run(
    folder: Path, deltas: Sequence[WeightedDelta], *, outer: OuterConfig = FEDAVG, state: Path | None = None
) -> MergeResult:
    base = folder / "base"
    if not base.exists():
        make_weights_file(base, make_tensors(seed=99, scale=1.0))
    return merge(
        base_path=base,
        deltas=deltas,
        outer=outer,
        outer_state_path=state,
        result_path=folder / "result",
        result_state_path=folder / "state",
    )


def decoded(delta: WeightedDelta) -> dict[str, Floats]:
    reader = open_delta(delta.path, layouts=delta_layouts(SHAPES))
    return {name: reader.tensor(name) for name in SHAPES}


def make_weighted(norm: float, *, weight: float = 1.0, tokens: int = 100) -> WeightedDelta:
    return WeightedDelta(path=Path("delta"), attempt_id=1, sha256="ab", tokens=tokens, weight=weight, norm=norm)


def test_one_delta_at_learning_rate_one_lands_exactly_on_the_devices_weights(tmp_path: Path) -> None:
    base = make_tensors(seed=99, scale=1.0)
    rng = np.random.default_rng(1)
    # Multiples of 2**-12 below 127 * 2**-12 are exact in int8, whose scale is then 2**-12, and in float32 near 1.
    base = {name: np.round(values * 2**12) / np.float32(2**12) for name, values in base.items()}
    delta = {name: rng.integers(-126, 127, shape).astype(np.float32) * 2**-12 for name, shape in SHAPES.items()}
    for values in delta.values():
        values.reshape(-1)[::4096] = 127 * 2**-12
    make_weights_file(tmp_path / "base", base)
    run(tmp_path, [make_delta(tmp_path, tensors=delta)])
    result = load_file(tmp_path / "result")
    for name in SHAPES:
        np.testing.assert_array_equal(result[name], base[name] - delta[name])


@pytest.mark.parametrize(("codec", "tolerance"), [("dense", 2**-8), ("int8", 0.51 / 127)])
def test_one_delta_lands_on_the_devices_weights_up_to_the_codecs_error(
    tmp_path: Path, codec: str, tolerance: float
) -> None:
    base, delta = make_tensors(seed=99, scale=1.0), make_tensors(seed=1)
    run(tmp_path, [make_delta(tmp_path, tensors=delta, codec=codec)])
    result = load_file(tmp_path / "result")
    for name in SHAPES:
        largest = np.abs(delta[name]).max()
        np.testing.assert_allclose(result[name], base[name] - delta[name], atol=tolerance * largest + 1e-6, rtol=0)


def test_merge_is_one_outer_step_over_the_weighted_mean(tmp_path: Path) -> None:
    deltas = [make_delta(tmp_path, seed=seed, weight=weight) for seed, weight in [(1, 100.0), (2, 300.0)]]
    outer = OuterConfig(learning_rate=0.7, momentum=0.9, nesterov=True)
    momentum = make_weights_file(tmp_path / "momentum", make_tensors(seed=5))
    run(tmp_path, deltas, outer=outer, state=momentum)
    result, state = load_file(tmp_path / "result"), load_file(tmp_path / "state")
    base, old = make_tensors(seed=99, scale=1.0), make_tensors(seed=5)
    first, second = (decoded(delta) for delta in deltas)
    for name in SHAPES:
        mean = 0.25 * first[name].astype(np.float64) + 0.75 * second[name]
        expected = 0.9 * old[name] + mean
        np.testing.assert_allclose(state[name], expected, atol=1e-8)
        np.testing.assert_allclose(result[name], base[name] - 0.7 * (mean + 0.9 * expected), atol=1e-6)


def test_the_momentum_of_one_merge_carries_into_the_next(tmp_path: Path) -> None:
    deltas = [make_delta(tmp_path, seed=1)]
    run(tmp_path, deltas, outer=OuterConfig())
    first = load_file(tmp_path / "state")
    state = (tmp_path / "state").rename(tmp_path / "state-1")
    run(tmp_path, deltas, outer=OuterConfig(), state=state)
    second = load_file(tmp_path / "state")
    for name in SHAPES:
        np.testing.assert_allclose(second[name], 1.9 * first[name], rtol=1e-5, atol=1e-12)


def test_merge_names_its_files_and_keeps_the_bases_metadata(tmp_path: Path) -> None:
    result = run(tmp_path, [make_delta(tmp_path)])
    assert result.sha256 == hashlib.sha256((tmp_path / "result").read_bytes()).hexdigest()
    assert result.state_sha256 == hashlib.sha256((tmp_path / "state").read_bytes()).hexdigest()
    assert b'"__metadata__":{"model":"small"}' in (tmp_path / "result").read_bytes()[:100]


@settings(max_examples=30, deadline=None)
@given(order=st.permutations(range(6)))
def test_any_arrival_order_gives_the_same_bytes(tmp_path_factory: pytest.TempPathFactory, order: list[int]) -> None:
    folder = tmp_path_factory.getbasetemp() / "orders"
    folder.mkdir(exist_ok=True)
    deltas = [
        make_delta(folder, seed=seed, codec=codec, weight=weight, scale=scale)
        for seed, codec, weight, scale in [
            (0, "int8", 1.0, 1e-3),
            (1, "int8", 3.0, 1e-2),
            (2, "dense", 0.7, 1e-3),
            (3, "dense", 1e-3, 1.0),
            (4, "int8", 1e6, 1e-4),
        ]
    ]
    deltas.append(dataclasses.replace(deltas[0], weight=2.0))
    arrived = [deltas[index] for index in order]
    assert run(folder, arrived, outer=OuterConfig()) == run(folder, deltas, outer=OuterConfig())


def test_the_order_of_the_sum_matters_so_that_sorting_is_needed(tmp_path: Path) -> None:
    values = [decoded(make_delta(tmp_path, seed=seed))["model.embed_tokens.weight"] for seed in range(5)]
    assert not np.array_equal(sum(values), sum(reversed(values)))


def test_only_ratios_of_weights_matter(tmp_path: Path) -> None:
    deltas = [make_delta(tmp_path, seed=seed, weight=seed + 1.0) for seed in range(3)]
    doubled = [dataclasses.replace(delta, weight=2 * delta.weight) for delta in deltas]
    assert run(tmp_path, deltas) == run(tmp_path, doubled)


def test_a_diverged_device_is_shortened_to_the_median_norm(tmp_path: Path) -> None:
    honest = [make_delta(tmp_path, seed=seed) for seed in range(3)]
    diverged = make_delta(tmp_path, seed=3, scale=1.0)
    result = run(tmp_path, [*honest, diverged])
    assert result.clip is not None
    assert result.clip.norm == pytest.approx(honest[0].norm, rel=0.05)
    weights, base = load_file(tmp_path / "result"), make_tensors(seed=99, scale=1.0)
    step = math.sqrt(sum(np.square(base[name] - weights[name], dtype=np.float64).sum() for name in SHAPES))
    assert step < honest[0].norm
    assert step < diverged.norm / 500


def test_a_fast_device_with_a_longer_job_keeps_its_full_weight(tmp_path: Path) -> None:
    slow = [make_delta(tmp_path, seed=seed) for seed in range(3)]
    fast = make_delta(tmp_path, seed=3, scale=4e-3, num_tokens=500)
    clip = find_clip([*slow, fast])
    assert fast.norm > 3 * max(delta.norm for delta in slow)
    assert final_weights([*slow, fast], clip=clip)[3] == 0.25


@pytest.mark.parametrize(
    ("norms", "expected"),
    [([1.0], None), ([1.0, 100.0], None), ([1.0, 2.0, 100.0], 2.0), ([1.0, 2.0, 4.0, 100.0], 3.0)],
)
def test_a_clip_needs_three_deltas(norms: list[float], expected: float | None) -> None:
    clip = find_clip([make_weighted(norm) for norm in norms])
    assert (clip and clip.norm) == expected


@pytest.mark.parametrize(("tokens", "limit"), [(100, 3.0), (400, 12.0), (25, 1.5)])
def test_the_limit_grows_with_the_tokens(tokens: int, limit: float) -> None:
    assert Clip(norm=3.0, tokens=100.0).limit(tokens) == limit


def test_final_weights_add_up_to_one_before_clipping() -> None:
    deltas = [make_weighted(1.0, weight=1.0), make_weighted(4.0, weight=3.0), make_weighted(0.0, weight=4.0)]
    assert final_weights(deltas, clip=None) == [0.125, 0.375, 0.5]
    assert final_weights(deltas, clip=Clip(norm=2.0, tokens=100.0)) == [0.125, 0.1875, 0.5]
    assert final_weights(deltas, clip=Clip(norm=0.0, tokens=100.0)) == [0.0, 0.0, 0.5]


@pytest.mark.parametrize(
    ("deltas", "message"),
    [
        ([], "no delta"),
        ([make_weighted(1.0, weight=0.0)], "weight"),
        ([make_weighted(1.0, weight=-1.0)], "weight"),
        ([make_weighted(1.0, weight=math.nan)], "weight"),
        ([make_weighted(1.0, weight=math.inf)], "weight"),
        ([make_weighted(1.0, tokens=0)], "tokens"),
        ([make_weighted(math.nan)], "norm"),
        ([make_weighted(-1.0)], "norm"),
    ],
)
def test_merge_refuses_weights_and_norms_that_cannot_be(
    tmp_path: Path, deltas: list[WeightedDelta], message: str
) -> None:
    with pytest.raises(MergeInvalid, match=message):
        run(tmp_path, deltas)
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_merge_refuses_the_delta_of_another_model_and_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "other"
    sha256 = encode({"w": np.ones(3, np.float32)}, label=make_label(), tokens=1, path=path)
    other = WeightedDelta(path=path, attempt_id=1, sha256=sha256, tokens=1, weight=1.0, norm=1.0)
    with pytest.raises(TensorFileInvalid, match="no delta of this model"):
        run(tmp_path, [other])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "other"]


def test_merge_refuses_the_outer_state_of_another_model(tmp_path: Path) -> None:
    state = make_weights_file(tmp_path / "other-state", {"w": np.ones(3, np.float32)})
    with pytest.raises(MergeInvalid, match="no outer state"):
        run(tmp_path, [make_delta(tmp_path)], state=state)


def test_merge_refuses_a_base_that_is_not_float32(tmp_path: Path) -> None:
    delta = make_delta(tmp_path, codec="dense")
    (tmp_path / "base").write_bytes(delta.path.read_bytes())
    with pytest.raises(TensorFileInvalid, match="not in float32"):
        run(tmp_path, [delta])


@pytest.mark.parametrize("num_deltas", [1, 8])
def test_memory_depends_neither_on_the_model_nor_on_the_deltas(tmp_path: Path, num_deltas: int) -> None:
    tensors = {"w": np.ones((8, CHUNK_VALUES), np.float32)}
    make_weights_file(tmp_path / "base", tensors)
    deltas = [make_delta(tmp_path, tensors=tensors, seed=seed) for seed in range(num_deltas)]
    tracemalloc.start()
    run(tmp_path, deltas, outer=OuterConfig())
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 12 * 4 * CHUNK_VALUES
    assert (tmp_path / "base").stat().st_size > 8 * 4 * CHUNK_VALUES
