import io
import sys

import pytest

from fai.learner.results import printable

TEXT = "위젯\t\x1b[2J\x1b]0;title\x07 a\rb\x9b31m\n\u202eend"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_no_control_characters_of_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert printable(TEXT) == "위젯\t[2J]0;title ab31m\nend"


def test_a_file_gets_the_text_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert printable(TEXT) == TEXT
