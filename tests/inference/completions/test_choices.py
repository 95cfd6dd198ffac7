from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.completions.choices import Choices, Wish
from inference.completions.provider import EngineGone
from inference.openai.shapes import Piece
from inference.wire import ChoicePiece, ChoiceTokens, PromptLogprobs
from ml.token_logprobs import TokenLogprobs
from tests.inference.make import make_request
from tests.ml.make import make_tokenizer

TOKENIZER = make_tokenizer()
END = 0


def tokens_of(text: str) -> tuple[int, ...]:
    """One token for each byte of the text."""
    return tuple(token for character in text for token in TOKENIZER.encode(character, add_special_tokens=False).ids)


def feed(text: str, *, stop: tuple[str, ...] = (), finish_reason: str | None = "length") -> list[Piece]:
    """Pieces of one choice whose tokens come one by one."""
    choices = Choices(make_request(stop_tokens=(END,)), TOKENIZER, wish=Wish(stop=stop))
    tokens = tokens_of(text)
    last = len(tokens) - 1
    events = [
        ChoiceTokens(index=0, offset=i, tokens=(token,), finish_reason=finish_reason if i == last else None)
        for i, token in enumerate(tokens)
    ]
    return [piece for event in events for piece in choices.take(event)]


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
    choices = Choices(make_request(stop_tokens=(END,)), TOKENIZER, wish=Wish())
    event = ChoiceTokens(index=0, offset=0, tokens=(*tokens_of("ab"), END), finish_reason="stop")
    assert choices.take(event) == [Piece(index=0, text="ab", num_tokens=3, finish_reason="stop")]
    assert choices.unfinished == []


def test_a_repeated_event_adds_nothing() -> None:
    choices = Choices(make_request(), TOKENIZER, wish=Wish())
    first = ChoiceTokens(index=0, offset=0, tokens=tokens_of("ab"))
    assert choices.take(first) == [Piece(index=0, text="ab", num_tokens=2, finish_reason=None)]
    assert choices.take(first) == []
    overlapping = ChoiceTokens(index=0, offset=1, tokens=tokens_of("bc"))
    assert choices.take(overlapping) == [Piece(index=0, text="c", num_tokens=3, finish_reason=None)]


def test_a_gap_is_noticed() -> None:
    choices = Choices(make_request(), TOKENIZER, wish=Wish())
    with pytest.raises(EngineGone):
        choices.take(ChoiceTokens(index=0, offset=1, tokens=tokens_of("a")))


def test_tokens_after_the_end_are_not_counted() -> None:
    choices = Choices(make_request(n=2), TOKENIZER, wish=Wish(stop=("b",)))
    piece = choices.take(ChoiceTokens(index=1, offset=0, tokens=tokens_of("abcd")))
    assert piece == [Piece(index=1, text="a", num_tokens=2, finish_reason="stop")]
    assert choices.take(ChoiceTokens(index=1, offset=4, tokens=tokens_of("e"), finish_reason="length")) == []
    assert choices.unfinished == [0]


def logprobs_of(tokens: Sequence[int], *, logprob: float = -1.0) -> tuple[TokenLogprobs, ...]:
    return tuple(TokenLogprobs(token=token, logprob=logprob, top=((END, -0.5),)) for token in tokens)


def feed_scored(text: str, *, wish: Wish, cuts: Sequence[int] = (), prompt: str = "p") -> list[Piece]:
    """Pieces of one choice with log-probabilities, whose tokens come in events that begin at `cuts`."""
    request = make_request(prompts=(tokens_of(prompt),), num_logprobs=1, has_prompt_logprobs=wish.is_echo)
    choices = Choices(request, TOKENIZER, wish=wish)
    if wish.is_echo:
        choices.take(PromptLogprobs(prompt=0, logprobs=(None, *logprobs_of(tokens_of(prompt)[1:]))))
    tokens = tokens_of(text)
    places = [0, *sorted({cut for cut in cuts if 0 < cut < len(tokens)}), len(tokens)]
    events = [
        ChoiceTokens(
            index=0,
            offset=first,
            tokens=tokens[first:last],
            finish_reason="length" if last == len(tokens) else None,
            logprobs=logprobs_of(tokens[first:last]),
        )
        for first, last in pairwise(places)
    ]
    return [piece for event in events for piece in choices.take(event)]


