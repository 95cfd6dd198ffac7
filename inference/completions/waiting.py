"""How long a client should wait that finds the queue full."""

import math
from collections.abc import Iterable

from inference.status import EngineStatus

LEAST_SECONDS = 1
MOST_SECONDS = 120
UNKNOWN_SECONDS = 5
"""Where no engine has finished anything of late."""


def estimate_seconds(model: str, num_queued: int, engines: Iterable[EngineStatus]) -> int:
    """When the model's engines will have worked off half of what waits, at the speed of their last half minute.

    Half, since whoever waits for all of it finds them idle.
    """
    speed = sum(engine.requests_per_second for engine in engines if model in engine.model_names)
    if speed <= 0:
        return UNKNOWN_SECONDS
    return min(MOST_SECONDS, max(LEAST_SECONDS, math.ceil(num_queued / 2 / speed)))
