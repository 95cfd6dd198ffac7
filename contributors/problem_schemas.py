"""Errors in the OpenAPI document: what any address of /api/v1 may answer, said once."""

from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from contributors.problems import MEDIA_TYPE

PREFIX = "/api/v1/"
METHODS = ("get", "put", "post", "patch", "delete", "head")
PROBLEM = {
    "type": "object",
    "description": "Problem details, RFC 9457; some problems have more members.",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string", "description": "For programs."},
        "detail": {"type": "string", "description": "For people."},
    },
    "required": ["type", "title", "status", "code", "detail"],
}
OF_BODIES = (400, 413, 415)
OF_KEYS = (401, 403)
OF_STATES = (409, 410)
OF_JOINING = (409, 429)
OF_UPLOADS = (400, 413, 422, 507)


def document_problems(result: dict[str, Any], generator: Any, request: Any, public: bool) -> dict[str, Any]:
    """drf-spectacular's postprocessing hook."""
    for path, operations in result["paths"].items():
        if path.startswith(PREFIX):
            for operation in (operations[method] for method in METHODS if method in operations):
                _document(path, operation)
    result["components"]["schemas"]["ProblemSchema"] = PROBLEM
    return result


def _document(path: str, operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    documented = {int(status) for status in responses if int(status) >= HTTPStatus.BAD_REQUEST}
    for status in sorted({*documented, *_possible(path, operation)}):
        before = responses.get(str(status), {})
        responses[str(status)] = {
            "description": before.get("description") or HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemSchema"}}},
        }


def _possible(path: str, operation: dict[str, Any]) -> Iterator[int]:
    """Statuses that follow from what the operation takes."""
    yield HTTPStatus.SERVICE_UNAVAILABLE
    places = {parameter["in"] for parameter in operation.get("parameters", ())}
    if {} not in operation.get("security", [{}]):
        yield from OF_KEYS
    if "path" in places or "query" in places:
        yield HTTPStatus.NOT_FOUND
    if "requestBody" in operation or "query" in places:
        yield from OF_BODIES
    if "/attempts/" in path:
        yield from OF_STATES
    if path in {f"{PREFIX}contributors", f"{PREFIX}devices"}:
        yield from OF_JOINING
    if path.endswith("/delta"):
        yield from OF_UPLOADS