def test_logprobs_come_with_the_text_of_their_tokens() -> None:
    pieces = feed_scored("a뷁XYb", wish=Wish(stop=("XYZ",), has_logprobs=True), cuts=range(9))
    told = [(piece.text, [token.data.decode(errors="replace") for token in piece.logprobs or ()]) for piece in pieces]
    assert told == [("a", ["a"]), ("뷁", ["\ufffd"] * 3), ("XYb", ["X", "Y", "b"])]


def test_logprobs_of_what_a_stop_text_cuts_away_are_not_told() -> None:
    pieces = feed_scored("abXYZc", wish=Wish(stop=("XYZ",), has_logprobs=True))
    assert [token.data for piece in pieces for token in piece.logprobs or ()] == [b"a", b"b"]
    assert pieces[-1].num_tokens == 5


@given(st.text("aX가뷁", min_size=1, max_size=8), st.lists(st.integers(1, 30), max_size=6), st.booleans())
def test_however_tokens_come_the_text_and_its_logprobs_are_the_same(text: str, cuts: list[int], is_echo: bool) -> None:
    wish = Wish(stop=("XX",), has_logprobs=True, is_echo=is_echo)
    whole, parts = feed_scored(text, wish=wish), feed_scored(text, wish=wish, cuts=cuts)
    assert "".join(piece.text for piece in parts) == "".join(piece.text for piece in whole)
    scored = [token for piece in parts for token in piece.logprobs or ()]
    assert scored == [token for piece in whole for token in piece.logprobs or ()]
    answer = "".join(piece.text for piece in parts)
    for token in scored:
        if len(token.data) == 1 and token.data.isascii():
            assert answer[token.offset] == token.data.decode()
    # Within a character all tokens have one offset: what is told is the whole text, no more and no less.
    assert b"".join(token.data for token in scored).decode() == answer


def test_an_echo_stands_before_the_text_and_is_no_generated_token() -> None:
    pieces = feed_scored("bc", wish=Wish(is_echo=True, has_logprobs=True), prompt="뷁a", cuts=[1])
    assert [(piece.text, piece.num_tokens) for piece in pieces] == [("뷁ab", 1), ("c", 2)]
    scored = [token for piece in pieces for token in piece.logprobs or ()]
    assert [token.offset for token in scored] == [0, 0, 0, 1, 2, 3]
    assert [token.logprob for token in scored] == [None, *[-1.0] * 5]


def test_an_echo_without_logprobs_waits_for_nothing() -> None:
    choices = Choices(make_request(prompts=(tokens_of("p"),), n=2), TOKENIZER, wish=Wish(is_echo=True))
    for index in range(2):
        piece = choices.take(ChoiceTokens(index=index, offset=0, tokens=tokens_of("뷁")[:1]))
        assert piece == [Piece(index=index, text="p", num_tokens=0, finish_reason=None)]


def test_a_prompt_alone_is_answered_without_what_the_engine_generates() -> None:
    wish = Wish(is_echo=True, is_prompt_only=True)
    choices = Choices(make_request(prompts=(tokens_of("ab"),), max_tokens=1), TOKENIZER, wish=wish)
    piece = choices.take(ChoiceTokens(index=0, offset=0, tokens=tokens_of("c"), finish_reason="length"))
    assert piece == [Piece(index=0, text="ab", num_tokens=0, finish_reason="length")]
    assert choices.unfinished == []


