import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.robust import CENTER_STEPS, Vector, centered_clipping, geometric_median


def make_vectors(seed: int, num_vectors: int, *, num_values: int = 200) -> Vector:
    """A common direction and noise, as the deltas of a round are."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((num_vectors, num_values)) + 0.3 * rng.standard_normal(num_values)


def make_shares(seed: int, num_vectors: int) -> Vector:
    weights = np.random.default_rng(seed).uniform(0.2, 2.0, num_vectors)
    return np.asarray(weights / weights.sum())


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1_000), num_vectors=st.integers(3, 12), scale=st.sampled_from([1e-4, 1.0, 1e3]))
def test_the_geometric_median_is_that_of_the_whole_vectors(seed: int, num_vectors: int, scale: float) -> None:
    vectors, shares = scale * make_vectors(seed, num_vectors), make_shares(seed, num_vectors)
    vectors[0] *= -10
    median = shares @ vectors
    for _ in range(1_000):
        distance = np.linalg.norm(vectors - median, axis=1)
        parts = shares / np.maximum(distance, 1e-9 * scale)
        median = parts @ vectors / parts.sum()
    found = geometric_median(vectors @ vectors.T, shares=shares)
    assert found.sum() == pytest.approx(1)
    np.testing.assert_allclose(found @ vectors, median, rtol=0, atol=1e-3 * np.abs(median).max())


def test_the_geometric_median_of_a_majority_at_one_place_is_there() -> None:
    vectors = np.array([[1.0, 2.0]] * 3 + [[100.0, -50.0], [0.0, 7.0]])
    found = geometric_median(vectors @ vectors.T, shares=np.full(5, 0.2))
    np.testing.assert_allclose(found @ vectors, [1.0, 2.0], atol=1e-2)


def test_the_geometric_median_of_equal_vectors_leaves_the_shares() -> None:
    shares = np.array([0.5, 0.3, 0.2])
    assert geometric_median(np.ones((3, 3)), shares=shares).tolist() == shares.tolist()
    assert geometric_median(np.zeros((3, 3)), shares=shares).tolist() == shares.tolist()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1_000), num_vectors=st.integers(3, 12), scale=st.sampled_from([1e-4, 1.0, 1e3]))
def test_centered_clipping_is_that_of_the_whole_vectors(seed: int, num_vectors: int, scale: float) -> None:
    vectors, shares = scale * make_vectors(seed, num_vectors), make_shares(seed, num_vectors)
    vectors[0] *= -10
    reference = scale * 0.3 * np.random.default_rng(seed + 1).standard_normal(200)
    center = reference
    for _ in range(CENTER_STEPS):
        away = vectors - center
        distance = np.linalg.norm(away, axis=1)
        center = center + (shares * np.minimum(1, np.median(distance) / distance)) @ away
    whole = np.vstack([vectors, reference])
    found = centered_clipping(whole @ whole.T, shares=shares)
    assert found.sum() == pytest.approx(1)
    np.testing.assert_allclose(found @ whole, center, rtol=0, atol=1e-9 * np.abs(vectors).max())


def test_centered_clipping_of_equal_vectors_is_their_place() -> None:
    gram = np.zeros((4, 4))
    gram[:3, :3] = 1.0
    found = centered_clipping(gram, shares=np.full(3, 1 / 3))
    np.testing.assert_allclose(found, [1 / 3, 1 / 3, 1 / 3, 0], atol=1e-12)
