import pytest

from inference.choices import Choices, Piece
from inference.provider import EngineGone
from inference.wire import ChoiceTokens
from tests.inference.make import make_request
from tests.ml.make import make_tokenizer

TOKENIZER = make_tokenizer()
END = 0


def tokens_of(text: str) -> tuple[int, ...]:
    """One token for each byte of the text."""
    return tuple(token for character in text for token in TOKENIZER.encode(character, add_special_tokens=False).ids)


def feed(text: str, *, stop: tuple[str, ...] = (), finish_reason: str | None = "length") -> list[Piece]:
    """Pieces of one choice whose tokens come one by one."""
    choices = Choices(make_request(stop_tokens=(END,)), TOKENIZER, stop=stop)
    tokens = tokens_of(text)
    last = len(tokens) - 1
    events = [
        ChoiceTokens(index=0, offset=i, tokens=(token,), finish_reason=finish_reason if i == last else None)
        for i, token in enumerate(tokens)
    ]
    return [piece for event in events if (piece := choices.take(event))]


def test_a_character_is_never_sent_in_half() -> None:
    pieces = feed("a뷁b")
    assert [(piece.text, piece.num_tokens) for piece in pieces] == [("a", 1), ("뷁", 4), ("b", 5)]


def test_a_stop_text_is_found_across_tokens_and_counts_as_generated() -> None:
    pieces = feed("abcXYZdef", stop=("XYZ",))
    assert "".join(piece.text for piece in pieces) == "abc"
    assert (pieces[-1].finish_reason, pieces[-1].num_tokens) == ("stop", 6)


def test_the_beginning_of_a_stop_text_at_the_end_is_sent() -> None:
    pieces = feed("abXY", stop=("XYZ",))
    assert "".join(piece.text for piece in pieces) == "abXY"
    assert (pieces[-1].finish_reason, pieces[-1].num_tokens) == ("length", 4)


def test_the_token_that_ends_the_text_counts_and_has_no_text() -> None:
    choices = Choices(make_request(stop_tokens=(END,)), TOKENIZER, stop=())
    event = ChoiceTokens(index=0, offset=0, tokens=(*tokens_of("ab"), END), finish_reason="stop")
    assert choices.take(event) == Piece(index=0, text="ab", num_tokens=3, finish_reason="stop")
    assert choices.unfinished == []


def test_a_repeated_event_adds_nothing() -> None:
    choices = Choices(make_request(), TOKENIZER, stop=())
    first = ChoiceTokens(index=0, offset=0, tokens=tokens_of("ab"))
    assert choices.take(first) == Piece(index=0, text="ab", num_tokens=2, finish_reason=None)
    assert choices.take(first) is None
    overlapping = ChoiceTokens(index=0, offset=1, tokens=tokens_of("bc"))
    assert choices.take(overlapping) == Piece(index=0, text="c", num_tokens=3, finish_reason=None)


def test_a_gap_is_noticed() -> None:
    choices = Choices(make_request(), TOKENIZER, stop=())
    with pytest.raises(EngineGone):
        choices.take(ChoiceTokens(index=0, offset=1, tokens=tokens_of("a")))


def test_tokens_after_the_end_are_not_counted() -> None:
    choices = Choices(make_request(n=2), TOKENIZER, stop=("b",))
    piece = choices.take(ChoiceTokens(index=1, offset=0, tokens=tokens_of("abcd")))
    assert piece == Piece(index=1, text="a", num_tokens=2, finish_reason="stop")
    assert choices.take(ChoiceTokens(index=1, offset=4, tokens=tokens_of("e"), finish_reason="length")) is None
    assert choices.unfinished == [0]
