"""Means of deltas against the same worked out on whole arrays in float64."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml import merging
from ml.codec import open_delta
from ml.config import CODECS
from ml.delta_sums import Summand, mean_span
from ml.layout import model_layout
from ml.spans import spans
from tests.ml.make_deltas import SHAPES, make_delta
from tests.ml.make_merges import FEDAVG, decoded, run_merge, sent, steps


@settings(max_examples=25, deadline=None)
@given(codecs=st.lists(st.sampled_from(CODECS), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_each_coordinate_is_the_mean_of_those_that_sent_it(
    tmp_path_factory: pytest.TempPathFactory, codecs: list[str], seed: int
) -> None:
    folder = tmp_path_factory.mktemp("mean")
    rng = np.random.default_rng(seed)
    deltas = [
        make_delta(folder, seed=seed, codec=codec, weight=float(rng.uniform(0.1, 5)), scale=1e-3 * (1 + seed))
        for seed, codec in enumerate(codecs)
    ]
    factors = run_merge(folder, deltas).weighing.factors
    total, moved = sum(delta.weight for delta in deltas), steps(folder)
    for name in SHAPES:
        top, bottom = np.zeros(SHAPES[name]), np.zeros(SHAPES[name])
        for delta, factor in zip(merging.in_order(deltas), factors, strict=True):
            top += factor * decoded(delta)[name].astype(np.float64)
            bottom += delta.weight / total * sent(delta)[name]
        mean = np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)
        np.testing.assert_allclose(moved[name], mean, rtol=0, atol=1e-6)


def test_a_coordinate_that_one_sparse_delta_sent_is_moved_by_all_of_it(tmp_path: Path) -> None:
    deltas = [make_delta(tmp_path, seed=seed, codec="topk-64") for seed in range(2)]
    run_merge(tmp_path, deltas)
    name = "model.embed_tokens.weight"
    first, second = (sent(delta)[name] > 0 for delta in deltas)
    moved, values = steps(tmp_path)[name], [decoded(delta)[name] for delta in deltas]
    np.testing.assert_allclose(moved[first & ~second], values[0][first & ~second], atol=2e-7)
    np.testing.assert_allclose(moved[second & ~first], values[1][second & ~first], atol=2e-7)
    assert (first & ~second).any()
    assert not moved[~first & ~second].any()


@pytest.mark.parametrize("codecs", [("topk-64", "ternary-512"), ("topk-64", "int8"), ("int4", "dense", "topk-256")])
def test_the_mean_of_all_counts_what_was_not_sent_as_zero(tmp_path: Path, codecs: tuple[str, ...]) -> None:
    deltas = [make_delta(tmp_path, seed=seed, codec=codec, weight=1.0 + seed) for seed, codec in enumerate(codecs)]
    weighing = run_merge(tmp_path, deltas, outer=dataclasses.replace(FEDAVG, mean="all")).weighing
    moved = steps(tmp_path)
    for name in SHAPES:
        values = np.array([decoded(delta)[name] for delta in merging.in_order(deltas)], np.float64)
        np.testing.assert_allclose(moved[name], np.tensordot(weighing.factors, values, axes=1), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("num_deltas", "trim_share", "num_trimmed"), [(2, 0.25, 0), (5, 0.1, 1), (8, 0.25, 1), (8, 0.6, 2), (3, 0.99, 1)]
)
@pytest.mark.parametrize("codec", ["dense", "topk-256"])
def test_the_trimmed_mean_leaves_out_what_is_largest_and_smallest(
    tmp_path: Path, codec: str, num_deltas: int, trim_share: float, num_trimmed: int
) -> None:
    deltas = [make_delta(tmp_path, seed=seed, codec=codec, weight=1.0 + seed) for seed in range(num_deltas)]
    outer = dataclasses.replace(FEDAVG, rule="trimmed_mean", trim_share=trim_share)
    weighing = run_merge(tmp_path, deltas, outer=outer).weighing
    shares, kept = np.array(weighing.shares), np.array(weighing.factors) / np.array(weighing.shares)
    moved = steps(tmp_path)
    for name in SHAPES:
        values = np.array([decoded(delta)[name] for delta in merging.in_order(deltas)], np.float64)
        values *= kept.reshape(-1, *[1] * (values.ndim - 1))
        order = np.argsort(values, axis=0, kind="stable")[num_trimmed : num_deltas - num_trimmed]
        inside = np.take_along_axis(values, order, axis=0)
        expected = (inside * shares[order]).sum(axis=0) / shares[order].sum(axis=0)
        np.testing.assert_allclose(moved[name], expected, rtol=0, atol=1e-6)


def test_an_odd_number_of_dense_values_is_summed_whole(tmp_path: Path) -> None:

    shapes = {"a": (5,), "b": (4_097,), "c": (3, 3)}
    rng = np.random.default_rng(0)
    tensors = {name: rng.integers(-9, 9, shape).astype(np.float32) for name, shape in shapes.items()}
    delta = make_delta(tmp_path, tensors=tensors, codec="dense")
    reader = open_delta(delta.path, shapes=shapes)
    summands = [Summand(reader, np.float32(0.5), np.float32(factor)) for factor in (0.5, 0.25)]
    whole = np.concatenate([tensors[name].reshape(-1) for name in shapes])
    for span in spans(model_layout(shapes), max_values=4_096):
        found = mean_span(summands, span, over_senders=False)
        np.testing.assert_array_equal(found, 0.75 * whole[span.start : span.stop])
