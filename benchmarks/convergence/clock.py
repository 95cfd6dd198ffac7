"""Simulated time: what happens next, happens now."""

import heapq
import itertools
from collections.abc import Callable


class Clock:
    """Actions in the order of their times; those of one time in the order in which they were asked for."""

    def __init__(self) -> None:
        self.now = 0.0
        """Seconds since the start."""
        self._order = itertools.count()
        self._waiting: list[tuple[float, int, Callable[[], None]]] = []

    def at(self, seconds: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._waiting, (max(seconds, self.now), next(self._order), action))

    def run(self, *, until: Callable[[], bool]) -> None:
        """Let time pass until `until` says so, or nothing is left to happen."""
        while self._waiting and not until():
            self.now, _, action = heapq.heappop(self._waiting)
            action()
