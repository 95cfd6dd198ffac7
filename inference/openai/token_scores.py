"""Log-probabilities of tokens in OpenAI's two forms. A token may be a part of a character: then its bytes are told."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from ml.token_logprobs import TokenLogprobs
from ml.tokenizer import token_bytes

GIVEN_LOGPROB = 0.0
"""Written for a token that is given, not predicted: the specification wants a number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredToken:
    """A token of an answer."""

    data: bytes
    offset: int
    """Where it begins in the text of its choice. Units: characters."""
    logprob: float | None
    """None of the first token of a prompt, which nothing stands before."""
    top: tuple[tuple[bytes, float], ...]
    """The likeliest tokens there, the likeliest first; the token itself need not be one of them."""


def given(tokenizer: Tokenizer, token: int) -> ScoredToken:
    """The first token of a prompt."""
    return ScoredToken(data=token_bytes(tokenizer, token), offset=0, logprob=None, top=())


def score(tokenizer: Tokenizer, told: TokenLogprobs, *, offset: int) -> ScoredToken:
    """What the engine told of a token, as text."""
    top = tuple((token_bytes(tokenizer, token), logprob) for token, logprob in told.top)
    data = token_bytes(tokenizer, told.token)
    return ScoredToken(data=data, offset=offset, logprob=told.logprob, top=top)


def text_logprobs(tokens: Sequence[ScoredToken]) -> dict[str, Any]:
    """As completions have them; the token itself is among the likeliest in any case."""
    return {
        "tokens": [_text(token.data, prefix="bytes:") for token in tokens],
        "token_logprobs": [_number(token.logprob) for token in tokens],
        "top_logprobs": [_alternatives(token) for token in tokens],
        "text_offset": [token.offset for token in tokens],
    }


def chat_logprobs(tokens: Sequence[ScoredToken]) -> dict[str, Any]:
    """As chats have them."""
    content = [
        {
            **_entry(token.data, _number(token.logprob)),
            "top_logprobs": [_entry(data, logprob) for data, logprob in token.top],
        }
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def _entry(data: bytes, logprob: float) -> dict[str, Any]:
    return {"token": _text(data), "logprob": logprob, "bytes": list(data)}


def _alternatives(token: ScoredToken) -> dict[str, float]:
    if token.logprob is None:
        return {}
    return {_text(data, prefix="bytes:"): logprob for data, logprob in [*token.top, (token.data, token.logprob)]}


def _number(logprob: float | None) -> float:
    return GIVEN_LOGPROB if logprob is None else logprob


def _text(data: bytes, *, prefix: str = "") -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return prefix + data.decode(errors="backslashreplace")
