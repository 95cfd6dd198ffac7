"""Request bodies of /v1, read strictly: what is not supported is refused by name, never ignored."""

import re
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from inference.openai.bounds import Bounds, read_bool, read_number
from inference.openai.errors import ApiError, bad_parameter
from inference.openai.fields import (
    BIAS,
    CHAT_FIELDS,
    CHAT_NUMBERS,
    COMPLETION_FIELDS,
    COMPLETION_NUMBERS,
    DEFAULT_COMPLETION_TOKENS,
    MAX_BIASES,
    MAX_CHOICES,
    MAX_PROMPT_TOKENS,
    MAX_PROMPTS,
    MAX_STOPS,
    UNSUPPORTED_FIELDS,
)
from inference.openai.messages import Message, read_messages

_TOKEN_ID = re.compile(r"0|[1-9][0-9]{0,8}")
Prompts = tuple[str | tuple[int, ...], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameters:
    """A valid request, apart from what only the model can tell: its tokens and its context."""

    model: str
    prompts: Prompts
    """Of POST completions; text or tokens."""
    messages: tuple[Message, ...]
    """Of POST chat/completions."""
    max_tokens: int | None
    """None: whatever the context leaves."""
    n: int
    best_of: int
    """Candidates for each prompt, of which the n best are answered."""
    temperature: float
    top_p: float
    top_k: int | None
    min_p: float
    repetition_penalty: float
    frequency_penalty: float
    presence_penalty: float
    logit_bias: tuple[tuple[int, float], ...]
    seed: int
    stop: tuple[str, ...]
    num_logprobs: int | None
    """How many of the likeliest tokens are told beside each one; None: no log-probabilities at all."""
    is_echo: bool
    """Whether the answer begins with the prompt."""
    is_stream: bool
    includes_usage: bool


def read_completion(body: Mapping[str, Any]) -> Parameters:
    """Raises: ApiError."""
    _refuse_unknown(body, COMPLETION_FIELDS)
    reader = _Reader(body, COMPLETION_NUMBERS)
    prompts = _read_prompts(body.get("prompt"))
    best_of = _read_best_of(reader)
    if len(prompts) * best_of > MAX_CHOICES:
        name = "n" if body.get("best_of") is None else "best_of"
        raise bad_parameter(name, "invalid_value", f"Prompts times '{name}' may be at most {MAX_CHOICES}.")
    return _read(
        reader,
        prompts=prompts,
        messages=(),
        max_tokens=reader.integer("max_tokens", DEFAULT_COMPLETION_TOKENS),
        best_of=best_of,
        num_logprobs=None if body.get("logprobs") is None else reader.integer("logprobs", 0),
    )


def read_chat(body: Mapping[str, Any]) -> Parameters:
    """Raises: ApiError."""
    _refuse_unknown(body, CHAT_FIELDS)
    reader = _Reader(body, CHAT_NUMBERS)
    messages = read_messages(_required(body, "messages"))
    limits = [reader.number(name) for name in ("max_completion_tokens", "max_tokens")]
    given = [int(limit) for limit in limits if limit is not None]
    if len(set(given)) > 1:
        raise bad_parameter(
            "max_tokens", "invalid_value", "'max_tokens' and 'max_completion_tokens' differ: give one of them."
        )
    return _read(
        reader,
        prompts=(),
        messages=messages,
        max_tokens=given[0] if given else None,
        best_of=reader.integer("n", 1),
        num_logprobs=_read_chat_logprobs(reader),
    )


class _Reader:
    """A body, and the bounds of its numbers."""

    def __init__(self, body: Mapping[str, Any], bounds: Mapping[str, Bounds]) -> None:
        self.body = body
        self._bounds = bounds

    def number(self, name: str) -> float | int | None:
        return read_number(self.body.get(name), name, self._bounds[name])

    def integer(self, name: str, default: int) -> int:
        value = self.number(name)
        return default if value is None else int(value)

    def decimal(self, name: str, default: float) -> float:
        value = self.number(name)
        return default if value is None else float(value)

    def boolean(self, name: str) -> bool:
        return read_bool(self.body.get(name), name)


def _read(
    reader: _Reader,
    *,
    prompts: Prompts,
    messages: tuple[Message, ...],
    max_tokens: int | None,
    best_of: int,
    num_logprobs: int | None,
) -> Parameters:
    body = reader.body
    is_stream = reader.boolean("stream")
    n = reader.integer("n", 1)
    if is_stream and best_of > n:
        raise bad_parameter("best_of", "invalid_value", "The best of several cannot be streamed: leave 'best_of' out.")
    top_k = reader.integer("top_k", 0)
    if not isinstance(body.get("user", ""), str | None):
        raise bad_parameter("user", "invalid_type", "Invalid type for 'user': expected a string.")
    return Parameters(
        model=_read_model(body),
        prompts=prompts,
        messages=messages,
        max_tokens=max_tokens,
        n=n,
        best_of=best_of,
        temperature=reader.decimal("temperature", 1.0),
        top_p=reader.decimal("top_p", 1.0),
        top_k=top_k if top_k > 0 else None,
        min_p=reader.decimal("min_p", 0.0),
        repetition_penalty=reader.decimal("repetition_penalty", 1.0),
        frequency_penalty=reader.decimal("frequency_penalty", 0.0),
        presence_penalty=reader.decimal("presence_penalty", 0.0),
        logit_bias=_read_logit_bias(body.get("logit_bias")),
        seed=reader.integer("seed", secrets.randbelow(2**63)),
        stop=_read_stop(body.get("stop")),
        num_logprobs=num_logprobs,
        is_echo=reader.boolean("echo"),
        is_stream=is_stream,
        includes_usage=_read_stream_options(body.get("stream_options"), is_stream=is_stream),
    )


def _refuse_unknown(body: Mapping[str, Any], supported: Collection[str]) -> None:
    for name, value in body.items():
        if name in supported:
            continue
        if name not in UNSUPPORTED_FIELDS:
            raise ApiError(400, None, f"Unrecognized request argument supplied: {name}", param=name)
        if value is None or any(type(value) is type(inert) and value == inert for inert in _inert_values(name)):
            continue
        raise bad_parameter(name, "unsupported_parameter", f"'{name}' is not supported with this value.")


def _inert_values(name: str) -> tuple[Any, ...]:
    values = UNSUPPORTED_FIELDS[name]
    return (*values, *(float(value) for value in values if type(value) is int))


def _required(body: Mapping[str, Any], name: str) -> Any:
    if body.get(name) is None:
        raise bad_parameter(name, "missing_required_parameter", f"Missing required parameter: '{name}'.")
    return body[name]


def _read_model(body: Mapping[str, Any]) -> str:
    model = _required(body, "model")
    if not isinstance(model, str) or not model:
        raise bad_parameter("model", "invalid_type", "Invalid type for 'model': expected the name of a model.")
    return model


def _read_best_of(reader: _Reader) -> int:
    n = reader.integer("n", 1)
    best_of = reader.integer("best_of", n) or n
    if best_of < n:
        raise bad_parameter("best_of", "invalid_value", f"'best_of' ({best_of}) must be at least 'n' ({n}).")
    return best_of


def _read_chat_logprobs(reader: _Reader) -> int | None:
    num_top = reader.number("top_logprobs")
    if reader.boolean("logprobs"):
        return int(num_top or 0)
    if num_top is not None:
        raise bad_parameter("top_logprobs", "invalid_value", "'top_logprobs' is only allowed when 'logprobs' is true.")
    return None


def _read_logit_bias(value: Any) -> tuple[tuple[int, float], ...]:
    """Tokens and their biases; whether the model has such tokens is looked at later."""
    if value is None:
        return ()
    if not isinstance(value, dict):
        raise bad_parameter("logit_bias", "invalid_type", "Invalid type for 'logit_bias': expected an object.")
    if len(value) > MAX_BIASES:
        raise bad_parameter("logit_bias", "object_above_max_properties", f"At most {MAX_BIASES} tokens can be biased.")
    return tuple((_read_token(token), _read_bias(token, bias)) for token, bias in value.items())


def _read_token(text: str) -> int:
    if not _TOKEN_ID.fullmatch(text):
        raise bad_parameter(
            f"logit_bias.{text}", "invalid_value", f"Invalid key in 'logit_bias': {text!r} is no token ID."
        )
    return int(text)


def _read_bias(token: str, value: Any) -> float:
    bias = read_number(value, f"logit_bias.{token}", BIAS)
    if bias is None:
        raise bad_parameter(f"logit_bias.{token}", "invalid_type", "Invalid type for a bias: expected a number.")
    return float(bias)


def _read_stop(value: Any) -> tuple[str, ...]:
    stops = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise bad_parameter("stop", "invalid_type", "Invalid type for 'stop': expected a string or a list of strings.")
    if len(stops) > MAX_STOPS:
        raise bad_parameter("stop", "array_above_max_length", f"Invalid 'stop': at most {MAX_STOPS} strings.")
    if not all(stops):
        raise bad_parameter("stop", "empty_string", "Invalid 'stop': an empty string would end every text.")
    return tuple(stops)


def _read_stream_options(value: Any, *, is_stream: bool) -> bool:
    if value is None:
        return False
    if not is_stream:
        raise bad_parameter(
            "stream_options", "invalid_value", "The 'stream_options' parameter is only allowed when 'stream' is true."
        )
    if not isinstance(value, dict):
        raise bad_parameter("stream_options", "invalid_type", "Invalid type for 'stream_options': expected an object.")
    for name in value:
        if name not in {"include_usage", "include_obfuscation"}:
            raise bad_parameter(f"stream_options.{name}", "unknown_parameter", f"'{name}' is not a stream option.")
    if read_bool(value.get("include_obfuscation"), "stream_options.include_obfuscation"):
        raise bad_parameter(
            "stream_options.include_obfuscation", "unsupported_parameter", "Streams are not obfuscated here."
        )
    return read_bool(value.get("include_usage"), "stream_options.include_usage")


def _read_prompts(value: Any) -> Prompts:
    """All four forms: a string, strings, a list of tokens, lists of tokens."""
    if value is None:
        return ("",)
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list):
        _check_num_tokens(value)
    if isinstance(value, list) and value and len(value) <= MAX_PROMPTS and all(isinstance(p, str) for p in value):
        return tuple(value)
    if _is_tokens(value):
        return (tuple(value),)
    if isinstance(value, list) and value and len(value) <= MAX_PROMPTS and all(_is_tokens(prompt) for prompt in value):
        return tuple(tuple(prompt) for prompt in value)
    raise bad_parameter(
        "prompt",
        "invalid_type",
        f"Invalid 'prompt': expected a string, a list of tokens, or a list of up to {MAX_PROMPTS} of either.",
    )


def _check_num_tokens(value: list[Any]) -> None:
    """Before each of them is looked at, which takes its time. Raises: ApiError."""
    is_one_prompt = len(value) > MAX_PROMPTS
    num_tokens = len(value) if is_one_prompt else sum(len(prompt) for prompt in value if isinstance(prompt, list))
    if num_tokens > MAX_PROMPT_TOKENS:
        raise bad_parameter(
            "prompt",
            "array_above_max_length",
            f"Invalid 'prompt': a request has at most {MAX_PROMPT_TOKENS} tokens in its prompts, not {num_tokens}.",
        )


def _is_tokens(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(token) is int and token >= 0 for token in value)
