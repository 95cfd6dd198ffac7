import itertools
from collections import Counter

import pytest

from benchmarks.convergence.scenario import Scenario
from benchmarks.convergence.simulation import Simulation
from benchmarks.convergence.sizes import SHARD_BYTES, SizesOnly
from ml.codec import delta_size_bytes
from ml.config import OuterConfig
from tests.benchmarks.make_scenarios import MODEL, make_device, make_rules, make_scenario

DELTA_BYTES = delta_size_bytes(MODEL, "int8")
STEP_BYTES = delta_size_bytes(MODEL, "int8")


def simulate(scenario: Scenario, *, num_shards: int = 1, seed: int = 0) -> Simulation:
    simulation = Simulation(scenario, work=SizesOnly(scenario), num_shards=num_shards, seed=seed)
    simulation.run(on_point=lambda point: None)
    return simulation


def test_equal_devices_train_all_tokens_and_each_round_merges_all_deltas() -> None:
    simulation = simulate(make_scenario())
    assert [(point.round_number, point.num_deltas) for point in simulation.points] == [(0, 0), (1, 4), (2, 4), (3, 4)]
    assert simulation.points[-1].tokens == 3 * 512
    assert simulation.points[-1].uploaded_bytes == 3 * 4 * DELTA_BYTES
    assert simulation.outcomes == {"accepted": 12}


def test_a_round_lasts_as_long_as_download_training_upload_and_merge() -> None:
    device = make_device(up_mbps=1.0, down_mbps=8.0, latency_ms=500.0)
    simulation = simulate(make_scenario(devices=(device,) * 4, rules=make_rules(merge_seconds=3.0)))
    base_bytes = SizesOnly(make_scenario()).base_bytes
    upload = 0.5 + 8 * DELTA_BYTES / 1e6
    first = 0.5 + (base_bytes + SHARD_BYTES) / 1e6 + 1.0 + upload + 3.0
    others = 0.5 + STEP_BYTES / 1e6 + 1.0 + upload + 3.0
    assert simulation.points[1].seconds == pytest.approx(first)
    assert simulation.points[3].seconds == pytest.approx(first + 2 * others)
    assert simulation.utilisations() == pytest.approx([3.0 / (first + 2 * others)] * 4)


def test_a_device_fetches_the_whole_base_where_steps_are_missing_or_larger() -> None:
    simulation = simulate(make_scenario(outer=OuterConfig(step_codec="none")))
    base_bytes = SizesOnly(make_scenario()).base_bytes
    assert simulation.points[-1].downloaded_bytes == 4 * (3 * base_bytes + SHARD_BYTES)


def test_a_device_that_was_away_fetches_the_steps_in_between_while_they_are_fewer_bytes() -> None:
    slow = make_device(tokens_per_second=16.0, latency_ms=0.0)
    rules = make_rules(num_rounds=12, round_min_tokens=384, grace_seconds=0.0, job_tokens=128, max_staleness=9)
    simulation = simulate(make_scenario(devices=(make_device(),) * 3 + (slow,), rules=rules))
    one = simulation.devices[3]
    assert one.num_jobs == 2
    base_bytes = SizesOnly(make_scenario()).base_bytes
    assert one.downloaded_bytes == SHARD_BYTES + base_bytes + min(base_bytes, 8 * STEP_BYTES)


def test_lost_deltas_shrink_the_merge_and_the_round_waits_for_the_grace_only() -> None:
    rules = make_rules(num_rounds=50, grace_seconds=0.5)
    simulation = simulate(make_scenario(devices=(make_device(lost_share=0.3),) * 4, rules=rules))
    assert simulation.outcomes["lost"] + simulation.outcomes["accepted"] == 200
    assert simulation.outcomes["lost"] == pytest.approx(60, abs=20)
    assert simulation.points[-1].tokens == 50 * 512
    assert max(after.seconds - before.seconds for before, after in itertools.pairwise(simulation.points[2:])) < 2


def test_a_round_that_lost_everything_is_tried_again_after_its_deadline() -> None:
    scenario = make_scenario(
        devices=(make_device(lost_share=0.9),), rules=make_rules(num_rounds=1, round_tokens=128, job_tokens=128)
    )
    simulation = simulate(scenario)
    assert simulation.outcomes["lost"] > simulation.outcomes["accepted"] > 0
    assert simulation.points[-1].seconds == pytest.approx(60.0 * simulation.outcomes["lost"], abs=5)


def test_a_quorum_of_one_merges_each_delta_as_it_comes() -> None:
    devices = tuple(make_device(tokens_per_second=speed) for speed in (64.0, 96.0, 128.0, 224.0))
    rules = make_rules(num_rounds=40, round_min_tokens=1, grace_seconds=0.0, max_staleness=99, job_tokens=128)
    simulation = simulate(make_scenario(devices=devices, rules=rules))
    assert Counter(point.num_deltas for point in simulation.points[1:]).keys() <= {1, 2}
    jobs = [one.num_jobs for one in simulation.devices]
    assert jobs == sorted(jobs)
    assert jobs[3] >= 3 * jobs[0]


def test_who_does_not_wait_for_the_slow_trains_more_of_the_time() -> None:
    devices = tuple(make_device(tokens_per_second=speed) for speed in (64.0, 128.0, 256.0, 256.0))
    waiting = simulate(make_scenario(devices=devices, rules=make_rules(num_rounds=10, job_tokens=128)))
    quorum = make_rules(num_rounds=40, job_tokens=128, round_min_tokens=1, grace_seconds=0.0, max_staleness=99)
    flowing = simulate(make_scenario(devices=devices, rules=quorum))
    assert min(flowing.utilisations()) > 0.5 > waiting.utilisations()[3]


def test_the_time_box_ends_the_job_of_a_device_that_is_slower_than_measured() -> None:
    scenario = make_scenario(
        devices=(make_device(jitter=0.5),) * 4, rules=make_rules(num_rounds=20, train_seconds=1.0, grace_seconds=9.0)
    )
    simulation = simulate(scenario)
    # The step under way when the box ends is finished.
    slowest = 1.0 + 32 / (128 * 0.1)
    assert all(one.busy_seconds / one.num_jobs < slowest for one in simulation.devices)
    assert simulation.points[-1].tokens < 20 * 512 + 20 * 4 * 32
    assert simulate(scenario, seed=1).points[-1].seconds != simulation.points[-1].seconds


def test_devices_that_leave_hand_in_a_part() -> None:
    rules = make_rules(num_rounds=10, grace_seconds=0.1)
    simulation = simulate(make_scenario(devices=(make_device(leave_share=1.0),) * 4, rules=rules))
    jobs = sum(one.num_jobs for one in simulation.devices)
    tokens = sum(one.trained_tokens for one in simulation.devices)
    assert 32 < tokens / jobs < 128


def test_the_same_seed_gives_the_same_run() -> None:
    scenario = make_scenario(devices=(make_device(lost_share=0.3, jitter=0.2),) * 4, rules=make_rules(num_rounds=10))
    assert simulate(scenario).points == simulate(scenario).points
