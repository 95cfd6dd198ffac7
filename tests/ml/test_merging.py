import dataclasses
import hashlib
import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file

from ml import merging, threads
from ml.codec import encode
from ml.codecs.base import BLOCK_VALUES
from ml.config import CODECS, RULES, STEP_CODECS, OuterConfig
from ml.files import sha256_file
from ml.merging import MergeInvalid, StepNotFinite
from ml.tensor_file import TensorFileInvalid
from ml.weighing import WeightedDelta
from tests.ml.make_deltas import SHAPES, make_delta, make_label, make_tensors, make_weights_file
from tests.ml.make_merges import (
    FEDAVG,
    decoded,
    load_state,
    make_state_file,
    make_weighted,
    run_merge,
    run_two_merges,
    steps,
)


def test_one_delta_at_learning_rate_one_lands_exactly_on_the_devices_weights(tmp_path: Path) -> None:
    base = make_tensors(seed=99, scale=1.0)
    rng = np.random.default_rng(1)
    # Multiples of 2**-12 below 127 * 2**-12 are exact in int8, whose scale is then 2**-12, and in float32 near 1.
    base = {name: np.round(values * 2**12) / np.float32(2**12) for name, values in base.items()}
    delta = {name: rng.integers(-126, 127, shape).astype(np.float32) * 2**-12 for name, shape in SHAPES.items()}
    for values in delta.values():
        values.reshape(-1)[::4096] = 127 * 2**-12
    make_weights_file(tmp_path / "base", base)
    run_merge(tmp_path, [make_delta(tmp_path, tensors=delta)])
    result = load_file(tmp_path / "result")
    for name in SHAPES:
        np.testing.assert_array_equal(result[name], base[name] - delta[name])


@pytest.mark.parametrize(("codec", "tolerance"), [("dense", 2**-8), ("int8", 0.51 / 127)])
def test_one_delta_lands_on_the_devices_weights_up_to_the_codecs_error(
    tmp_path: Path, codec: str, tolerance: float
) -> None:
    base, delta = make_tensors(seed=99, scale=1.0), make_tensors(seed=1)
    run_merge(tmp_path, [make_delta(tmp_path, tensors=delta, codec=codec)])
    result = load_file(tmp_path / "result")
    for name in SHAPES:
        largest = np.abs(delta[name]).max()
        np.testing.assert_allclose(result[name], base[name] - delta[name], atol=tolerance * largest + 1e-6, rtol=0)


def test_merge_is_one_outer_step_over_the_weighted_mean(tmp_path: Path) -> None:
    deltas = [make_delta(tmp_path, seed=seed, weight=weight) for seed, weight in [(1, 100.0), (2, 300.0)]]
    outer = OuterConfig(learning_rate=0.7, momentum=0.9, nesterov=True, step_codec="none")
    momentum = make_state_file(tmp_path / "momentum", make_tensors(seed=5))
    run_merge(tmp_path, deltas, outer=outer, state=momentum)
    result, state = load_file(tmp_path / "result"), load_state(tmp_path / "state")
    base, old = make_tensors(seed=99, scale=1.0), make_tensors(seed=5)
    first, second = (decoded(delta) for delta in deltas)
    for name in SHAPES:
        mean = 0.25 * first[name].astype(np.float64) + 0.75 * second[name]
        expected = 0.9 * old[name] + mean
        np.testing.assert_allclose(state[name], expected, atol=1e-8)
        np.testing.assert_allclose(result[name], base[name] - 0.7 * (mean + 0.9 * expected), atol=1e-6)


def test_the_momentum_of_one_merge_carries_into_the_next(tmp_path: Path) -> None:
    deltas = [make_delta(tmp_path, seed=1)]
    run_two_merges(tmp_path, deltas, outer=OuterConfig())
    first, second = load_state(tmp_path / "state-1"), load_state(tmp_path / "state")
    for name in SHAPES:
        np.testing.assert_allclose(second[name], 1.9 * first[name], rtol=1e-5, atol=1e-12)


def test_a_delayed_momentum_waits_in_the_state(tmp_path: Path) -> None:
    delta, state = make_delta(tmp_path), None
    outer = OuterConfig(delay=3, learning_rate=1.0, step_codec="none")
    for number in range(3):
        run_merge(tmp_path, [delta], outer=outer, state=state)
        state = (tmp_path / "state").rename(tmp_path / f"state-{number}")
        (tmp_path / "result").rename(tmp_path / f"result-{number}")
    values, base = decoded(delta), make_tensors(seed=99, scale=1.0)
    first, last = load_file(tmp_path / "result-0"), load_file(tmp_path / "result-2")
    for name in SHAPES:
        np.testing.assert_allclose(base[name] - first[name], values[name] / 3, atol=3e-7)
        np.testing.assert_allclose(base[name] - last[name], (1 / 3 + 0.9) * values[name], atol=3e-7)
        np.testing.assert_allclose(load_state(tmp_path / "state-0", "pending/")[name], values[name] / 3, rtol=1e-6)
        np.testing.assert_allclose(load_state(tmp_path / "state-2")[name], values[name], rtol=1e-5, atol=1e-9)
        assert not load_state(tmp_path / "state-0")[name].any()
        assert not load_state(tmp_path / "state-2", "pending/")[name].any()


