"""How other engines are asked: a wire request as the body that each of them takes, and its stream as pieces.

| dialect   | of                                   | prompts                    | tokens are                          |
|-----------|--------------------------------------|----------------------------|-------------------------------------|
| vllm      | `vllm serve`                         | tokens                     | told, one by one                    |
| llamacpp  | `llama-server`                       | tokens                     | counted by it, its end token as well |
| openai    | others, as llama-cpp-python's server | tokens, else their text    | counted here, in the text           |

What is refused: what the server cannot do, or does otherwise than ml.sampling.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tokenizers import Tokenizer

from inference.wire import GenerationRequest

Json = dict[str, Any]
SEEDS = 2**31
"""All of them take seeds below that."""


class Refused(Exception):
    """The server cannot do what a field asks for."""

    def __init__(self, param: str, reason: str) -> None:
        super().__init__(f"The engine that serves this model cannot do '{param}': {reason}.")
        self.param = param


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """What one event of the server's stream adds to a text."""

    text: str
    tokens: tuple[int, ...] | None = None
    num_tokens: int | None = None
    """Of the text so far, where the server counts them and tells no tokens."""
    finish_reason: str | None = None


class Dialect(Protocol):
    name: str
    path: str

    def body(self, request: GenerationRequest, index: int) -> Json:
        """Raises: Refused."""

    def read(self, data: Json) -> Chunk: ...


class VLLM:
    name = "vllm"
    path = "/v1/completions"

    def __init__(self, model: str) -> None:
        self._model = model

    def body(self, request: GenerationRequest, index: int) -> Json:
        _refuse_logprobs(request)
        return {
            **_common(request, index),
            "model": self._model,
            "prompt": list(_prompt(request, index)),
            "max_tokens": request.max_tokens,
            "top_k": request.top_k or 0,
            "repetition_penalty": request.repetition_penalty,
            "frequency_penalty": request.frequency_penalty,
            "presence_penalty": request.presence_penalty,
            "logit_bias": {str(token): bias for token, bias in request.logit_bias},
            "stop_token_ids": list(request.stop_tokens),
            "return_token_ids": True,
        }

    def read(self, data: Json) -> Chunk:
        choice = data["choices"][0]
        tokens = choice.get("token_ids")
        return Chunk(
            text=choice["text"],
            tokens=None if tokens is None else tuple(tokens),
            finish_reason=_reason(choice["finish_reason"]),
        )


class LlamaServer:
    """By its own /completion, which tells how many tokens it has generated.

    It tells tokens as well, but not those that end within a character.
    """

    name = "llamacpp"
    path = "/completion"

    def body(self, request: GenerationRequest, index: int) -> Json:
        _refuse_logprobs(request)
        _refuse_penalties(request, "it would count the prompt's tokens, too")
        return {
            **_common(request, index),
            "prompt": list(_prompt(request, index)),
            "n_predict": request.max_tokens,
            "top_k": request.top_k or 0,
            "repeat_penalty": request.repetition_penalty,
            # The whole text; some of its versions have another word for that.
            "repeat_last_n": len(_prompt(request, index)) + request.max_tokens,
            "logit_bias": [[token, bias] for token, bias in request.logit_bias],
            # Temperature first, as ml.sampling has it; its own order is another one.
            "samplers": ["penalties", "temperature", "top_k", "top_p", "min_p"],
        }

    def read(self, data: Json) -> Chunk:
        reason = None
        if data["stop"]:
            reason = "length" if data["stop_type"] == "limit" else "stop"
        return Chunk(text=data["content"], num_tokens=data["tokens_predicted"], finish_reason=reason)


class OpenAI:
    """Any other server. What is not in OpenAI's own API and cannot be left at its default is refused."""

    name = "openai"
    path = "/v1/completions"

    def __init__(self, model: str, tokenizer: Tokenizer, *, takes_tokens: bool) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._takes_tokens = takes_tokens

    def body(self, request: GenerationRequest, index: int) -> Json:
        _refuse_logprobs(request)
        if request.repetition_penalty != 1.0:
            raise Refused("repetition_penalty", "servers differ in which tokens they count")
        _refuse_penalties(request, "servers differ in which tokens they count")
        prompt = list(_prompt(request, index))
        return {
            **_common(request, index),
            "model": self._model,
            "prompt": prompt if self._takes_tokens else self._text_of(prompt),
            "max_tokens": request.max_tokens,
            "top_k": request.top_k or 0,
            "logit_bias": {str(token): bias for token, bias in request.logit_bias} or None,
        }

    def read(self, data: Json) -> Chunk:
        choice = data["choices"][0]
        return Chunk(text=choice["text"], finish_reason=_reason(choice["finish_reason"]))

    def _text_of(self, prompt: list[int]) -> str:
        """The text that becomes these tokens again. Raises: Refused where there is none."""
        text: str = self._tokenizer.decode(prompt, skip_special_tokens=False)
        if self._tokenizer.encode(text, add_special_tokens=False).ids != prompt:
            raise Refused("prompt", "it takes texts alone, and these tokens are those of no text")
        return text


def count_tokens(tokenizer: Tokenizer, text: str) -> int:
    """How a text is counted whose tokens nobody tells; anybody with the tokenizer can repeat it."""
    return len(tokenizer.encode(text, add_special_tokens=False).ids)


def settled(text: str) -> str:
    """The part of a text whose tokens nothing that follows can change: its last word may still grow into others."""
    end = text.rfind(" ")
    return text[: end + 1].rstrip(" ") if end >= 0 else ""


def _common(request: GenerationRequest, index: int) -> Json:
    return {
        "stream": True,
        "seed": (request.seed + index) % SEEDS,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "min_p": request.min_p,
    }


def _prompt(request: GenerationRequest, index: int) -> Sequence[int]:
    return request.prompts[index // request.n]


def _reason(given: str | None) -> str | None:
    """Anything but the limit is a stop to the client."""
    return given if given in (None, "length") else "stop"


def _refuse_logprobs(request: GenerationRequest) -> None:
    if request.num_logprobs is not None or request.has_prompt_logprobs:
        raise Refused("logprobs", "it tells none of its tokens")


def _refuse_penalties(request: GenerationRequest, reason: str) -> None:
    for param in ("frequency_penalty", "presence_penalty"):
        if getattr(request, param):
            raise Refused(param, reason)
