"""Keeping the volunteer informed while the coordinator is away."""

import threading
import time

from fai.departure import Departure
from fai.messages import sentence
from fai.screen import Screen

REPEAT_SECONDS = 60.0
"""How often the same trouble is told again."""


class ScreenContact:
    """Tells the screen that the coordinator is lost or found, and waits for it until the volunteer leaves."""

    def __init__(self, *, screen: Screen, departure: Departure) -> None:
        self._screen = screen
        self._departure = departure
        self._lock = threading.Lock()
        self._is_away = False
        self._told_at = float("-inf")

    def lost(self, why: str, seconds: float) -> None:
        with self._lock:
            is_news = not self._is_away or time.monotonic() - self._told_at >= REPEAT_SECONDS
            self._is_away = True
            if is_news:
                self._told_at = time.monotonic()
        self._screen.show(trouble=sentence(self._screen.language, "coordinator_away", why=why, seconds=seconds))
        if is_news:
            self._screen.say("coordinator_away", why=why, seconds=seconds)

    def found(self) -> None:
        with self._lock:
            was_away, self._is_away = self._is_away, False
        if was_away:
            self._screen.show(trouble=None)
            self._screen.say("coordinator_back")

    def wait(self, seconds: float) -> bool:
        return self._departure.wait(seconds)


class PatientContact:
    """Tells nobody and waits as asked: for commands that end by themselves."""

    def lost(self, why: str, seconds: float) -> None:
        """Nobody to tell."""

    def found(self) -> None:
        """Nobody to tell."""

    def wait(self, seconds: float) -> bool:
        time.sleep(seconds)
        return True
