"""OpenAI's API under /v1/: each view translates, asks one domain module, and translates back."""

import functools
import json
import time
import uuid
from collections.abc import Callable, Coroutine
from typing import Any

from django.core.exceptions import RequestDataTooBig
from django.db import OperationalError
from django.http import HttpRequest, HttpResponseBase, JsonResponse
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt

from contributors import api_keys
from contributors.models import ApiKey, Scope
from inference import catalogue, completions, database, errors, parameters
from inference.completions import Session
from inference.errors import ApiError
from inference.parameters import Parameters
from inference.provider import EngineGone
from inference.shapes import ChatShape, Shape, TextShape, model_json
from inference.streams import EventStream
from training.models import Checkpoint

View = Callable[..., Coroutine[Any, Any, HttpResponseBase]]


def endpoint(*methods: str) -> Callable[[View], View]:
    """A view that answers errors with OpenAI's bodies, and every request with OpenAI's headers."""

    def decorate(handler: View) -> View:
        @csrf_exempt
        @functools.wraps(handler)
        async def view(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            started_at = time.monotonic()
            response: HttpResponseBase
            try:
                if methods and request.method not in methods:
                    raise _wrong_method(request, methods)
                response = await handler(request, *args, **kwargs)
            except ApiError as error:
                response = error.response()
            except OperationalError:
                response = errors.unavailable("The database is away at the moment: try again later.").response()
            response.headers["x-request-id"] = f"req_{uuid.uuid4().hex}"
            response.headers["openai-processing-ms"] = str(int(1_000 * (time.monotonic() - started_at)))
            return response

        return view

    return decorate


@endpoint("GET")
async def models(request: HttpRequest) -> JsonResponse:
    await _authenticate(request)
    checkpoints = await database.call(lambda: list(catalogue.served()))
    return JsonResponse({"object": "list", "data": [model_json(checkpoint) for checkpoint in checkpoints]})


@endpoint("GET")
async def model(request: HttpRequest, name: str) -> JsonResponse:
    await _authenticate(request)
    return JsonResponse(model_json(await database.call(_find_model, name)))


@endpoint("POST")
async def text_completions(request: HttpRequest) -> HttpResponseBase:
    return await _complete(request, read=parameters.read_completion, shape=TextShape())


@endpoint("POST")
async def chat_completions(request: HttpRequest) -> HttpResponseBase:
    return await _complete(request, read=parameters.read_chat, shape=ChatShape())


@endpoint()
async def unknown(request: HttpRequest, path: str) -> HttpResponseBase:
    raise ApiError(404, "unknown_url", f"Unknown request URL: {request.method} {request.path}.")


async def _complete(
    request: HttpRequest, *, read: Callable[[dict[str, Any]], Parameters], shape: Shape
) -> HttpResponseBase:
    api_key = await _authenticate(request)
    given = read(_read_json(request))
    order = await database.call(completions.prepare, given)
    session = await Session.open(order, api_key=api_key)
    if given.is_stream:
        return EventStream(session, shape, includes_usage=given.includes_usage)
    try:
        answers = await session.answers()
    except EngineGone as error:
        raise errors.unavailable(str(error)) from error
    finally:
        await session.close()
    return JsonResponse(shape.whole(session.head, answers, session.usage), json_dumps_params={"ensure_ascii": False})


async def _authenticate(request: HttpRequest) -> ApiKey:
    """The key that the request carries, which may spend.

    Raises: ApiError, 401 or 403.
    """
    scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not secret.strip():
        raise errors.invalid_key("You did not provide an API key: send it as 'Authorization: Bearer fai_sk_...'.")
    try:
        key = await database.call(api_keys.find, secret.strip(), now=timezone.now())
    except api_keys.KeyInvalid as error:
        raise errors.invalid_key(str(error)) from error
    if Scope.COMPLETION not in key.scopes:
        raise ApiError(403, "insufficient_permissions", "This API key lacks the scope 'completion'.")
    return key


def _read_json(request: HttpRequest) -> dict[str, Any]:
    """Raises: ApiError, 400 or 413."""
    try:
        body = json.loads(request.body, parse_constant=_refuse_constant)
    except RequestDataTooBig as error:
        raise ApiError(413, "request_too_large", "The request body is too large.") from error
    except (ValueError, RecursionError) as error:
        raise ApiError(400, None, f"We could not parse the JSON body of your request: {error}") from error
    if not isinstance(body, dict):
        raise ApiError(400, None, "The JSON body of your request must be an object.")
    return body


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _find_model(name: str) -> Checkpoint:
    """Raises: ApiError, 404; a model that has no checkpoint yet is not listed either."""
    try:
        return catalogue.find(name)
    except (catalogue.ModelNotFound, catalogue.ModelNotReady) as error:
        raise ApiError(404, "model_not_found", str(error), param="model") from error


def _wrong_method(request: HttpRequest, methods: tuple[str, ...]) -> ApiError:
    return ApiError(
        405,
        "method_not_supported",
        f"Not allowed to {request.method} on {request.path}: use {' or '.join(methods)}.",
        headers={"Allow": ", ".join(methods)},
    )
