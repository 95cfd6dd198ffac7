import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from ml.codec import DeltaReader, Floats, open_delta
from ml.config import OuterConfig
from ml.products import gram_matrix
from ml.spans import Span
from ml.trust import TRUST_DECAY, SenderTrust
from ml.weighing import Clip, Weighing, WeightedDelta, find_clip, weigh
from tests.ml.make_deltas import SHAPES, make_delta, make_tensors

CODECS = ("dense", "int8", "int4", "topk-128")


def make_weighted(norm: float, *, weight: float = 1.0, tokens: int = 100) -> WeightedDelta:
    return WeightedDelta(
        path=Path("delta"), attempt_id=1, sender=1, sha256="ab", tokens=tokens, weight=weight, norm=norm
    )


def make_flat(tensors: dict[str, Floats]) -> Floats:
    return np.concatenate([tensors[name].reshape(-1) for name in sorted(SHAPES)])


def open_all(deltas: Sequence[WeightedDelta]) -> list[DeltaReader]:
    return [open_delta(delta.path, shapes=SHAPES) for delta in deltas]


def decoded(delta: WeightedDelta) -> Floats:
    reader = open_delta(delta.path, shapes=SHAPES)
    return make_flat({name: reader.tensor(name) for name in SHAPES})


def find(
    deltas: Sequence[WeightedDelta], rule: str, *, reference_N: Floats | None = None, momentum: float = 0.9
) -> Weighing:
    def read(span: Span) -> Floats:
        assert reference_N is not None
        return reference_N[span.start : span.stop]

    outer = OuterConfig(rule=rule, momentum=momentum)
    return weigh(deltas, readers=open_all(deltas), outer=outer, reference=None if reference_N is None else read)


def weigh_numbers(deltas: Sequence[WeightedDelta]) -> Weighing:
    return weigh(deltas, readers=[], outer=OuterConfig(), reference=None)


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


def test_shares_follow_the_weights_and_factors_what_clipping_leaves() -> None:
    deltas = [make_weighted(1.0, weight=1.0), make_weighted(4.0, weight=3.0), make_weighted(2.0, weight=4.0)]
    weighing = weigh_numbers(deltas)
    assert weighing == Weighing(
        clip=Clip(norm=2.0, tokens=100.0), shares=(0.125, 0.375, 0.5), factors=(0.125, 0.1875, 0.5)
    )


def test_two_deltas_are_not_clipped() -> None:
    assert weigh_numbers([make_weighted(1.0), make_weighted(99.0, weight=3.0)]).factors == (0.25, 0.75)


def test_a_median_of_nothing_leaves_nothing() -> None:
    assert weigh_numbers([make_weighted(0.0), make_weighted(0.0), make_weighted(5.0)]).factors == (1 / 3, 1 / 3, 0.0)


def test_a_fast_device_with_a_longer_job_keeps_its_whole_share() -> None:
    slow = [make_weighted(1.0) for _ in range(3)]
    assert weigh_numbers([*slow, make_weighted(4.0, tokens=500)]).factors[3] == 0.25


