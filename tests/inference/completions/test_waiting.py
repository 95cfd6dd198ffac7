from dataclasses import replace

import pytest

from inference.completions import waiting
from tests.inference.engines import make_status

SLOW = replace(make_status("study"), requests_per_second=2.0)


@pytest.mark.parametrize(
    ("num_queued", "seconds"), [(256, 64), (3, 1), (0, waiting.LEAST_SECONDS), (10**6, waiting.MOST_SECONDS)]
)
def test_the_wait_is_half_of_the_queue_at_the_measured_speed(num_queued: int, seconds: int) -> None:
    assert waiting.estimate_seconds("study", num_queued, [SLOW]) == seconds


def test_engines_add_up_and_those_of_other_models_do_not_count() -> None:
    engines = [SLOW, SLOW, replace(make_status("other"), requests_per_second=100.0)]
    assert waiting.estimate_seconds("study", 256, engines) == 32


def test_an_engine_that_has_finished_nothing_is_asked_again_soon() -> None:
    assert waiting.estimate_seconds("study", 256, [make_status("study")]) == waiting.UNKNOWN_SECONDS
