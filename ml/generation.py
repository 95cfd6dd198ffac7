"""Text from a model, token by token, with a key and value cache."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tokenizers import Tokenizer

from ml.bad_input import BadInput
from ml.kv_cache import KVCache
from ml.model import GPT
from ml.sampling import SamplingParams, sample_next
from ml.text_stream import TextStream
from ml.tokenizer import END_OF_TEXT, end_of_text, longest_token_bytes

COUNTED_BYTES = 2**16
"""Up to here a prompt's tokens are counted in any case, to say how many are too many."""


class PromptInvalid(BadInput):
    """A prompt that the model cannot continue."""

    page = "generation"


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """A finished text."""

    text: str
    """Without the prompt, and without what ended it."""
    prompt_tokens: int
    completion_tokens: int
    """Generated, the one that ended the text included."""
    finish_reason: str
    """stop: END_OF_TEXT or a stop text; length: max_tokens; interrupted: nobody asked for more."""
    first_token_seconds: float = field(default=0.0, compare=False)
    """Time to the first token, the prompt's reading included."""
    seconds: float = field(default=0.0, compare=False)
    """In all."""

    @property
    def tokens_per_second(self) -> float | None:
        """Of the tokens after the first; None where there are none, or a beam search made them."""
        if self.completion_tokens < 2 or not self.first_token_seconds:
            return None
        return (self.completion_tokens - 1) / (self.seconds - self.first_token_seconds)


def check_prompt(model: GPT, prompt: Sequence[int], *, max_tokens: int) -> None:
    """Raises: PromptInvalid where there is nothing to continue, or no room for max_tokens more."""
    room = room_after(model, prompt)
    if max_tokens > room:
        raise PromptInvalid(
            f"the prompt has {len(prompt)} tokens and max_tokens is {max_tokens}; "
            f"together they may be at most {model.config.block_size}: set max_tokens to at most {room}"
        )


def room_after(model: GPT, prompt: Sequence[int]) -> int:
    """How many tokens may follow the prompt, at least one.

    Raises: PromptInvalid where there is nothing to continue, or no room at all.
    """
    if not prompt:
        raise PromptInvalid(f"the prompt is empty: write some text, or {END_OF_TEXT} to begin a document")
    block_size = model.config.block_size
    if len(prompt) >= block_size:
        raise PromptInvalid(
            f"the prompt has {len(prompt)} tokens and the model's context is {block_size}: "
            f"shorten the prompt by {len(prompt) - block_size + 1} tokens or more"
        )
    return block_size - len(prompt)


def encode_prompt(tokenizer: Tokenizer, text: str, *, block_size: int) -> tuple[int, ...]:
    """Tokens of a prompt, whose markers are recognised.

    Raises: PromptInvalid where the text is no Unicode, as after a broken paste, or far beyond a context of block_size.
    """
    num_bytes = len(require_unicode(text).encode())
    # A book would take minutes to be refused by its tokens.
    if num_bytes > COUNTED_BYTES and num_bytes > (most_bytes := block_size * longest_token_bytes(tokenizer)):
        raise PromptInvalid(
            f"the prompt has {num_bytes:,} bytes and the model's context of {block_size} tokens holds at most "
            f"{most_bytes:,}: shorten the prompt"
        )
    return tuple(tokenizer.encode(text, add_special_tokens=False).ids)


def require_unicode(text: str) -> str:
    """The text itself.

    Raises: PromptInvalid.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PromptInvalid("the prompt holds bytes that are no UTF-8: write it anew, in UTF-8") from error
    return text


def read_prompt(path: Path) -> str:
    """A prompt from a file, without the line's end that editors add to the last line.

    Raises: PromptInvalid.
    """
    try:
        return path.read_text(encoding="utf-8-sig").removesuffix("\n")
    except OSError as error:
        raise PromptInvalid(f"the prompt file {path} cannot be read ({error.strerror}): check its path") from error
    except UnicodeDecodeError as error:
        raise PromptInvalid(f"the prompt file {path} is not UTF-8 ({error.reason}): save it as UTF-8") from error


def generate_tokens(model: GPT, prompt: Sequence[int], params: SamplingParams) -> Iterator[int]:
    """Up to max_tokens tokens that continue the prompt; the caller stops where the text ends.

    Raises: PromptInvalid.
    """
    check_prompt(model, prompt, max_tokens=params.max_tokens)
    model.eval()
    cache = KVCache(model.config, num_slots=1, device=model.device)
    text = list(prompt)
    pending = text[:]
    for _ in range(params.max_tokens):
        with torch.inference_mode():
            hidden = model.hidden(torch.tensor([pending], device=model.device), cache=cache)
            token = sample_next(model.unembed(hidden[:, -1]), params=[params], texts=[text])[0]
        text.append(token)
        pending = [token]
        yield token


class Continuation:
    """A text under way: iterate over its pieces as they come; `completion` says at any moment what there is.

    Ends with END_OF_TEXT, a stop text, or max_tokens, and wherever the caller stops to iterate.
    Raises: PromptInvalid, on the first piece.
    """

    def __init__(self, model: GPT, tokenizer: Tokenizer, prompt: Sequence[int], params: SamplingParams) -> None:
        self._model = model
        self._prompt = prompt
        self._params = params
        self._end = end_of_text(tokenizer)
        self._stream = TextStream(tokenizer, stop=params.stop)
        self._pieces: list[str] = []
        self._num_tokens = 0
        self._reason = "interrupted"
        self._first_token_seconds = 0.0
        self._seconds = 0.0

    def __iter__(self) -> Iterator[str]:
        for piece in self._generate():
            if piece:
                self._pieces.append(piece)
                yield piece

    @property
    def completion(self) -> Completion:
        return Completion(
            text="".join(self._pieces),
            prompt_tokens=len(self._prompt),
            completion_tokens=self._num_tokens,
            finish_reason=self._reason,
            first_token_seconds=self._first_token_seconds,
            seconds=self._seconds,
        )

    def _generate(self) -> Iterator[str]:
        start = time.perf_counter()
        reason = "length"
        for token in generate_tokens(self._model, self._prompt, self._params):
            self._num_tokens += 1
            self._seconds = time.perf_counter() - start
            self._first_token_seconds = self._first_token_seconds or self._seconds
            if token != self._end:
                yield self._stream.push(token)
            if token == self._end or self._stream.is_stopped:
                reason = "stop"
                break
        yield self._stream.finish()
        self._reason = "stop" if self._stream.is_stopped else reason


def generate(model: GPT, tokenizer: Tokenizer, prompt: str | Sequence[int], params: SamplingParams) -> Completion:
    """Continue the prompt until END_OF_TEXT, a stop text, or max_tokens.

    Raises: PromptInvalid.
    """
    block_size = model.config.block_size
    tokens = encode_prompt(tokenizer, prompt, block_size=block_size) if isinstance(prompt, str) else prompt
    continuation = Continuation(model, tokenizer, tokens, params)
    for _ in continuation:
        pass
    return continuation.completion
