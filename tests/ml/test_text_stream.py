from hypothesis import given
from hypothesis import strategies as st

from ml.text_stream import TextStream
from ml.tokenizer import token_bytes
from tests.ml.make import make_tokenizer

TOKENIZER = make_tokenizer()


def push_all(stream: TextStream, text: str) -> list[str]:
    """The pieces of the text, pushed character by character: ASCII has one token for each."""
    tokens = [token for character in text for token in TOKENIZER.encode(character, add_special_tokens=False).ids]
    return [stream.push(token) for token in tokens] + [stream.finish()]


def test_the_beginning_of_a_stop_text_is_held_back_until_it_is_none() -> None:
    assert push_all(TextStream(TOKENIZER, stop=["XYZ"]), "aXYb XY") == ["a", "", "", "XYb", " ", "", "", "XY"]


def test_half_a_character_is_held_back() -> None:
    pieces = [piece for piece in push_all(TextStream(TOKENIZER), "뷁👨‍👩‍👧") if piece]
    assert pieces == ["뷁", "👨", "\u200d", "👩", "\u200d", "👧"]


def test_half_a_character_at_the_end_is_replaced() -> None:
    first = TOKENIZER.encode("뷁").ids[0]
    stream = TextStream(TOKENIZER)
    assert [stream.push(first), stream.finish()] == ["", "\ufffd"]


def test_nothing_follows_a_stop_text() -> None:
    stream = TextStream(TOKENIZER, stop=["b"])
    assert "".join(push_all(stream, "abc")) == "a"
    assert stream.is_stopped
    assert stream.push(TOKENIZER.encode("d").ids[0]) == ""


@given(
    st.text(alphabet="abX 가👧\ufffd", max_size=30),
    st.lists(st.text(alphabet="abX가", min_size=1, max_size=3), max_size=2),
)
def test_the_pieces_are_the_text_up_to_the_stop_that_is_complete_first(text: str, stop: list[str]) -> None:
    starts = (text.find(word, 0, end) for end in range(len(text) + 1) for word in sorted(stop, key=len, reverse=True))
    expected = text[: next((start for start in starts if start >= 0), len(text))]
    assert "".join(push_all(TextStream(TOKENIZER, stop=stop), text)) == expected


@given(st.lists(st.integers(0, 299), max_size=30))
def test_any_tokens_stream_as_the_text_that_the_tokenizer_decodes(tokens: list[int]) -> None:
    stream = TextStream(TOKENIZER)
    streamed = "".join([stream.push(token) for token in tokens] + [stream.finish()])
    assert streamed == TOKENIZER.decode(tokens, skip_special_tokens=False)


def test_tokens_count_once_their_whole_text_is_out() -> None:
    """A stream that breaks off is billed for what was sent: neither half a character nor a held stop text."""
    stream = TextStream(TOKENIZER, stop=["XYZ"])
    counts = []
    for token in [token for character in "aXYb뷁" for token in TOKENIZER.encode(character).ids]:
        stream.push(token)
        counts.append(stream.num_tokens)
    assert counts == [1, 1, 1, 4, 4, 4, 7]


@given(st.lists(st.integers(0, 299), max_size=30))
def test_a_token_of_whole_characters_stands_where_its_offset_says(tokens: list[int]) -> None:
    stream = TextStream(TOKENIZER)
    text = "".join([stream.push(token) for token in tokens] + [stream.finish()])
    assert len(stream.offsets) == len(tokens)
    assert stream.offsets == sorted(stream.offsets)
    for token, offset in zip(tokens, stream.offsets, strict=True):
        own = token_bytes(TOKENIZER, token).decode(errors="replace")
        if "\ufffd" not in own:
            assert text.startswith(own, offset)


def test_tokens_of_one_character_begin_where_it_does() -> None:
    stream = TextStream(TOKENIZER)
    push_all(stream, "a뷁b")
    assert stream.offsets == [0, 1, 1, 1, 2]


def test_half_a_surrogate_becomes_two_characters_before_the_next_token() -> None:
    """UTF-8's decoder holds ED A0 back, which no character has, and then replaces each byte."""
    of_bytes = {token_bytes(TOKENIZER, token): token for token in range(TOKENIZER.get_vocab_size())}
    stream = TextStream(TOKENIZER)
    assert "".join(stream.push(of_bytes[data]) for data in (b"\xed", b"\xa0", b"a")) == "\ufffd\ufffda"
    assert stream.offsets == [0, 0, 2]


def test_texts_without_tokens_are_cut_at_a_stop_as_well() -> None:
    stream = TextStream(TOKENIZER, stop=["XYZ"])
    pieces = [stream.push_text(text, num_tokens=num) for text, num in [("ab X", 2), ("Yc", 1), ("XYZd", 2), ("e", 1)]]
    assert pieces == ["ab ", "XYc", "", ""]
    assert (stream.is_stopped, stream.num_tokens) == (True, 5)
