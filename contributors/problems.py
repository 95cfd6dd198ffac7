"""Errors of /api/v1/ as RFC 9457 problem details, with an extra member `code` for programs."""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from django.db import OperationalError
from django.http import Http404
from rest_framework.exceptions import APIException, PermissionDenied, ValidationError
from rest_framework.response import Response
from rest_framework.serializers import CharField, IntegerField, Serializer
from rest_framework.views import exception_handler

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"


class Problem(APIException):
    """What a view raises: a status, a code for programs, a sentence that says what to do, and more members if need be.

    raise Problem(409, "offset_mismatch", "Go on from the given offset.", offset=4096)
    """

    def __init__(
        self, status: int, code: str, detail: str, *, headers: Mapping[str, str] | None = None, **members: Any
    ) -> None:
        super().__init__(detail, code)
        self.status_code = status
        self.headers = dict(headers or {})
        self.members = members


class ProblemSchema(Serializer[Any]):
    """Shape of every error body, for the OpenAPI document."""

    type = CharField()
    title = CharField()
    status = IntegerField()
    code = CharField()
    detail = CharField()


def problem_details(error: Exception, context: Mapping[str, Any]) -> Response | None:
    """REST framework's exception handler; None lets an error that no view foresaw become a 500."""
    if isinstance(error, OperationalError):
        logger.error("The database cannot answer: %s", error)
        error = _database_unavailable()
    response = exception_handler(error, dict(context))
    if response is None:
        return None
    members: dict[str, Any] = {}
    if isinstance(error, Problem):
        members = error.members
        for name, value in error.headers.items():
            response[name] = value
    elif isinstance(error, ValidationError):
        members = {"errors": response.data}
    response.data = {
        "type": "about:blank",
        "title": HTTPStatus(response.status_code).phrase,
        "status": response.status_code,
        "code": _code(error),
        "detail": _sentence(error),
        **members,
    }
    response.content_type = MEDIA_TYPE
    return response


def _database_unavailable() -> Problem:
    sentence = "The coordinator's database is away or its disk is full: try again later."
    return Problem(HTTPStatus.SERVICE_UNAVAILABLE, "database_unavailable", sentence, headers={"Retry-After": "5"})


def _code(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return "invalid"
    if isinstance(error, APIException) and not isinstance(error.detail, list | dict):
        return str(error.detail.code)
    return "not_found" if isinstance(error, Http404) else PermissionDenied.default_code


def _sentence(error: Exception) -> str:
    if isinstance(error, APIException):
        return _first_message(error.detail)
    return "There is nothing at this address." if isinstance(error, Http404) else str(PermissionDenied.default_detail)


def _first_message(detail: Any) -> str:
    """The first message of a validation error, with the path of the field that it is about."""
    if isinstance(detail, dict):
        name, inner = next(iter(detail.items()))
        return _first_message(inner) if name == "non_field_errors" else f"{name}: {_first_message(inner)}"
    return _first_message(detail[0]) if isinstance(detail, list) else str(detail)
