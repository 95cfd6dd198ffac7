import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml.trust import (
    FORGOTTEN_AFTER_MERGES,
    TRUST_DECAY,
    SenderTrust,
    agreement_with_others,
    judge,
    outliers,
    update_trust,
)


def make_trust(**scores: float) -> tuple[SenderTrust, ...]:
    """Scores by sender: s1=0.3."""
    return tuple(SenderTrust(sender=int(name[1:]), score=score, merge=5) for name, score in scores.items())


def test_a_score_is_a_moving_average_that_begins_with_the_first_cosine() -> None:
    trust = update_trust((), {2: 0.5, 1: -0.5}, num_merges=1)
    assert trust == (SenderTrust(sender=1, score=-0.5, merge=1), SenderTrust(sender=2, score=0.5, merge=1))
    trust = update_trust(trust, {2: 0.0}, num_merges=2)
    assert trust == (
        SenderTrust(sender=1, score=-0.5, merge=1),
        SenderTrust(sender=2, score=pytest.approx(0.5 * TRUST_DECAY), merge=2),
    )


def test_a_device_that_turns_has_lost_its_trust_within_four_merges() -> None:
    trust = make_trust(s1=0.2)
    for count in range(4):
        trust = update_trust(trust, {1: -0.2}, num_merges=6 + count)
    assert trust[0].score < 0


def test_a_sender_is_forgotten_when_it_was_long_away() -> None:
    assert update_trust(make_trust(s1=0.2), {}, num_merges=5 + FORGOTTEN_AFTER_MERGES)
    assert not update_trust(make_trust(s1=0.2), {}, num_merges=6 + FORGOTTEN_AFTER_MERGES)


def test_the_agreement_is_the_cosine_to_the_weighted_sum_of_the_others() -> None:
    rng = np.random.default_rng(0)
    values, weights = rng.standard_normal((5, 40)), np.array([0.3, 0.0, 0.2, 0.4, 0.1])
    others = weights @ values - weights[:, None] * values
    expected = (values * others).sum(axis=1) / np.linalg.norm(values, axis=1) / np.linalg.norm(others, axis=1)
    np.testing.assert_allclose(agreement_with_others(values @ values.T, weights=weights), expected)


def test_nothing_agrees_with_nothing() -> None:
    gram = np.diag([1.0, 0.0])
    assert agreement_with_others(gram, weights=np.array([0.5, 0.5])).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.2, 0.21, 0.19, -0.3], [False, False, False, True]),
        ([0.02, 0.01, 0.0, -0.01, -0.02], [False] * 5),
        ([0.2, 0.21, 0.22, 0.01], [False] * 4),
        ([-0.2, -0.2, -0.2], [False] * 3),
        ([0.1, 0.1, -0.1, -0.1], [False] * 4),
        ([0.3], [False]),
    ],
    ids=["flipped", "noise", "weak but not against", "all against", "half against half", "alone"],
)
def test_outliers_are_negative_and_far_below_the_others(scores: list[float], expected: list[bool]) -> None:
    assert outliers(np.array(scores)).tolist() == expected


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=40))
def test_fewer_than_half_are_outliers(scores: list[float]) -> None:
    assert outliers(np.array(scores)).sum() * 2 < len(scores)


def test_those_who_are_not_believed_have_no_share() -> None:
    rng = np.random.default_rng(1)
    values = 0.5 * rng.standard_normal(400) + rng.standard_normal((6, 400))
    values[2] *= -1
    shares = np.array([0.1, 0.2, 0.2, 0.2, 0.2, 0.1])
    found, trust = judge(values @ values.T, shares=shares, senders=range(6), before=(), num_merges=0)
    np.testing.assert_allclose(found, np.array([0.1, 0.2, 0.0, 0.2, 0.2, 0.1]) / 0.8)
    assert [one.sender for one in trust if one.score < 0] == [2]
