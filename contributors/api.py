"""Joining, devices, and a contributor's own account under /api/v1/: translate, one domain call, translate back."""

import re
from dataclasses import replace
from datetime import timedelta
from typing import Any

from django.db.models import QuerySet
from django.shortcuts import get_object_or_404
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.exceptions import NotFound
from rest_framework.generics import ListAPIView, ListCreateAPIView
from rest_framework.pagination import CursorPagination
from rest_framework.permissions import AllowAny, IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import BaseSerializer
from rest_framework.throttling import AnonRateThrottle
from rest_framework.views import APIView

from contributors import api_keys, devices, ledger, people, schemas
from contributors.api_keys import LIMIT_FIELDS, Limits
from contributors.authentication import HasScope, IsNotShared
from contributors.broker import BrokerUnavailable
from contributors.models import ApiKey, Contributor, Device, Posting, Scope
from contributors.problems import Problem, ProblemSchema
from ml import protocol

PRIMARY_KEY = re.compile(r"[0-9]{1,19}")
OWNER = (IsAuthenticated, IsNotShared)


class JoinThrottle(AnonRateThrottle):
    """Per address: a class room may join at once, a script may not fill the table of nicknames."""

    rate = "60/min"
    scope = "join"


class ContributorsView(APIView):
    authentication_classes = ()
    permission_classes = (AllowAny,)
    throttle_classes = (JoinThrottle,)

    @extend_schema(
        request=schemas.JoinRequest, responses={201: schemas.Joined, 400: ProblemSchema, 409: ProblemSchema}, auth=[]
    )
    def post(self, request: Request) -> Response:
        """Join with a nickname alone; the API key in the answer is shown this once."""
        values = _validated(schemas.JoinRequest(data=request.data))
        try:
            contributor, secret = people.join(nickname=values["nickname"], now=timezone.now())
        except people.NicknameInvalid as error:
            raise Problem(400, "nickname_invalid", str(error)) from error
        except people.NicknameTaken as error:
            raise Problem(409, "nickname_taken", str(error)) from error
        answer = {"contributor_id": contributor.pk, "nickname": contributor.nickname, "api_key": secret}
        return Response(answer, status=201)


class DevicesView(APIView):
    permission_classes = (IsAuthenticated, HasScope)
    required_scope = Scope.VOLUNTEER

    @extend_schema(
        request=schemas.RegisterRequest,
        responses={201: schemas.DeviceAccountSchema, 400: ProblemSchema, 426: ProblemSchema, 503: ProblemSchema},
    )
    def post(self, request: Request) -> Response:
        """Register a machine, or the same one again: a fresh broker account, the older one stops working."""
        values = _validated(schemas.RegisterRequest(data=request.data))
        try:
            account = devices.register(contributor=_contributor(request), now=timezone.now(), **values)
        except devices.ProtocolUnsupported as error:
            raise Problem(426, "upgrade_needed", str(error)) from error
        except devices.DeviceInvalid as error:
            raise Problem(400, "device_invalid", str(error)) from error
        except devices.TooManyDevices as error:
            raise Problem(409, "too_many_devices", str(error)) from error
        except devices.ContributorBanned as error:
            raise Problem(403, "banned", str(error)) from error
        except BrokerUnavailable as error:
            raise Problem(
                503, "broker_unavailable", "The coordinator's Redis is away: try again.", headers={"Retry-After": "5"}
            ) from error
        return Response(protocol.encode(account), status=201)


class MeView(APIView):
    permission_classes = OWNER

    @extend_schema(responses=schemas.Me)
    def get(self, request: Request) -> Response:
        """The caller and their credits."""
        contributor = _contributor(request)
        credits_ = ledger.balance(contributor)
        return Response(
            {
                "contributor_id": contributor.pk,
                "nickname": contributor.nickname,
                "available_credits": credits_.available,
                "held_credits": credits_.held,
                "escrow_credits": credits_.escrow,
                "created_at": contributor.created_at,
            }
        )


class NewestFirst(CursorPagination):
    ordering = "-pk"
    page_size = 100

    def decode_cursor(self, request: Request) -> Any:
        """The cursor, whose position goes into a query as it is."""
        cursor = super().decode_cursor(request)
        if cursor is not None and cursor.position is not None and not PRIMARY_KEY.fullmatch(str(cursor.position)):
            raise NotFound(self.invalid_cursor_message)
        return cursor


class LedgerView(ListAPIView[Posting]):
    """The caller's ledger, newest first: every change of what is available and of what rests in escrow."""

    permission_classes = OWNER
    serializer_class = schemas.LedgerEntry
    pagination_class = NewestFirst

    def get_queryset(self) -> QuerySet[Posting]:
        return Posting.objects.filter(account__contributor=_contributor(self.request)).select_related(
            "account", "txn__escrow_line"
        )


class MyDevicesView(ListAPIView[Device]):
    """The caller's machines, and why an idle one is idle."""

    permission_classes = OWNER
    serializer_class = schemas.DeviceSchema

    def get_queryset(self) -> QuerySet[Device]:
        return _contributor(self.request).devices.order_by("name")