def test_a_delay_may_begin_and_end_within_an_experiment(tmp_path: Path) -> None:
    delta, state = make_delta(tmp_path), None
    for number, delay in enumerate([1, 2, 1]):
        run_merge(tmp_path, [delta], outer=OuterConfig(delay=delay), state=state)
        state = (tmp_path / "state").rename(tmp_path / f"state-{number}")
    assert state is not None
    with safe_open(state, framework="np") as file:
        assert file.metadata()["merges"] == "3"
        assert len(file.keys()) == len(SHAPES)


def test_the_outer_learning_rate_follows_the_progress(tmp_path: Path) -> None:
    outer = dataclasses.replace(FEDAVG, schedule="linear", min_learning_rate_ratio=0.0)
    delta = make_delta(tmp_path)
    run_merge(tmp_path, [delta], outer=outer, progress=0.75)
    for name, values in decoded(delta).items():
        np.testing.assert_allclose(steps(tmp_path)[name], values / 4, atol=2e-7)


def test_merge_names_its_files_and_keeps_the_bases_metadata(tmp_path: Path) -> None:
    result = run_merge(tmp_path, [make_delta(tmp_path)])
    assert result.sha256 == hashlib.sha256((tmp_path / "result").read_bytes()).hexdigest()
    assert result.state_sha256 == hashlib.sha256((tmp_path / "state").read_bytes()).hexdigest()
    assert b'"__metadata__":{"model":"small"}' in (tmp_path / "result").read_bytes()[:100]


@settings(max_examples=15, deadline=None)
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
    assert run_merge(folder, arrived, outer=OuterConfig()) == run_merge(folder, deltas, outer=OuterConfig())


def test_the_order_of_the_sum_matters_so_that_sorting_is_needed(tmp_path: Path) -> None:
    values = [decoded(make_delta(tmp_path, seed=seed))["model.embed_tokens.weight"] for seed in range(5)]
    assert not np.array_equal(sum(values), sum(reversed(values)))


def test_only_ratios_of_weights_matter(tmp_path: Path) -> None:
    deltas = [make_delta(tmp_path, seed=seed, weight=seed + 1.0) for seed in range(3)]
    doubled = [dataclasses.replace(delta, weight=2 * delta.weight) for delta in deltas]
    assert run_merge(tmp_path, deltas) == run_merge(tmp_path, doubled)


def test_a_diverged_device_is_shortened_to_the_median_norm(tmp_path: Path) -> None:
    honest = [make_delta(tmp_path, seed=seed) for seed in range(3)]
    diverged = make_delta(tmp_path, seed=3, scale=1.0)
    result = run_merge(tmp_path, [*honest, diverged])
    assert result.weighing.clip is not None
    assert result.weighing.clip.norm == pytest.approx(honest[0].norm, rel=0.05)
    step = math.sqrt(sum(np.square(values, dtype=np.float64).sum() for values in steps(tmp_path).values()))
    assert step < honest[0].norm
    assert step < diverged.norm / 500


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
        run_merge(tmp_path, deltas)
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_merge_refuses_the_delta_of_another_model_and_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "other"
    sha256 = encode({"w": np.ones(3, np.float32)}, label=make_label(), tokens=1, path=path)
    other = dataclasses.replace(make_weighted(1.0), path=path, sha256=sha256)
    with pytest.raises(TensorFileInvalid, match="no delta of this model"):
        run_merge(tmp_path, [other])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "other"]


def test_merge_refuses_the_outer_state_of_another_model(tmp_path: Path) -> None:
    state = make_state_file(tmp_path / "other-state", {"w": np.ones(3, np.float32)})
    with pytest.raises(MergeInvalid, match="no outer state"):
        run_merge(tmp_path, [make_delta(tmp_path)], state=state)


def test_merge_refuses_a_base_that_is_not_float32(tmp_path: Path) -> None:
    delta = make_delta(tmp_path, codec="dense")
    (tmp_path / "base").write_bytes(delta.path.read_bytes())
    with pytest.raises(TensorFileInvalid, match="not in float32"):
        run_merge(tmp_path, [delta])


@pytest.mark.parametrize("metadata", [{}, {"merges": "x", "trust": "[]"}, {"merges": "1", "trust": '[{"sender":1}]'}])
def test_merge_refuses_an_outer_state_whose_metadata_is_wrong(tmp_path: Path, metadata: dict[str, str]) -> None:
    tensors = {f"momentum/{name}": values for name, values in make_tensors().items()}
    state = make_weights_file(tmp_path / "wrong-state", tensors, metadata=metadata)
    with pytest.raises(MergeInvalid, match="metadata of the outer state"):
        run_merge(tmp_path, [make_delta(tmp_path)], state=state)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("codec", CODECS)
