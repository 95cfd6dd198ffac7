"""Text from a model, token by token, with a key and value cache."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer

from ml.bad_input import BadInput
from ml.kv_cache import KVCache
from ml.model import GPT
from ml.sampling import SamplingParams, sample_next
from ml.text_stream import TextStream
from ml.tokenizer import end_of_text


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
    """stop: END_OF_TEXT or a stop text; length: max_tokens."""


def check_prompt(model: GPT, prompt: Sequence[int], *, max_tokens: int) -> None:
    """Raises: PromptInvalid where there is nothing to continue, or no room for max_tokens more."""
    if not prompt:
        raise PromptInvalid("the prompt is empty")
    block_size = model.config.block_size
    if len(prompt) + max_tokens > block_size:
        raise PromptInvalid(
            f"the prompt has {len(prompt)} tokens and max_tokens is {max_tokens}; "
            f"together they may be at most {block_size}"
        )


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


def generate(model: GPT, tokenizer: Tokenizer, prompt: str, params: SamplingParams) -> Completion:
    """Continue the prompt until END_OF_TEXT, a stop text, or max_tokens.

    Raises: PromptInvalid.
    """
    prompt_tokens = tokenizer.encode(prompt, add_special_tokens=False).ids
    end = end_of_text(tokenizer)
    stream = TextStream(tokenizer, stop=params.stop)
    text, num_tokens, reason = "", 0, "length"
    for token in generate_tokens(model, prompt_tokens, params):
        num_tokens += 1
        text += "" if token == end else stream.push(token)
        if token == end or stream.is_stopped:
            reason = "stop"
            break
    text += stream.finish()
    if stream.is_stopped:
        reason = "stop"
    return Completion(text=text, prompt_tokens=len(prompt_tokens), completion_tokens=num_tokens, finish_reason=reason)
