from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from ml import tokenizer
from ml.bad_input import CorpusInvalid
from tests.ml.make import TEXT, make_tokenizer

ENCODER = make_tokenizer()
FRAGMENTS = st.one_of(
    st.text(), st.sampled_from([*tokenizer.SPECIAL_TOKENS, "한글", "가", "\r\n\t ", "👨‍👩‍👧", "\x00", "12 345"])
)


@given(st.lists(FRAGMENTS).map("".join))
def test_any_text_comes_back_from_its_tokens(text: str) -> None:
    tokens = ENCODER.encode(text, add_special_tokens=False).ids
    assert ENCODER.decode(tokens, skip_special_tokens=False) == text


@given(st.lists(FRAGMENTS).map("".join))
def test_the_bytes_of_the_tokens_are_the_bytes_of_the_text(text: str) -> None:
    tokens = ENCODER.encode(text, add_special_tokens=False).ids
    assert b"".join(tokenizer.token_bytes(ENCODER, token) for token in tokens) == text.encode()


def test_the_vocabulary_has_exactly_the_size_asked_for() -> None:
    assert make_tokenizer(vocab_size=333).get_vocab_size() == 333


def test_special_tokens_come_first_and_are_never_split() -> None:
    assert [ENCODER.token_to_id(token) for token in tokenizer.SPECIAL_TOKENS] == [0, 1, 2, 3, 4]
    assert ENCODER.encode("a[QUESTION]b").tokens == ["a", "[QUESTION]", "b"]


def test_training_does_not_depend_on_the_order_of_the_texts() -> None:
    lines = TEXT.splitlines(keepends=True)
    first = tokenizer.train(lines, vocab_size=320)
    second = tokenizer.train(reversed(lines), vocab_size=320)
    assert first.to_str() == second.to_str()


def test_a_saved_tokenizer_loads_the_same(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    ENCODER.save(str(path))
    assert tokenizer.load(path).to_str() == ENCODER.to_str()


def test_a_tokenizer_that_is_not_there_says_how_to_make_it(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with pytest.raises(tokenizer.TokenizerInvalid, match=rf"no {path}: make it with `fai tokenizer {tmp_path}`"):
        tokenizer.load(path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"version": "1.0"}', b"\xff\xfe"])
def test_a_damaged_tokenizer_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(tokenizer.TokenizerInvalid, match=rf"{path} .*`fai tokenizer {tmp_path} --force`"):
        tokenizer.load(path)


def test_a_tokenizer_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    Tokenizer(models.BPE(vocab={"a": 0, "b": 1}, merges=[])).save(str(path))
    with pytest.raises(tokenizer.TokenizerInvalid, match="another program's tokenizer"):
        tokenizer.load(path)


LINES = st.text(st.sampled_from("a1. \n\r\t\x0b\x0c\x1c\x1f\x85\u2028\u200b\u3000가{}'s"), max_size=60)


@given(LINES, st.integers(1, 12))
def test_pieces_of_a_text_have_the_tokens_of_the_text(text: str, piece_characters: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizer, "PIECE_CHARACTERS", piece_characters)
        pieces = list(tokenizer.split_text(text))
    assert "".join(pieces) == text
    assert [token for piece in pieces for token in ENCODER.encode(piece).ids] == ENCODER.encode(text).ids


def test_a_long_text_is_cut_at_its_lines_and_a_long_line_stays_whole() -> None:
    line = "x" * 1_000 + "\n"
    pieces = list(tokenizer.split_text(line * 1_000))
    assert max(map(len, pieces)) <= tokenizer.PIECE_CHARACTERS + len(line)
    assert len(pieces) > 5
    assert list(tokenizer.split_text("x" * 10**6)) == ["x" * 10**6]


def test_merges_make_a_text_shorter_than_its_bytes() -> None:
    assert len(ENCODER.encode(TEXT).ids) < len(TEXT.encode()) * 0.9


def test_too_little_text_says_how_many_tokens_it_can_give() -> None:
    with pytest.raises(CorpusInvalid, match=r"at most (\d+) tokens, not 5000") as error:
        tokenizer.train(["a b a b a b"], vocab_size=5000)
    possible = int(str(error.value).split("at most ")[1].split()[0])
    assert tokenizer.train(["a b a b a b"], vocab_size=possible).get_vocab_size() == possible


def test_a_vocabulary_below_the_bytes_is_refused() -> None:
    with pytest.raises(CorpusInvalid, match="at least 261"):
        tokenizer.train([TEXT], vocab_size=260)


def test_a_token_outside_the_vocabulary_has_no_bytes() -> None:
    with pytest.raises(ValueError, match="no token 300"):
        tokenizer.token_bytes(ENCODER, 300)
