"""Ctrl+C as a wish to stop after the present step; a second one ends at once."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_wish(*, on_first: Callable[[], None]) -> Iterator[threading.Event]:
    """An event that the first Ctrl+C or SIGTERM sets, after which `on_first` is called; a second raises
    KeyboardInterrupt.

    Outside of the main thread, which alone hears signals, the event is never set.
    """
    wish = threading.Event()

    def hear(_number: int, _frame: FrameType | None) -> None:
        if wish.is_set():
            raise KeyboardInterrupt
        wish.set()
        on_first()

    if threading.current_thread() is not threading.main_thread():
        yield wish
        return
    before: dict[signal.Signals, Any] = {number: signal.signal(number, hear) for number in SIGNALS}
    try:
        yield wish
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
