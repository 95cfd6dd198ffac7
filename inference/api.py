"""OpenAI's API under /v1/: each view translates, asks one domain module, and translates back."""

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any

from django.http import Http404, HttpResponse, HttpResponseBase, JsonResponse
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request

from inference import catalogue, database, schemas
from inference.billing import account, idempotency
from inference.billing.bills import Bill
from inference.billing.idempotency import Claim
from inference.billing.limits import Allowance
from inference.completions import cancellation, sessions
from inference.completions.provider import EngineGone
from inference.completions.sessions import Session
from inference.completions.streams import EventStream
from inference.endpoint import READ, WRITE, Endpoint, api_key_of, json_object
from inference.openai import errors, parameters, sse
from inference.openai.errors import ApiError
from inference.openai.parameters import Parameters
from inference.openai.shapes import Answer, ChatShape, Head, Shape, TextShape, Usage, model_json
from training.models import Checkpoint

JSON = "application/json"
Reader = Callable[[dict[str, Any]], Parameters]


class ModelsView(Endpoint):
    http_method_names = READ

    @extend_schema(operation_id="list_models", tags=["models"], **schemas.MODELS)
    async def get(self, request: Request) -> HttpResponseBase:
        """The models that can be asked, the newest first."""
        checkpoints = await database.call(lambda: list(catalogue.served()))
        return JsonResponse({"object": "list", "data": [model_json(checkpoint) for checkpoint in checkpoints]})


class ModelView(Endpoint):
    http_method_names = READ

    @extend_schema(operation_id="retrieve_model", tags=["models"], **schemas.MODEL)
    async def get(self, request: Request, name: str) -> HttpResponseBase:
        """One model."""
        return JsonResponse(model_json(await database.call(_find_model, name), name=name))


class KeyView(Endpoint):
    http_method_names = READ

    @extend_schema(operation_id="retrieve_key", tags=["account"], **schemas.KEY)
    async def get(self, request: Request) -> HttpResponseBase:
        """The calling key: its limits, and what it has spent in the period of its cap."""
        data = await database.call(account.describe_key, api_key_of(request), now=timezone.now())
        return JsonResponse({"data": data})


class CreditsView(Endpoint):
    http_method_names = READ

    @extend_schema(operation_id="retrieve_credits", tags=["account"], **schemas.CREDITS)
    async def get(self, request: Request) -> HttpResponseBase:
        """The credits behind the calling key."""
        data = await database.call(account.describe_credits, api_key_of(request), now=timezone.now())
        return JsonResponse({"data": data})


class CompletionEndpoint(Endpoint):
    """A completion, whatever the shape in which it is asked for and sent."""

    http_method_names = WRITE

    async def complete(self, request: Request, *, read: Reader, shape: Shape) -> HttpResponseBase:
        api_key = api_key_of(request)
        self.allowance = Allowance.of(api_key)
        await self.allowance.take_request()
        body = json_object(request)
        given = read(body)
        claim = _read_claim(request, body, is_stream=given.is_stream)
        if claim is not None and (kept := await _find_kept(claim, request)) is not None:
            return kept
        order = await database.call(sessions.prepare, given)
        cancellation.check()
        session = await Session.open(order, bill=Bill(api_key, allowance=self.allowance, claim=claim))
        if given.is_stream:
            return EventStream(session, shape, includes_usage=given.includes_usage)
        return await _answer_whole(session, shape)


class TextCompletionsView(CompletionEndpoint):
    @extend_schema(operation_id="create_completion", tags=["completions"], **schemas.TEXT_COMPLETION)
    async def post(self, request: Request) -> HttpResponseBase:
        """Continue prompts."""
        return await self.complete(request, read=parameters.read_completion, shape=TextShape())


class ChatCompletionsView(CompletionEndpoint):
    @extend_schema(operation_id="create_chat_completion", tags=["completions"], **schemas.CHAT_COMPLETION)
    async def post(self, request: Request) -> HttpResponseBase:
        """Answer the last message of a chat."""
        return await self.complete(request, read=parameters.read_chat, shape=ChatShape())


class UnknownView(Endpoint):
    """Every other address: a client reads JSON there too."""

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        raise Http404


async def _answer_whole(session: Session, shape: Shape) -> HttpResponseBase:
    try:
        answers = await session.answers()
        # An answer of megabytes is written in a thread: everybody else waits for what stops the event loop.
        data = await asyncio.to_thread(_write, shape, session.head, answers, session.usage)
        session.bill.note(data)
    except EngineGone as error:
        raise errors.unavailable(str(error)) from error
    finally:
        await session.close()
    return HttpResponse(data, content_type=JSON)


def _write(shape: Shape, head: Head, answers: Sequence[Answer], usage: Usage) -> bytes:
    return json.dumps(shape.whole(head, answers, usage), ensure_ascii=False).encode()


def _read_claim(request: Request, body: dict[str, Any], *, is_stream: bool) -> Claim | None:
    """Raises: ApiError, 400."""
    given = request.headers.get(errors.IDEMPOTENCY_HEADER)
    if given is None:
        return None
    try:
        return idempotency.read(
            given, path=request.path, body=body, content_type=sse.CONTENT_TYPE if is_stream else JSON
        )
    except idempotency.KeyInvalid as error:
        raise errors.bad_parameter(errors.IDEMPOTENCY_HEADER, "invalid_idempotency_key", str(error)) from error


async def _find_kept(claim: Claim, request: Request) -> HttpResponseBase | None:
    """Raises: ApiError, 409 or 422."""
    try:
        kept = await database.call(idempotency.find, claim, api_key=api_key_of(request), now=timezone.now())
    except idempotency.KeyReused as error:
        raise errors.key_reused(str(error)) from error
    except idempotency.AnswerTooLarge as error:
        raise errors.answer_not_kept(str(error)) from error
    except idempotency.InProgress as error:
        raise errors.in_progress(str(error)) from error
    if kept is None:
        return None
    return HttpResponse(kept.body, content_type=kept.content_type, headers={"idempotency-replayed": "true"})


def _find_model(name: str) -> Checkpoint:
    """Raises: ApiError, 404; a model that has no checkpoint yet is not listed either."""
    try:
        return catalogue.find(name)
    except (catalogue.ModelNotFound, catalogue.ModelNotReady) as error:
        raise ApiError(404, "model_not_found", str(error), param="model") from error
