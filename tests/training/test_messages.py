"""The Korean catalogue: complete, compiled, and true to the placeholders of the English texts."""

import re
from collections.abc import Iterator

import pytest
from babel.messages.catalog import Message
from babel.messages.mofile import read_mo
from django.utils import translation

from ml.protocol import DeviceState, Reason
from tools import messages
from training import labels
from training.models import Attempt, Experiment, Round
from training.templatetags import figures

PLACEHOLDER = re.compile(r"%\(\w+\)s|\{\w+\}|%%|</?\w+>")


def forms(message: Message) -> Iterator[tuple[str, str]]:
    """Each English form beside the Korean one; Korean has one form for all numbers."""
    english = message.id if isinstance(message.id, (list, tuple)) else (message.id,)
    korean = message.string if isinstance(message.string, (list, tuple)) else (message.string,)
    yield from ((text, korean[0]) for text in english)


def contents(catalog: messages.Catalog) -> dict[tuple[object, object], object]:
    """Texts by message and context, in the same types whether read from .po, .mo or the sources."""

    def plain(text: object) -> object:
        if isinstance(text, list):
            return tuple(text)
        return text.decode() if isinstance(text, bytes) else text

    return {(plain(message.id), plain(message.context)): plain(message.string) for message in catalog if message.id}


def test_the_catalogue_has_what_the_sources_say_and_nothing_else() -> None:
    assert contents(messages.read_catalogue()).keys() == contents(messages.extract_messages()).keys()


def test_every_message_is_translated_with_its_placeholders() -> None:
    for message in messages.read_catalogue():
        assert not message.fuzzy or not message.id
        if message.id:
            assert messages.is_translated(message), message.id
            for english, korean in forms(message):
                assert sorted(PLACEHOLDER.findall(english)) == sorted(PLACEHOLDER.findall(korean)), english


def test_the_compiled_file_is_the_catalogue_compiled() -> None:
    with messages.CATALOGUE.with_suffix(".mo").open("rb") as file:
        compiled = read_mo(file)
    assert contents(compiled) == contents(messages.read_catalogue())


def test_every_state_and_reason_has_a_name() -> None:
    assert set(labels.EXPERIMENTS) == set(Experiment.State)
    assert set(labels.ROUNDS) == set(Round.State)
    assert set(labels.ATTEMPTS) == set(Attempt.State)
    assert set(labels.DEVICES) == set(DeviceState)
    assert set(labels.REASONS) == set(Reason)


def test_a_reason_of_a_newer_version_is_shown_as_it_is() -> None:
    assert labels.describe("sunspots") == "sunspots"
    assert labels.describe("") == ""


@pytest.mark.parametrize(
    ("number", "english", "korean"),
    [
        (None, "0", "0"),
        (999, "999", "999"),
        (1_000, "1K", "1000"),
        (12_345, "12.3K", "1.23만"),
        (1_200_000, "1.2M", "120만"),
        (123_456_789, "123M", "1.23억"),
        (2_500_000_000_000, "2.5T", "2.5조"),
    ],
)
def test_large_numbers_are_shortened_as_each_language_counts(number: int | None, english: str, korean: str) -> None:
    with translation.override("en"):
        assert figures.compact(number) == english
    with translation.override("ko"):
        assert figures.compact(number) == korean
