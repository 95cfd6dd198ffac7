"""JSON schemas of the request bodies of /v1, in OpenAPI 3.0's dialect, from the tables that bodies are read by.

What they refuse is refused. What they allow is answered, save for what they cannot say: tokens and contexts that the
model does not have, `best_of` below `n`, prompts times choices above MAX_CHOICES, prompts of more tokens than
MAX_PROMPT_TOKENS, more than MAX_LOGPROBS log-probabilities, a chat that ends with an answer, two limits of one answer
that differ.
"""

from collections.abc import Mapping
from typing import Any

from inference.openai.bounds import Bounds
from inference.openai.fields import (
    BIAS,
    CHAT_FIELDS,
    CHAT_NUMBERS,
    COMPLETION_FIELDS,
    COMPLETION_NUMBERS,
    MAX_BIASES,
    MAX_PROMPTS,
    MAX_STOPS,
    UNSUPPORTED_FIELDS,
)
from inference.openai.messages import MAX_MESSAGES, ROLES

Schema = dict[str, Any]
NULL: Schema = {"nullable": True, "enum": [None]}
BOOLEAN: Schema = {"type": "boolean", "nullable": True}
TEXT: Schema = {"type": "string"}
WORD: Schema = {"type": "string", "minLength": 1}


def _list(items: Schema, *, most: int | None = None) -> Schema:
    return {"type": "array", "items": items, "minItems": 1, **({} if most is None else {"maxItems": most})}


def _object(properties: Schema, *, required: tuple[str, ...] = (), others: Schema | bool = False) -> Schema:
    schema: Schema = {"type": "object", "properties": properties, "additionalProperties": others}
    return {**schema, "required": list(required)} if required else schema


def _only_with(name: str, switch: str) -> Schema:
    """`name` is left out unless `switch` is true."""
    on = {"properties": {switch: {"enum": [True]}}, "required": [switch]}
    return {"anyOf": [on, {"properties": {name: NULL}}]}


TOKENS = _list({"type": "integer", "minimum": 0})
PROMPT: Schema = {"anyOf": [TEXT, _list(TEXT, most=MAX_PROMPTS), TOKENS, _list(TOKENS, most=MAX_PROMPTS), NULL]}
PART = _object({"type": {"enum": ["text"]}, "text": TEXT}, required=("type", "text"))
MESSAGE = _object(
    {"role": {"enum": sorted(ROLES)}, "content": {"anyOf": [TEXT, _list(PART)]}},
    required=("role", "content"),
    others={"nullable": True, "enum": [None, [], {}]},
)
STREAM_OPTIONS = _object(
    {"include_usage": BOOLEAN, "include_obfuscation": {"nullable": True, "enum": [False, None]}}
) | {"nullable": True}
OTHERS: Schema = {
    "model": {**WORD, "description": "A name that GET /v1/models lists."},
    "stop": {"anyOf": [WORD, {"type": "array", "items": WORD, "maxItems": MAX_STOPS}, NULL]},
    "stream": {**BOOLEAN, "description": "Server-sent events, the last of which is `data: [DONE]`."},
    "stream_options": STREAM_OPTIONS,
    "logit_bias": {
        "type": "object",
        "nullable": True,
        "maxProperties": MAX_BIASES,
        "additionalProperties": {**BIAS.schema, "nullable": False},
        "description": "Token IDs, as decimal numbers, and what is added to their logits.",
    },
    "user": {"type": "string", "nullable": True},
    "prompt": PROMPT,
    "echo": BOOLEAN,
    "messages": {**_list(MESSAGE, most=MAX_MESSAGES), "description": "The last one is no answer."},
}


def _body(
    fields: frozenset[str],
    numbers: Mapping[str, Bounds],
    own: Schema,
    *,
    required: tuple[str, ...],
    rules: list[Schema],
) -> Schema:
    given = {**OTHERS, **{name: bounds.schema for name, bounds in numbers.items()}, **own}
    inert = {
        name: {"nullable": True, "enum": [*values, None], "description": "Not supported: other values are refused."}
        for name, values in UNSUPPORTED_FIELDS.items()
        if name not in fields
    }
    return {**_object({name: given[name] for name in sorted(fields)} | inert, required=required), "allOf": rules}


COMPLETION_SCHEMA = _body(
    COMPLETION_FIELDS, COMPLETION_NUMBERS, {}, required=("model",), rules=[_only_with("stream_options", "stream")]
)
CHAT_SCHEMA = _body(
    CHAT_FIELDS,
    CHAT_NUMBERS,
    {"logprobs": BOOLEAN},
    required=("model", "messages"),
    rules=[_only_with("stream_options", "stream"), _only_with("top_logprobs", "logprobs")],
)