class KeysView(ListCreateAPIView[ApiKey]):
    """The caller's API keys; their secrets are not stored."""

    permission_classes = OWNER
    serializer_class = schemas.KeySchema

    def get_queryset(self) -> QuerySet[ApiKey]:
        return _contributor(self.request).api_keys.select_related("replaced_by").order_by("-pk")

    @extend_schema(
        request=schemas.KeyRequest,
        responses={201: schemas.CreatedKey, 400: ProblemSchema, 403: ProblemSchema, 409: ProblemSchema},
    )
    def post(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Make a key that may do no more than the calling one; its secret is shown this once."""
        values = _validated(schemas.KeyRequest(data=request.data))
        name, scopes = values.pop("name"), values.pop("scopes")
        _require_no_limits(request)
        _require_reach(request, scopes)
        try:
            key, secret = api_keys.create(
                contributor=_contributor(request), name=name, scopes=scopes, limits=Limits(**values), now=timezone.now()
            )
        except api_keys.LimitsInvalid as error:
            raise _invalid_limit(error) from error
        except api_keys.TooManyKeys as error:
            raise Problem(409, "too_many_keys", str(error)) from error
        return Response({**schemas.KeySchema(key).data, "api_key": secret}, status=201)


class KeyView(APIView):
    permission_classes = OWNER

    @extend_schema(
        request=schemas.KeyLimits,
        responses={200: schemas.KeySchema, 400: ProblemSchema, 403: ProblemSchema, 404: ProblemSchema},
    )
    def patch(self, request: Request, prefix: str) -> Response:
        """Change a key's limits: those that are named; null takes one away."""
        values = _validated(schemas.KeyLimits(data=request.data))
        key = _find_key(request, prefix)
        _require_no_limits(request)
        _require_reach(request, key.scopes)
        limits = replace(Limits(**{name: getattr(key, name) for name in LIMIT_FIELDS}), **values)
        try:
            changed = api_keys.change(key=key, limits=limits, now=timezone.now())
        except api_keys.LimitsInvalid as error:
            raise _invalid_limit(error) from error
        return Response(schemas.KeySchema(changed).data)

    @extend_schema(responses={204: None, 403: ProblemSchema, 404: ProblemSchema})
    def delete(self, request: Request, prefix: str) -> Response:
        """Revoke a key that may do no more than the calling one; it may be the calling one itself."""
        key = _find_key(request, prefix)
        _require_own_or_no_limits(request, key)
        api_keys.revoke(key=key, now=timezone.now())
        return Response(status=204)


class RotationView(APIView):
    permission_classes = OWNER

    @extend_schema(
        request=schemas.RotationRequest,
        responses={
            201: schemas.CreatedKey, 400: ProblemSchema, 403: ProblemSchema, 404: ProblemSchema, 409: ProblemSchema,
        },
    )  # fmt: skip
    def post(self, request: Request, prefix: str) -> Response:
        """Replace a key by one with the same scopes and limits; the old one ends after the overlap."""
        values = _validated(schemas.RotationRequest(data=request.data))
        key = _find_key(request, prefix)
        _require_own_or_no_limits(request, key)
        overlap = timedelta(seconds=values["overlap_seconds"])
        try:
            successor, secret = api_keys.rotate(key=key, overlap=overlap, now=timezone.now())
        except api_keys.KeyNotRotatable as error:
            raise Problem(409, "key_not_rotatable", str(error)) from error
        except api_keys.TooManyKeys as error:
            raise Problem(409, "too_many_keys", str(error)) from error
        return Response({**schemas.KeySchema(successor).data, "api_key": secret}, status=201)


def _validated(serializer: BaseSerializer[Any]) -> dict[str, Any]:
    serializer.is_valid(raise_exception=True)
    values: dict[str, Any] = serializer.validated_data
    return values


def _contributor(request: Request) -> Contributor:
    assert isinstance(request.user, Contributor)
    return request.user


def _require_reach(request: Request, scopes: list[str]) -> None:
    """A key that was given away for completions must not grow into one that can do more, nor shut that one out."""
    assert isinstance(request.auth, ApiKey)
    beyond = sorted(set(scopes) - set(request.auth.scopes))
    if beyond:
        raise Problem(403, "missing_scope", f"This API key lacks the scope {beyond[0]!r}: use one that has it.")


def _require_no_limits(request: Request) -> None:
    """A key that has limits could make a key without them."""
    assert isinstance(request.auth, ApiKey)
    if request.auth.is_limited:
        raise Problem(403, "limited_key", "This API key has limits, so it makes and changes no keys: use one without.")


def _require_own_or_no_limits(request: Request, key: ApiKey) -> None:
    _require_reach(request, key.scopes)
    if key != request.auth:
        _require_no_limits(request)


def _find_key(request: Request, prefix: str) -> ApiKey:
    return get_object_or_404(
        ApiKey.objects.select_related("replaced_by"), contributor=_contributor(request), prefix=prefix
    )


def _invalid_limit(error: api_keys.LimitsInvalid) -> Problem:
    return Problem(400, "invalid", f"{error.field}: {error}", errors={error.field: [str(error)]})
