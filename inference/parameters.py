"""Request bodies of /v1, read strictly: what is not supported is refused by name, never ignored."""

import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from inference.bounds import Bounds, read_bool, read_number
from inference.errors import ApiError, bad_parameter
from inference.messages import Message, read_messages

MAX_STOPS = 4
MAX_CHOICES = 128
"""Prompts times n, of one request."""
MAX_PROMPTS = 128
DEFAULT_COMPLETION_TOKENS = 16

_NUMBERS: dict[str, Bounds] = {
    "temperature": Bounds(least=0, most=2),
    "top_p": Bounds(least=0, most=1),
    "min_p": Bounds(least=0, most=1),
    "repetition_penalty": Bounds(least=0.01, most=10),
    "n": Bounds(least=1, most=MAX_CHOICES, is_integer=True),
    "seed": Bounds(least=-(2**63), most=2**63 - 1, is_integer=True),
    "top_k": Bounds(least=-1, most=10_000_000, is_integer=True),
    "max_tokens": Bounds(least=1, most=10_000_000, is_integer=True),
    "max_completion_tokens": Bounds(least=1, most=10_000_000, is_integer=True),
}
_SHARED = {
    "model", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "n", "seed", "stop", "stream",
    "stream_options", "max_tokens", "user",
}  # fmt: skip
COMPLETION_FIELDS = frozenset(_SHARED | {"prompt"})
CHAT_FIELDS = frozenset(_SHARED | {"messages", "max_completion_tokens"})

UNSUPPORTED_FIELDS: dict[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "echo": (False,),
    "logprobs": (False,),
    "suffix": ("",),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "store": (False,),
    "metadata": ({},),
    "service_tier": ("auto", "default"),
    "top_logprobs": (),
    "audio": (),
    "moderation": (),
    "parallel_tool_calls": (True, False),
    "prediction": (),
    "prompt_cache_key": (),
    "prompt_cache_options": (),
    "prompt_cache_retention": (),
    "reasoning_effort": ("none",),
    "safety_identifier": (),
    "verbosity": (),
    "web_search_options": (),
}
"""OpenAI's fields that are not supported, each with the values that ask for nothing; null always does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameters:
    """A valid request, apart from what only the model can tell: its tokens and its context."""

    model: str
    prompts: tuple[str | tuple[int, ...], ...]
    """Of POST completions; text or tokens."""
    messages: tuple[Message, ...]
    """Of POST chat/completions."""
    max_tokens: int | None
    """None: whatever the context leaves."""
    n: int
    temperature: float
    top_p: float
    top_k: int | None
    min_p: float
    repetition_penalty: float
    seed: int
    stop: tuple[str, ...]
    is_stream: bool
    includes_usage: bool


def read_completion(body: Mapping[str, Any]) -> Parameters:
    """Raises: ApiError."""
    _refuse_unknown(body, COMPLETION_FIELDS)
    prompts = _read_prompts(body.get("prompt"))
    max_tokens = _integer(body, "max_tokens", DEFAULT_COMPLETION_TOKENS)
    parameters = _read(body, prompts=prompts, messages=(), max_tokens=max_tokens)
    if len(prompts) * parameters.n > MAX_CHOICES:
        raise bad_parameter("n", "invalid_value", f"Prompts times 'n' may be at most {MAX_CHOICES}.")
    return parameters


def read_chat(body: Mapping[str, Any]) -> Parameters:
    """Raises: ApiError."""
    _refuse_unknown(body, CHAT_FIELDS)
    messages = read_messages(_required(body, "messages"))
    limits = [_number(body, name) for name in ("max_completion_tokens", "max_tokens")]
    given = [int(limit) for limit in limits if limit is not None]
    if len(set(given)) > 1:
        raise bad_parameter(
            "max_tokens", "invalid_value", "'max_tokens' and 'max_completion_tokens' differ: give one of them."
        )
    return _read(body, prompts=(), messages=messages, max_tokens=given[0] if given else None)


def _read(
    body: Mapping[str, Any],
    *,
    prompts: tuple[str | tuple[int, ...], ...],
    messages: tuple[Message, ...],
    max_tokens: int | None,
) -> Parameters:
    is_stream = read_bool(body.get("stream"), "stream")
    top_k = _integer(body, "top_k", 0)
    if not isinstance(body.get("user", ""), str | None):
        raise bad_parameter("user", "invalid_type", "Invalid type for 'user': expected a string.")
    return Parameters(
        model=_read_model(body),
        prompts=prompts,
        messages=messages,
        max_tokens=max_tokens,
        n=_integer(body, "n", 1),
        temperature=_float(body, "temperature", 1.0),
        top_p=_float(body, "top_p", 1.0),
        top_k=top_k if top_k > 0 else None,
        min_p=_float(body, "min_p", 0.0),
        repetition_penalty=_float(body, "repetition_penalty", 1.0),
        seed=_integer(body, "seed", secrets.randbelow(2**63)),
        stop=_read_stop(body.get("stop")),
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


def _number(body: Mapping[str, Any], name: str) -> float | int | None:
    return read_number(body.get(name), name, _NUMBERS[name])


def _integer(body: Mapping[str, Any], name: str, default: int) -> int:
    value = _number(body, name)
    return default if value is None else int(value)


def _float(body: Mapping[str, Any], name: str, default: float) -> float:
    value = _number(body, name)
    return default if value is None else float(value)


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


def _read_prompts(value: Any) -> tuple[str | tuple[int, ...], ...]:
    """All four forms: a string, strings, a list of tokens, lists of tokens."""
    if value is None:
        return ("",)
    if isinstance(value, str):
        return (value,)
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


def _is_tokens(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(token) is int for token in value)
