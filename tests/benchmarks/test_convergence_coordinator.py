import math
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.convergence.coordinator import UNPROVEN_SHARE, Coordinator, Idle, split
from benchmarks.convergence.scenario import Rules
from tests.benchmarks.make_scenarios import make_rules
from training import dispatch

BATCH_TOKENS = 32


def make_coordinator(rules: Rules) -> Coordinator:
    coordinator = Coordinator(rules, batch_tokens=BATCH_TOKENS, num_shards=2)
    coordinator.open_next(now=0.0)
    return coordinator


def idle(*devices: int) -> list[Idle]:
    return [Idle(device=device, tokens_per_second=128.0, is_proven=True) for device in devices]


@given(
    speeds=st.lists(st.tuples(st.floats(1, 1e6), st.booleans()), max_size=9),
    remaining_tokens=st.integers(0, 100_000),
    round_tokens=st.integers(BATCH_TOKENS, 100_000),
    job_seconds=st.integers(1, 600),
)
def test_jobs_are_sized_as_the_real_dispatcher_sizes_them(
    speeds: list[tuple[float, bool]], remaining_tokens: int, round_tokens: int, job_seconds: int
) -> None:
    rules = make_rules(round_tokens=round_tokens, round_min_tokens=1, job_seconds=job_seconds)
    ours = split(
        [Idle(device=place, tokens_per_second=speed, is_proven=known) for place, (speed, known) in enumerate(speeds)],
        rules=rules,
        remaining_tokens=remaining_tokens,
        batch_tokens=BATCH_TOKENS,
    )
    theirs = dispatch.split(
        remaining_tokens=remaining_tokens,
        enrollments=[
            SimpleNamespace(device=place, tokens_per_second=speed, is_proven=known)
            for place, (speed, known) in enumerate(speeds)
        ],
        job_seconds=job_seconds,
        batch_tokens=BATCH_TOKENS,
        unproven_tokens=round_tokens // dispatch.UNPROVEN_SHARE,
    )
    assert ours == [(share.device, share.num_tokens) for share in theirs]
    assert UNPROVEN_SHARE == dispatch.UNPROVEN_SHARE


def test_a_fixed_job_size_gives_all_devices_as_many_tokens() -> None:
    fast = Idle(device=1, tokens_per_second=1_000.0, is_proven=True)
    rules = make_rules(job_tokens=64)
    shares = split([*idle(0), fast], rules=rules, remaining_tokens=512, batch_tokens=BATCH_TOKENS)
    assert shares == [(0, 64), (1, 64)]


def test_jobs_take_turns_with_the_shards_and_are_counted_in_their_round() -> None:
    coordinator = make_coordinator(make_rules())
    jobs = coordinator.offer(idle(0, 1, 2, 3))
    assert [(job.shard, job.index, job.round_number) for job in jobs] == [(0, 0, 1), (1, 1, 1), (0, 2, 1), (1, 3, 1)]
    assert coordinator.remaining_tokens == 0
    assert coordinator.offer(idle(4)) == []


def test_a_round_is_full_once_its_tokens_are_accepted() -> None:
    coordinator = make_coordinator(make_rules())
    *jobs, last = coordinator.offer(idle(0, 1, 2, 3))
    for job in jobs:
        assert coordinator.accept(job, tokens=128, now=1.0)
    assert not coordinator.is_full(now=1.0)
    coordinator.accept(last, tokens=128, now=1.0)
    assert coordinator.is_full(now=1.0)
    assert [weight for _, weight in coordinator.take()] == [128.0] * 4
    assert not coordinator.is_full(now=1.0)


def test_a_round_with_its_least_tokens_waits_for_the_grace_and_no_longer() -> None:
    coordinator = make_coordinator(make_rules(round_min_tokens=256, grace_seconds=2.0))
    first, second, *_ = coordinator.offer(idle(0, 1, 2, 3))
    coordinator.accept(first, tokens=128, now=1.0)
    assert coordinator.closes_at == math.inf
    coordinator.accept(second, tokens=128, now=5.0)
    assert not coordinator.is_full(now=6.9)
    assert coordinator.is_full(now=7.0)


@pytest.mark.parametrize(("accepted_at", "closes_at"), [(5.0, 60.0), (70.0, 70.0)])
def test_without_a_grace_it_waits_for_the_deadline_or_what_comes_first_after_it(
    accepted_at: float, closes_at: float
) -> None:
    coordinator = make_coordinator(make_rules())
    job, *_ = coordinator.offer(idle(0, 1))
    coordinator.accept(job, tokens=128, now=accepted_at)
    assert coordinator.closes_at == closes_at


def test_a_late_delta_weighs_less_for_each_round_and_is_refused_in_the_end() -> None:
    coordinator = make_coordinator(make_rules(staleness_percent=50, max_staleness=1))
    late, later, _ = coordinator.offer(idle(0, 1, 2))
    coordinator.open_next(now=1.0)
    assert coordinator.accept(late, tokens=128, now=1.0)
    assert [weight for _, weight in coordinator.take()] == [64.0]
    coordinator.open_next(now=2.0)
    assert not coordinator.accept(later, tokens=128, now=2.0)


def test_jobs_of_an_earlier_round_count_towards_the_open_one_until_they_are_forgotten() -> None:
    coordinator = make_coordinator(make_rules())
    job, *_ = coordinator.offer(idle(0, 1))
    coordinator.open_next(now=1.0)
    assert coordinator.remaining_tokens == 256
    coordinator.forget(job)
    assert coordinator.remaining_tokens == 384
