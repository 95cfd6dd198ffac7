"""Byte-level BPE: every text has tokens, and its tokens give back the same text."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import ClassVar

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from ml.bad_input import BadInput, CorpusInvalid

FILE_NAME = "tokenizer.json"
END_OF_TEXT = "<|endoftext|>"
SPECIAL_TOKENS = [END_OF_TEXT, "[QUESTION]", "[/QUESTION]", "[ANSWER]", "[/ANSWER]"]
MIN_VOCAB_SIZE = 256 + len(SPECIAL_TOKENS)
PIECE_CHARACTERS = 2**17

# Source: Qwen2's tokenizer, so that an exported model names a pre-tokenizer that llama.cpp knows.
# It ends a word at a line break that something other than white space follows, which split_text builds on.
_WORDS = Regex(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

_LINE_START = re.compile(r"\n(?=\S)")


class TokenizerInvalid(BadInput):
    """A file that is no tokenizer of ours."""

    page: ClassVar[str] = "tokenizer"


class VocabularyTooLarge(CorpusInvalid):
    """More tokens than the texts have distinct pairs for."""

    page: ClassVar[str] = "tokenizer"

    def __init__(self, *, vocab_size: int, largest: int) -> None:
        super().__init__(
            f"The corpus gives a vocabulary of at most {largest} tokens, not {vocab_size}: "
            "add text, or lower vocab_size."
        )
        self.largest = largest


def _byte_alphabet() -> dict[str, int]:
    """The character that ByteLevel writes for each byte: itself where it can be seen, else one from U+0100 on.

    Source: GPT-2's encoder.py, bytes_to_unicode.
    """
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(256 + rank): byte for rank, byte in enumerate(hidden)}


_BYTES = _byte_alphabet()


def train(texts: Iterable[str], *, vocab_size: int) -> Tokenizer:
    """A tokenizer of exactly vocab_size tokens, the same for the same texts in any order.

    The special tokens come first: END_OF_TEXT is token 0.

    Raises: VocabularyTooLarge; CorpusInvalid where vocab_size is below MIN_VOCAB_SIZE.
    """
    if vocab_size < MIN_VOCAB_SIZE:
        raise CorpusInvalid(f"A vocabulary needs at least {MIN_VOCAB_SIZE} tokens, not {vocab_size}: raise vocab_size.")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_WORDS, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != vocab_size:
        raise VocabularyTooLarge(vocab_size=vocab_size, largest=tokenizer.get_vocab_size())
    return tokenizer


def load(path: Path, *, mend: str = "") -> Tokenizer:
    """The tokenizer that `fai tokenizer` wrote to `path`; `mend` says what to do with one that is no such file.

    Raises: TokenizerInvalid where the file is missing, damaged, or another program's.
    """
    mend = mend or f"make it anew with `fai tokenizer {path.parent} --force`"
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise TokenizerInvalid(f"There is no {path}: make it with `fai tokenizer {path.parent}`.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise TokenizerInvalid(f"{path} cannot be read ({error}): {mend}.") from error
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # tokenizers raises nothing narrower
        raise TokenizerInvalid(f"{path} is damaged ({error}): {mend}.") from error
    if [tokenizer.token_to_id(token) for token in SPECIAL_TOKENS] != list(range(len(SPECIAL_TOKENS))):
        raise TokenizerInvalid(f"{path} is another program's tokenizer, without {END_OF_TEXT} first: {mend}.")
    return tokenizer


def split_text(text: str) -> Iterator[str]:
    """The text in pieces of about PIECE_CHARACTERS, cut where no word of the tokenizer is cut.

    A document of many megabytes so needs no more memory than a small one, and keeps every core busy. A text without
    such a place stays whole.
    """
    start = 0
    while len(text) - start > PIECE_CHARACTERS and (found := _LINE_START.search(text, start + PIECE_CHARACTERS - 1)):
        yield text[start : found.end()]
        start = found.end()
    yield text[start:]


def token_bytes(tokenizer: Tokenizer, token: int) -> bytes:
    """The UTF-8 bytes that a token stands for, which may be a part of a character.

    Raises: ValueError where the vocabulary has no such token.
    """
    text = tokenizer.id_to_token(token)
    if text is None:
        raise ValueError(f"the vocabulary has no token {token}")
    return bytes(_BYTES[character] for character in text)


def longest_token_bytes(tokenizer: Tokenizer) -> int:
    """How many bytes of text a token stands for at most."""
    return max(len(token_bytes(tokenizer, token)) for token in tokenizer.get_vocab().values())


def end_of_text(tokenizer: Tokenizer) -> int:
    """The token that ends a document.

    Raises: ValueError where the tokenizer is none of ours.
    """
    token = tokenizer.token_to_id(END_OF_TEXT)
    if token is None:
        raise ValueError(f"the tokenizer has no {END_OF_TEXT}")
    return int(token)
