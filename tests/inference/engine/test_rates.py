import pytest

from inference.engine import rates
from inference.engine.rates import Rate


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(rates, "time", clock)
    return clock


def test_a_rate_is_over_the_time_since_the_first_count(clock: Clock) -> None:
    rate = Rate()
    for _ in range(10):
        rate.add(3)
        clock.now += 1
    assert rate.per_second() == pytest.approx(3.0)


def test_what_is_old_no_longer_counts(clock: Clock) -> None:
    rate = Rate()
    rate.add(1_000)
    clock.now += rates.WINDOW_SECONDS + 1
    assert rate.per_second() == 0.0
    rate.add(5)
    assert rate.per_second() == 5.0
