import os
import signal
import threading

import pytest

from ml.interrupts import stop_wish


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_a_wish_and_the_second_ends_at_once(number: signal.Signals) -> None:
    heard: list[str] = []
    before = signal.getsignal(number)
    with stop_wish(on_first=lambda: heard.append("first")) as wish:
        assert not wish.is_set()
        os.kill(os.getpid(), number)
        assert wish.is_set()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert heard == ["first"]
    assert signal.getsignal(number) is before


def test_another_thread_hears_nothing_and_changes_nothing() -> None:
    before = signal.getsignal(signal.SIGINT)
    wishes: list[bool] = []

    def work() -> None:
        with stop_wish(on_first=lambda: None) as wish:
            wishes.append(wish.is_set())
            assert signal.getsignal(signal.SIGINT) is before

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert wishes == [False]
