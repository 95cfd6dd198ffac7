"""Merges of which one or two of eight deltas were turned round and made ten times as long."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from ml.codec import Floats
from ml.config import OuterConfig
from ml.weighing import WeightedDelta
from tests.ml.make_deltas import make_delta, make_tensors
from tests.ml.make_merges import FEDAVG, flat, load_state, make_state_file, run_merge

COMMON = make_tensors(seed=1_000)
"""Direction that honest deltas share; each has as much noise besides, of its own."""


def make_round(folder: Path, *, num_flipped: int) -> list[WeightedDelta]:
    deltas = []
    for seed in range(8):
        factor = np.float32(-10 if seed < num_flipped else 1)
        tensors = {name: factor * (noise + COMMON[name]) for name, noise in make_tensors(seed=seed).items()}
        deltas.append(make_delta(folder, seed=seed, tensors=tensors))
    return deltas


def aggregate(folder: Path, rule: str, *, num_flipped: int) -> Floats:
    """What the rule makes of the round, after a merge that went the common way with some noise."""
    folder.mkdir()
    before = {name: COMMON[name] + 0.3 * noise for name, noise in make_tensors(seed=1_001).items()}
    state = make_state_file(folder / "before", before)
    outer = dataclasses.replace(FEDAVG, rule=rule)
    run_merge(folder, make_round(folder, num_flipped=num_flipped), outer=outer, state=state)
    return flat(load_state(folder / "state")).astype(np.float64)


@pytest.mark.parametrize(
    ("rule", "num_flipped", "least_cosine", "least_length"),
    [
        ("clipped_mean", 1, 0.94, 0.75),
        ("clipped_mean", 2, 0.84, 0.55),
        ("trimmed_mean", 1, 0.96, 0.85),
        ("trimmed_mean", 2, 0.88, 0.6),
        ("geometric_median", 1, 0.97, 0.85),
        ("geometric_median", 2, 0.93, 0.7),
        ("centered_clipping", 1, 0.97, 0.85),
        ("centered_clipping", 2, 0.93, 0.7),
        ("trust", 1, 0.98, 0.95),
        ("trust", 2, 0.97, 0.95),
    ],
)
def test_a_merge_with_flipped_deltas_stays_near_the_honest_one(
    tmp_path: Path, rule: str, num_flipped: int, least_cosine: float, least_length: float
) -> None:
    wanted = aggregate(tmp_path / "honest", rule, num_flipped=0)
    found = aggregate(tmp_path / "attacked", rule, num_flipped=num_flipped)
    lengths = np.linalg.norm(found), np.linalg.norm(wanted)
    assert found @ wanted / (lengths[0] * lengths[1]) > least_cosine
    assert least_length < lengths[0] / lengths[1] < 1.1


def test_senders_that_flipped_are_known_by_their_scores(tmp_path: Path) -> None:
    outer = OuterConfig(rule="trust")
    run_merge(tmp_path, make_round(tmp_path, num_flipped=2), outer=outer)
    state = (tmp_path / "state").rename(tmp_path / "state-1")
    weighing = run_merge(tmp_path, make_round(tmp_path, num_flipped=2), outer=outer, state=state).weighing
    assert [trust.sender for trust in weighing.trust if trust.score < 0] == [0, 1]
    with safe_open(tmp_path / "state", framework="np") as file:
        assert all(f'"sender":{sender}' in file.metadata()["trust"] for sender in range(8))