def test_the_best_choices_are_those_whose_tokens_are_likeliest_on_average() -> None:
    request = make_request(prompts=((70,), (71,)), n=3, num_logprobs=0, stop_tokens=(END,))
    choices = Choices(request, TOKENIZER, wish=Wish())
    means = [-3.0, -1.0, -2.0, -2.0, -3.0, -1.0]
    for index, mean in enumerate(means):
        tokens = tokens_of("a" * (index + 1))
        event = ChoiceTokens(index=index, offset=0, tokens=tokens, finish_reason="length")
        choices.take(replace(event, logprobs=logprobs_of(tokens, logprob=mean)))
    assert choices.best(2) == [1, 2, 5, 3]
    assert choices.best(1) == [1, 5]


def test_text_of_an_engine_that_tells_no_tokens_is_cut_and_counted() -> None:
    choices = Choices(make_request(), TOKENIZER, wish=Wish(stop=("XYZ",)))
    events = [
        ChoicePiece(index=0, offset=0, text="가나 X", num_tokens=3),
        ChoicePiece(index=0, offset=0, text="가나 X", num_tokens=3),
        ChoicePiece(index=0, offset=3, text="Y", num_tokens=1),
        ChoicePiece(index=0, offset=4, text="Zd", num_tokens=2),
    ]
    pieces = [piece for event in events for piece in choices.take(event)]
    assert [(piece.text, piece.num_tokens, piece.finish_reason) for piece in pieces] == [
        ("가나 ", 0, None),
        ("", 6, "stop"),
    ]


def test_text_without_tokens_ends_as_the_engine_says_and_gaps_are_noticed() -> None:
    choices = Choices(make_request(n=2), TOKENIZER, wish=Wish(stop=("XYZ",)))
    first = choices.take(ChoicePiece(index=0, offset=0, text="aX", num_tokens=2, finish_reason="length"))
    assert first == [Piece(index=0, text="aX", num_tokens=2, finish_reason="length")]
    with pytest.raises(EngineGone, match="lost"):
        choices.take(ChoicePiece(index=1, offset=1, text="a", num_tokens=1))


def test_logprobs_that_the_engine_does_not_tell_are_an_error() -> None:
    for event in (
        ChoicePiece(index=0, offset=0, text="a", num_tokens=1),
        ChoiceTokens(index=0, offset=0, tokens=tokens_of("a")),
    ):
        choices = Choices(make_request(num_logprobs=0), TOKENIZER, wish=Wish(has_logprobs=True))
        with pytest.raises(EngineGone, match="no log-probabilities"):
            choices.take(event)


def test_logprobs_of_the_prompt_that_the_engine_does_not_tell_are_an_error() -> None:
    request = make_request(num_logprobs=0, has_prompt_logprobs=True)
    choices = Choices(request, TOKENIZER, wish=Wish(is_echo=True, has_logprobs=True))
    tokens = tokens_of("a")
    with pytest.raises(EngineGone, match="of prompts"):
        choices.take(ChoiceTokens(index=0, offset=0, tokens=tokens, logprobs=logprobs_of(tokens)))


def test_choices_wait_for_the_one_that_their_prompt_is_scored_with() -> None:
    request = make_request(prompts=(tokens_of("ab"),), n=2, num_logprobs=0, has_prompt_logprobs=True)
    choices = Choices(request, TOKENIZER, wish=Wish(is_echo=True, has_logprobs=True))
    tokens = tokens_of("c")
    event = ChoiceTokens(index=1, offset=0, tokens=tokens, logprobs=logprobs_of(tokens), finish_reason="length")
    assert choices.take(event) == []
    assert choices.unfinished == [0, 1]
    (piece,) = choices.take(PromptLogprobs(prompt=0, logprobs=(None, *logprobs_of(tokens_of("b")))))
    assert (piece.index, piece.text, piece.finish_reason) == (1, "abc", "length")
    assert [token.offset for token in piece.logprobs or ()] == [0, 1, 2]
    assert choices.unfinished == [0]