def test_order_and_threads_leave_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: str, codec: str
) -> None:
    deltas = [make_delta(tmp_path, seed=seed, codec=codec, weight=1.0 + seed) for seed in range(4)]
    outer = OuterConfig(rule=rule)
    weighing, results = run_two_merges(tmp_path, deltas, outer=outer).weighing, []
    for num_threads, span_blocks, arrived in [(1, 1, deltas), (2, 2, deltas[::-1]), (7, 32, deltas)]:
        monkeypatch.setattr(threads, "num_threads", lambda number=num_threads: number)
        monkeypatch.setattr(merging, "SPAN_VALUES", span_blocks * BLOCK_VALUES)
        state = tmp_path / "state-1"
        results.append(run_merge(tmp_path, arrived, outer=outer, state=state, weighing=weighing))
    assert results[0] == results[1] == results[2]


def test_a_recorded_weighing_is_repeated(tmp_path: Path) -> None:
    deltas = [make_delta(tmp_path, seed=seed) for seed in range(3)]
    found = run_merge(tmp_path, deltas)
    whole = steps(tmp_path)
    halved = dataclasses.replace(found.weighing, factors=tuple(factor / 2 for factor in found.weighing.factors))
    assert run_merge(tmp_path, deltas, weighing=found.weighing) == found
    assert run_merge(tmp_path, deltas, weighing=halved).weighing == halved
    for name, values in steps(tmp_path).items():
        np.testing.assert_allclose(values, whole[name] / 2, atol=4e-7)


def test_merge_refuses_the_weighing_of_other_deltas(tmp_path: Path) -> None:
    deltas = [make_delta(tmp_path, seed=seed) for seed in range(3)]
    with pytest.raises(MergeInvalid, match="3 deltas were weighed as 2"):
        run_merge(tmp_path, deltas, weighing=run_merge(tmp_path, deltas[:2]).weighing)


@pytest.mark.parametrize("codec", STEP_CODECS)
def test_the_step_costs_no_more_than_its_codecs_error(tmp_path: Path, codec: str) -> None:
    deltas = [make_delta(tmp_path, seed=seed) for seed in range(3)]
    run_merge(tmp_path, deltas)
    exact = steps(tmp_path)
    result = run_merge(tmp_path, deltas, outer=dataclasses.replace(FEDAVG, step_codec=codec))
    assert (result.step_sha256 is not None) == (tmp_path / "step").exists() == (codec != "none")
    error = {"none": 0, "dense": 2**-8, "int8": 0.5 / 127, "int4": 0.5 / 7}[codec]
    for name, values in steps(tmp_path).items():
        np.testing.assert_allclose(values, exact[name], rtol=0, atol=1.01 * error * np.abs(exact[name]).max() + 3e-7)


def test_the_result_does_not_depend_on_whether_the_step_is_kept(tmp_path: Path) -> None:
    deltas = [make_delta(tmp_path, seed=seed) for seed in range(3)]
    kept = run_merge(tmp_path, deltas, outer=OuterConfig())
    again = merging.merge(
        base_path=tmp_path / "base",
        base_sha256=sha256_file(tmp_path / "base"),
        deltas=deltas,
        outer=OuterConfig(),
        progress=0.0,
        outer_state_path=None,
        result_path=tmp_path / "again",
        result_state_path=tmp_path / "again-state",
        step_path=None,
    )
    assert again == kept
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


@pytest.mark.parametrize("codec", STEP_CODECS)
def test_a_step_that_is_not_finite_does_not_travel(tmp_path: Path, codec: str) -> None:
    delta = make_delta(tmp_path, codec="dense", scale=3.0)
    outer = OuterConfig(learning_rate=3e38, step_codec=codec)
    if codec == "none":
        run_merge(tmp_path, [delta], outer=outer)
        assert not np.isfinite(load_file(tmp_path / "result")["model.norm.weight"]).all()
        return
    with pytest.raises(StepNotFinite, match="the outer step at model"):
        run_merge(tmp_path, [delta], outer=outer)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", delta.path.name]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("num_deltas", [1, 16])
def test_memory_depends_neither_on_the_model_nor_on_the_deltas(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_deltas: int, rule: str
) -> None:
    monkeypatch.setattr(threads, "MAX_THREADS", 2)
    tensors = {"w": np.ones((16, merging.SPAN_VALUES), np.float32)}
    make_weights_file(tmp_path / "base", tensors)
    delta = make_delta(tmp_path, tensors=tensors)
    deltas = [dataclasses.replace(delta, attempt_id=index, sender=index) for index in range(num_deltas)]
    state = make_state_file(tmp_path / "momentum", tensors)
    tracemalloc.start()
    run_merge(tmp_path, deltas, outer=OuterConfig(rule=rule), state=state)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Side by side lie values in float32 or float64, and what sorts them in 64 bits.
    stacked_bytes = 0 if rule == "clipped_mean" else 16 * merging.STACK_VALUES
    assert peak_bytes < 2 * (9 * 4 * merging.SPAN_VALUES + stacked_bytes)
    assert (tmp_path / "base").stat().st_size > 16 * 4 * merging.SPAN_VALUES
