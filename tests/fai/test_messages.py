import re
import string

import pytest

from fai.messages import REASONS, SENTENCES, STATES, reason_sentence, sentence, state_word
from ml.protocol import DeviceState, Reason

HANGUL = re.compile("[가-힣]")


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_a_sentence_in_both_languages(reason: Reason) -> None:
    english, korean = reason_sentence("en", reason), reason_sentence("ko", reason)
    assert " " in english
    assert not HANGUL.search(english)
    assert HANGUL.search(korean)
    assert reason in REASONS


@pytest.mark.parametrize("state", DeviceState)
def test_every_state_has_a_word_in_both_languages(state: DeviceState) -> None:
    assert state_word("en", state) != state_word("ko", state)
    assert state in STATES


@pytest.mark.parametrize("key", SENTENCES)
def test_both_languages_say_the_same_values(key: str) -> None:
    fields = [{name for _, name, _, _ in string.Formatter().parse(text) if name} for text in SENTENCES[key]]
    assert fields[0] == fields[1]


def test_a_reason_of_a_newer_coordinator_stays_readable() -> None:
    assert reason_sentence("en", "moon_phase") == "moon_phase"


def test_a_sentence_is_filled_in() -> None:
    assert sentence("en", "joined", url="https://x", nickname="mina") == "Joined https://x as mina."
