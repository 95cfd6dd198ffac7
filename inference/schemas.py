"""What the OpenAPI document says of each address under /v1: bodies, errors, headers, as extend_schema takes them."""

from typing import Any

from drf_spectacular.utils import OpenApiParameter, OpenApiResponse

from contributors.models import ApiKey, Scope
from inference.billing.idempotency import MAX_KEY_CHARS
from inference.billing.limits import REQUESTS, TOKENS
from inference.openai import errors, request_schemas, response_schemas

Schema = dict[str, Any]
Documented = dict[str, Any]
JSON = "application/json"

CREDITS_OF_KEY: Schema = {"type": "integer", "minimum": 0, "nullable": True}
PER_MINUTE: Schema = {"type": "integer", "minimum": 1, "nullable": True, "description": "null: no limit."}
TIME: Schema = {"type": "string", "format": "date-time", "nullable": True}


def _data(**properties: Schema) -> Schema:
    inner = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return {"type": "object", "properties": {"data": inner}, "required": ["data"], "additionalProperties": False}


KEY_BODY = _data(
    name={"type": "string"},
    prefix={"type": "string"},
    scopes={"type": "array", "items": {"enum": Scope.values}},
    is_shared={"type": "boolean"},
    limit={**CREDITS_OF_KEY, "description": "Credits that the key may spend in a period."},
    limit_period={"enum": ApiKey.CapPeriod.values},
    usage={"type": "integer", "minimum": 0, "description": "Spent in this period, with what is held at most."},
    limit_remaining=CREDITS_OF_KEY,
    limit_resets_at=TIME,
    requests_per_minute=PER_MINUTE,
    tokens_per_minute=PER_MINUTE,
    expires_at=TIME,
)
CREDITS_BODY = _data(
    total_credits={"type": "integer", "description": "All that was ever available."},
    total_usage={"type": "integer"},
    available={"type": "integer", "minimum": 0},
    held={"type": "integer", "minimum": 0},
    escrow={"type": "integer", "minimum": 0},
)
MEANINGS = {
    400: "A field is wrong; `param` names it.",
    401: "The API key is missing, unknown, revoked or expired.",
    403: "The API key may not complete.",
    404: "There is no such model.",
    405: "The address does not know this method.",
    409: "The first request with this Idempotency-Key is still under way.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    422: "The Idempotency-Key came before with another request, or its answer was too large to be kept.",
    429: "`insufficient_quota`: credits or the key's cap are used up. `rate_limit_exceeded`: see Retry-After.",
    503: "No engine serves the model at the moment, or the database is away.",
}


def _documented(answers: dict[tuple[int, str], Schema], *statuses: int, **others: Any) -> Documented:
    responses: dict[Any, Any] = {of: OpenApiResponse(schema) for of, schema in answers.items()}
    for status in statuses:
        responses[status, JSON] = OpenApiResponse(response_schemas.ERROR, description=MEANINGS[status])
    return {"responses": responses, **others}


def _header(name: str, description: str, *statuses: int, kind: type = str) -> OpenApiParameter:
    return OpenApiParameter(
        name, kind, OpenApiParameter.HEADER, description=description, response=list(statuses) or True
    )


REQUEST_ID = _header("x-request-id", "Names the request in the server's log.")
RATE_HEADERS = [
    _header(f"x-ratelimit-{what}-{kind}", f"{kind.capitalize()} {meaning}", kind=of)
    for kind in (REQUESTS, TOKENS)
    for what, meaning, of in (
        ("limit", "per minute, of whichever of key and owner has less left.", int),
        ("remaining", "left at the moment.", int),
        ("reset", "are all there again after so long, as 6m0s or 120ms.", str),
    )
]
COMPLETION_HEADERS = [
    OpenApiParameter(
        errors.IDEMPOTENCY_HEADER,
        {"type": "string", "minLength": 1, "maxLength": MAX_KEY_CHARS, "pattern": "^[ -~]+$"},
        OpenApiParameter.HEADER,
        description="The same key and body again within 24 hours gets the first answer again, and is billed once.",
    ),
    REQUEST_ID,
    *RATE_HEADERS,
    _header("idempotency-replayed", "true: this answer was given before.", 200),
    _header("Retry-After", "Seconds.", 409, 429, 503),
    _header("x-should-retry", "Whether asking again may help.", 409, 429),
]


def _completion(path: str, body: Schema) -> Documented:
    return _documented(
        response_schemas.RESPONSES[path],
        *(400, 401, 403, 404, 409, 413, 415, 422, 429, 503),
        request={JSON: body},
        parameters=COMPLETION_HEADERS,
    )


TEXT_COMPLETION = _completion("completions", request_schemas.COMPLETION_SCHEMA)
CHAT_COMPLETION = _completion("chat/completions", request_schemas.CHAT_SCHEMA)
MODELS = _documented(response_schemas.RESPONSES["models"], 401, 403, 503, parameters=[REQUEST_ID])
MODEL = _documented(response_schemas.RESPONSES["models/{name}"], 401, 403, 404, 503, parameters=[REQUEST_ID])
KEY = _documented({(200, JSON): KEY_BODY}, 401, 403, 503, parameters=[REQUEST_ID])
CREDITS = _documented({(200, JSON): CREDITS_BODY}, 401, 403, 503, parameters=[REQUEST_ID])
