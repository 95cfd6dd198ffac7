"""Leaving on Ctrl+C: once to hand in what is done, twice to give it back at once."""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn

LEAVING_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
HANGUP = getattr(signal, "SIGHUP", None)
GRACE_SECONDS = 4.0
"""How long a call may still wait for the coordinator once the volunteer wants to leave."""


class Departure:
    """Whether, and since when, the volunteer wants to leave.

    Signals reach a thread of its own through a socket, so that they count even while the main thread sits in C code,
    and nothing runs inside a signal handler, where a lock may already be held.
    """

    def __init__(self) -> None:
        self.leaving = threading.Event()
        self._left_at = 0.0

    def watch(self, *, on_first: Callable[[], None], on_second: Callable[[], None]) -> None:
        """Call `on_first` and `on_second` from a thread when signals come; to be called in the main thread."""
        receiving, sending = socket.socketpair()
        sending.setblocking(False)
        signal.set_wakeup_fd(sending.fileno(), warn_on_full_buffer=False)
        for number in LEAVING_SIGNALS:
            if number == HANGUP and signal.getsignal(number) == signal.SIG_IGN:
                continue  # nohup: the terminal's end is not the worker's
            signal.signal(number, _do_nothing)

        def listen() -> None:
            # `sending` is named here so that it stays open for as long as the thread lives.
            while sending.fileno() >= 0 and (numbers := receiving.recv(64)):
                for number in numbers:
                    if number not in LEAVING_SIGNALS:
                        continue
                    if self.leaving.is_set():
                        on_second()
                    else:
                        self.leave()
                        on_first()

        threading.Thread(target=listen, name="fai-departure", daemon=True).start()

    def leave(self) -> None:
        self._left_at = time.monotonic()
        self.leaving.set()

    def wait(self, seconds: float) -> bool:
        """Wait; False when the volunteer has wanted to leave for longer than the grace."""
        if not self.leaving.wait(seconds):
            return True
        time.sleep(min(seconds, 0.5))
        return time.monotonic() - self._left_at < GRACE_SECONDS


def _do_nothing(number: int, frame: object) -> None:
    """Python needs a handler to write the signal's number into the socket."""


def exit_at_once(exit_code: int) -> NoReturn:
    """End the process without waiting for threads, one of which may be inside a long computation."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(exit_code)