@pytest.mark.parametrize("codec", CODECS)
def test_inner_products_are_those_of_the_whole_deltas(tmp_path: Path, codec: str) -> None:
    deltas = [make_delta(tmp_path, seed=seed, codec=codec, scale=10.0**-seed) for seed in range(4)]
    reference_N = make_flat(make_tensors(seed=9))
    whole = np.array([*map(decoded, deltas), reference_N], np.float64)
    found = gram_matrix(open_all(deltas), reference=lambda span: reference_N[span.start : span.stop])
    np.testing.assert_allclose(found, whole @ whole.T, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("codec", CODECS)
def test_the_geometric_median_of_deltas_is_that_of_their_clipped_values(tmp_path: Path, codec: str) -> None:
    deltas = [
        make_delta(tmp_path, seed=seed, codec=codec, weight=1.0 + seed, scale=1e-3 + 3e-4 * seed) for seed in range(5)
    ]
    weighing = find(deltas, "geometric_median")
    assert weighing.clip is not None
    kept = [min(1.0, weighing.clip.norm / delta.norm) for delta in deltas]
    clipped = np.array([factor * decoded(delta).astype(np.float64) for factor, delta in zip(kept, deltas, strict=True)])
    shares = np.array([1.0, 2, 3, 4, 5]) / 15
    median = shares @ clipped
    for _ in range(200):
        parts = shares / np.linalg.norm(clipped - median, axis=1)
        median = parts @ clipped / parts.sum()
    merged = np.array(weighing.factors) @ np.array([decoded(delta) for delta in deltas], np.float64)
    np.testing.assert_allclose(merged, median, rtol=0, atol=1e-6 * np.abs(median).max())
    assert sum(weighing.shares) == pytest.approx(1)


def test_centered_clipping_holds_on_to_the_mean_momentum(tmp_path: Path) -> None:
    deltas = [make_delta(tmp_path, seed=seed) for seed in range(4)]
    # Near to one delta, whose distance and thus the radius is small for it alone.
    reference_N = 10 * decoded(deltas[0])
    weighing = find(deltas, "centered_clipping", reference_N=reference_N)
    center = reference_N.astype(np.float64) / 10
    values = np.array([decoded(delta) for delta in deltas], np.float64)
    assert weighing.clip is not None
    values *= np.array([[min(1.0, weighing.clip.norm / delta.norm)] for delta in deltas])
    for _ in range(3):
        distance = np.linalg.norm(values - center, axis=1)
        kept = np.minimum(1, np.median(distance) / np.maximum(distance, 1e-30))
        center = center + (kept / 4) @ (values - center)
    merged = np.array(weighing.factors) @ np.array([decoded(delta) for delta in deltas], np.float64)
    merged += weighing.reference_factor * reference_N
    np.testing.assert_allclose(merged, center, rtol=0, atol=1e-6 * np.abs(center).max())


@pytest.mark.parametrize("rule", ["geometric_median", "centered_clipping", "trust"])
def test_a_rule_that_knows_too_little_weighs_by_tokens(tmp_path: Path, rule: str) -> None:
    deltas = [make_delta(tmp_path, seed=seed, weight=seed + 1.0) for seed in range(2)]
    assert find(deltas, rule).factors == pytest.approx((1 / 3, 2 / 3))


def test_trust_goes_to_those_who_agree_with_the_others(tmp_path: Path) -> None:
    common = make_tensors(seed=50)
    tensors = [
        {name: (1 if seed else -10) * (0.3 * common[name] + noise) for name, noise in make_tensors(seed=seed).items()}
        for seed in range(8)
    ]
    deltas = [make_delta(tmp_path, seed=seed, tensors=values) for seed, values in enumerate(tensors)]
    weighing = find(deltas, "trust")
    values = np.array([decoded(delta) / delta.norm for delta in deltas], np.float64)
    others = values[1:].sum(axis=0)
    assert weighing.factors[0] == 0
    assert weighing.shares[1:] == pytest.approx([1 / 7] * 7)
    cosines = [one @ rest / np.linalg.norm(rest) for one in values for rest in [others - one * (one @ one > 0)]]
    flipped = values[0] @ others / np.linalg.norm(others)
    scores = [sender.score for sender in weighing.trust]
    assert scores[0] == pytest.approx(flipped, rel=0.02)
    np.testing.assert_allclose(scores[1:], cosines[1:], rtol=0.05)


def test_a_senders_deltas_make_one_cosine_by_their_weights(tmp_path: Path) -> None:
    common = make_tensors(seed=50)
    tensors = [{name: common[name] + noise for name, noise in make_tensors(seed=seed).items()} for seed in range(4)]
    deltas = [
        make_delta(tmp_path, seed=seed, tensors=values, weight=seed + 1.0, sender=max(1, seed))
        for seed, values in enumerate(tensors)
    ]
    trust = find(deltas, "trust").trust
    alone = [dataclasses.replace(delta, sender=seed) for seed, delta in enumerate(deltas)]
    first, second = (one.score for one in find(alone, "trust").trust[:2])
    assert [one.sender for one in trust] == [1, 2, 3]
    assert trust[0].score == pytest.approx((first + 2 * second) / 3)


def test_trust_carries_on_from_the_merge_before(tmp_path: Path) -> None:
    deltas = [make_delta(tmp_path, seed=seed) for seed in range(3)]
    before = (SenderTrust(sender=deltas[0].sender, score=0.5, merge=3), SenderTrust(sender=99, score=0.25, merge=3))
    first = {one.sender: one.score for one in find(deltas, "trust").trust}
    weighing = weigh(
        deltas,
        readers=open_all(deltas),
        outer=OuterConfig(rule="trust"),
        reference=None,
        trust=before,
        num_merges=4,
    )
    second = {one.sender: one for one in weighing.trust}
    sender = deltas[0].sender
    expected = TRUST_DECAY * 0.5 + (1 - TRUST_DECAY) * first[sender]
    assert second[sender] == SenderTrust(sender=sender, score=pytest.approx(expected), merge=4)
    assert second[99] == before[1]
