"""What all addresses under /v1 have in common: REST framework's views, asynchronous, with OpenAI's errors."""

import logging
import time
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from adrf.views import APIView
from django.core.exceptions import RequestDataTooBig
from django.db import OperationalError, close_old_connections
from django.http import Http404, HttpRequest, HttpResponseBase
from rest_framework import exceptions
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.permissions import IsAuthenticated
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.request import Request

from contributors.authentication import ApiKeyAuthentication, HasScope
from contributors.models import ApiKey, Scope
from contributors.parsers import BodyTooLarge, BoundedJSONParser
from inference.billing.limits import Allowance
from inference.openai import errors
from inference.openai.errors import ApiError
from ml.protocol import UPLOAD_CHUNK_BYTES
from training.blobs import BlobUnavailable

logger = logging.getLogger(__name__)

READ = ["get", "head"]
WRITE = ["post"]


class BodyParser(BoundedJSONParser):
    max_bytes = UPLOAD_CHUNK_BYTES


class AnyAccept(BaseContentNegotiation):
    """Clients name in Accept what suits them, and mean JSON, or events where they ask for a stream."""

    def select_parser(self, request: Request, parsers: Iterable[BaseParser]) -> BaseParser | None:
        kind = (request.content_type or "").partition(";")[0].strip().lower()
        return next((parser for parser in parsers if parser.media_type == kind), None)

    def select_renderer(
        self, request: Request, renderers: Iterable[BaseRenderer], format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        renderer = next(iter(renderers))
        return renderer, str(renderer.media_type)


class Endpoint(APIView):
    """Asks for a key that may complete; a subclass has the handlers, all of them coroutines."""

    authentication_classes = (ApiKeyAuthentication,)
    permission_classes = (IsAuthenticated, HasScope)
    required_scope = Scope.COMPLETION
    renderer_classes = (JSONRenderer,)
    parser_classes = (BodyParser,)
    content_negotiation_class = AnyAccept
    allowance: Allowance | None = None
    """Set once the request is counted."""

    def setup(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        super().setup(request, *args, **kwargs)
        self.started_at = time.monotonic()

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """In the request's thread: who asks, and may they? The connection goes back: a stream lasts for minutes."""
        if (request.method or "").lower() not in self.http_method_names:
            self.http_method_not_allowed(request)
        try:
            super().initial(request, *args, **kwargs)
        finally:
            close_old_connections()

    def get_exception_handler(self) -> Any:
        return answer_error

    def finalize_response(
        self, request: Request, response: HttpResponseBase, *args: Any, **kwargs: Any
    ) -> HttpResponseBase:
        final: HttpResponseBase = super().finalize_response(request, response, *args, **kwargs)
        final.headers["openai-processing-ms"] = str(int(1_000 * (time.monotonic() - self.started_at)))
        if self.allowance is not None:
            for name, value in self.allowance.headers.items():
                final.headers[name] = value
        return final


def api_key_of(request: Request) -> ApiKey:
    assert isinstance(request.auth, ApiKey)
    return request.auth


def json_object(request: Request) -> dict[str, Any]:
    """The body.

    Raises: ApiError, 400; REST framework's exceptions.
    """
    if not isinstance(request.data, dict):
        raise ApiError(400, None, "The JSON body of your request must be an object.")
    return request.data


def answer_error(error: Exception, context: Mapping[str, Any]) -> HttpResponseBase | None:
    """REST framework's exception handler; None lets an error that no view foresaw become a 500."""
    request: Request = context["request"]
    match error:
        case ApiError():
            return error.response()
        case BlobUnavailable():
            logger.error("a model's files cannot be read: %s", error)
            return errors.unavailable("The model's files cannot be read at the moment: try again later.").response()
        case OperationalError():
            logger.error("the database cannot answer: %s", error)
            return errors.unavailable("The database is away at the moment: try again later.").response()
        case RequestDataTooBig() | BodyTooLarge():
            return errors.too_large(BodyParser.max_bytes).response()
        case Http404():
            return errors.unknown_url(request.method or "", request.path).response()
        case exceptions.APIException():
            return _translate(error, request).response()
    return None


def _translate(error: exceptions.APIException, request: Request) -> ApiError:
    match error:
        case exceptions.NotAuthenticated():
            return errors.invalid_key("You did not provide an API key: send it as 'Authorization: Bearer fai_sk_...'.")
        case exceptions.AuthenticationFailed():
            return errors.invalid_key(str(error.detail))
        case exceptions.PermissionDenied():
            return ApiError(403, "insufficient_permissions", str(error.detail))
        case exceptions.MethodNotAllowed():
            return errors.wrong_method(request.method or "", request.path)
        case exceptions.ParseError():
            return ApiError(400, "invalid_json", f"We could not parse the JSON body of your request: {error.detail}")
    kind = "server_error" if error.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR else errors.INVALID_REQUEST
    return ApiError(error.status_code, error.default_code, str(error.detail), kind=kind)
