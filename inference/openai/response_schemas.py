"""JSON schemas of the response bodies of /v1, in OpenAPI 3.0's dialect: what shapes.py writes."""

from typing import Any

Schema = dict[str, Any]
TEXT: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0}
NUMBER: Schema = {"type": "number"}
FINISH_REASON: Schema = {"enum": ["stop", "length"]}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _object(**properties: Schema) -> Schema:
    """With all of these properties, and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _response(kind: str, **properties: Schema) -> Schema:
    return _object(id=TEXT, object={"enum": [kind]}, created=COUNT, model=TEXT, system_fingerprint=TEXT, **properties)


USAGE = _object(prompt_tokens=COUNT, completion_tokens=COUNT, total_tokens=COUNT)
TEXT_LOGPROBS = _object(
    tokens=_list(TEXT),
    token_logprobs=_list(NUMBER),
    top_logprobs=_list({"type": "object", "additionalProperties": NUMBER}),
    text_offset=_list(COUNT),
)
_TOKEN: dict[str, Schema] = {"token": TEXT, "logprob": NUMBER, "bytes": _list({**COUNT, "maximum": 255})}
CHAT_LOGPROBS = _object(
    content=_list(_object(**_TOKEN, top_logprobs=_list(_object(**_TOKEN)))), refusal={"nullable": True, "enum": [None]}
)
COMPLETION = _response(
    "text_completion",
    choices=_list(
        _object(index=COUNT, text=TEXT, logprobs={**TEXT_LOGPROBS, "nullable": True}, finish_reason=FINISH_REASON)
    ),
    usage=USAGE,
)
CHAT_COMPLETION = _response(
    "chat.completion",
    choices=_list(
        _object(
            index=COUNT,
            message=_object(role={"enum": ["assistant"]}, content=TEXT, refusal={"nullable": True, "enum": [None]}),
            logprobs={**CHAT_LOGPROBS, "nullable": True},
            finish_reason=FINISH_REASON,
        )
    ),
    usage=USAGE,
)
MODEL = _object(id=TEXT, object={"enum": ["model"]}, created=COUNT, owned_by=TEXT)
MODELS = _object(object={"enum": ["list"]}, data=_list(MODEL))
ERROR = _object(
    error=_object(
        message=TEXT,
        type=TEXT,
        param={"type": "string", "nullable": True},
        code={"type": "string", "nullable": True},
    )
)
EVENTS: Schema = {
    "type": "object",
    "description": "Each server-sent event; its data is a chunk as JSON, of the last one `[DONE]`.",
    "properties": {"data": TEXT},
    "required": ["data"],
}

RESPONSES: dict[str, dict[tuple[int, str], Schema]] = {
    "completions": {(200, "application/json"): COMPLETION, (200, "text/event-stream"): EVENTS},
    "chat/completions": {(200, "application/json"): CHAT_COMPLETION, (200, "text/event-stream"): EVENTS},
    "models": {(200, "application/json"): MODELS},
    "models/{name}": {(200, "application/json"): MODEL},
}
"""By the path below /v1, as extend_schema takes them."""
