"""How often something happens, of late."""

import time
from collections import deque

WINDOW_SECONDS = 30.0


class Rate:
    """Counts over the last WINDOW_SECONDS. One thread adds, any may ask."""

    def __init__(self) -> None:
        self._counts: deque[tuple[float, int]] = deque()

    def add(self, count: int) -> None:
        now = time.monotonic()
        self._counts.append((now, count))
        while self._counts[0][0] < now - WINDOW_SECONDS:
            self._counts.popleft()

    def per_second(self) -> float:
        """Over the time since the first of them; 0 where none are that young."""
        now = time.monotonic()
        counts = [(at, count) for at, count in list(self._counts) if at >= now - WINDOW_SECONDS]
        if not counts:
            return 0.0
        return sum(count for _, count in counts) / max(1.0, now - counts[0][0])
