"""Answers of last resort, in the form that each part of the site speaks: OpenAI's, problem details, or a page."""

from http import HTTPStatus

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views import defaults

from contributors.problems import MEDIA_TYPE
from inference.openai.errors import ApiError


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """404 of an address that nothing answers."""
    if request.path.startswith("/api/"):
        return _problem(HTTPStatus.NOT_FOUND, "not_found", "Nothing is at this address: /api/schema/ lists them all.")
    return defaults.page_not_found(request, exception)


def server_error(request: HttpRequest) -> HttpResponse:
    """500 of a fault of ours; the log has its traceback."""
    sentence = "The coordinator failed at this request; its log says why. Trying again may help."
    if request.path.startswith("/v1/"):
        return ApiError(500, "internal_error", sentence, kind="server_error").response()
    if request.path.startswith("/api/"):
        return _problem(HTTPStatus.INTERNAL_SERVER_ERROR, "internal_error", sentence)
    return defaults.server_error(request)


def _problem(status: HTTPStatus, code: str, detail: str) -> JsonResponse:
    body = {"type": "about:blank", "title": status.phrase, "status": status.value, "code": code, "detail": detail}
    return JsonResponse(body, status=status, content_type=MEDIA_TYPE)
