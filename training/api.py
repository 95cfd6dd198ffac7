"""The volunteers' API under /api/v1/: each view translates, makes one domain call, and translates back."""

import io
import logging
from typing import Any, TypeVar

from django.db.models import Max, Prefetch, Q, QuerySet
from django.db.models.functions import Coalesce
from django.http import Http404
from django.shortcuts import get_object_or_404
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import status
from rest_framework.exceptions import ValidationError
from rest_framework.generics import ListAPIView, RetrieveAPIView
from rest_framework.parsers import BaseParser
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from contributors.authentication import HasScope
from contributors.models import Contributor, Scope
from contributors.parsers import BoundedJSONParser
from contributors.problems import Problem
from ml import protocol
from ml.protocol import Reason
from ml.version import VERSION
from training import devices, doorbell, jobs, merge_statistics, schemas, uploads
from training.blobs import BlobUnavailable
from training.models import Attempt, Checkpoint, Experiment, Round

logger = logging.getLogger(__name__)

SERVICE = "fai"


class ServiceView(APIView):
    """What this server is, so that a device can tell a wrong address or another protocol from a fault."""

    authentication_classes = ()
    permission_classes = (AllowAny,)

    @extend_schema(responses=schemas.ServiceSchema)
    def get(self, request: Request) -> Response:
        return Response({"service": SERVICE, "protocol_version": protocol.PROTOCOL_VERSION, "version": VERSION})


class VolunteerView(APIView):
    """A view for a contributor's own devices and attempts."""

    permission_classes = (HasScope,)
    required_scope = Scope.VOLUNTEER

    def attempt(self, request: Request, attempt_id: int) -> Attempt:
        try:
            return jobs.find(attempt_id=attempt_id, contributor=caller(request))
        except jobs.AttemptNotFound as error:
            raise Http404(str(error)) from error


class HeartbeatView(VolunteerView):
    """A sign of life, and what the device should do."""

    @extend_schema(request=schemas.HeartbeatSchema, responses=schemas.DirectivesSchema)
    def post(self, request: Request, device_id: int) -> Response:
        heartbeat = read(protocol.Heartbeat, request.data)
        try:
            device = devices.find(device_id=device_id, contributor=caller(request))
        except devices.DeviceNotFound as error:
            raise Http404(str(error)) from error
        return Response(protocol.encode(devices.beat(device=device, heartbeat=heartbeat, now=timezone.now())))


class ClaimView(VolunteerView):
    """Take an offered attempt; its job spec."""

    @extend_schema(request=schemas.ClaimSchema, responses=schemas.JobSpecSchema)
    def post(self, request: Request, attempt_id: int) -> Response:
        body = schemas.ClaimSchema(data=request.data)
        body.is_valid(raise_exception=True)
        try:
            attempt = jobs.find_with_job(attempt_id=attempt_id, contributor=caller(request))
            spec = jobs.claim(attempt=attempt, nonce=body.validated_data["nonce"], now=timezone.now())
        except jobs.AttemptNotFound as error:
            raise Http404(str(error)) from error
        except jobs.AttemptNotYours as error:
            raise moved_on(error) from error
        return Response(protocol.encode(spec))


class AttemptView(VolunteerView):
    """Where an attempt stands."""

    @extend_schema(responses=schemas.ReceiptSchema)
    def get(self, request: Request, attempt_id: int) -> Response:
        return Response(protocol.encode(jobs.receipt(self.attempt(request, attempt_id))))


class SubmitView(VolunteerView):
    """Hand in an attempt whose delta is uploaded."""

    @extend_schema(request=schemas.ReportSchema, responses={202: schemas.ReceiptSchema})
    def post(self, request: Request, attempt_id: int) -> Response:
        report = read(protocol.Report, request.data)
        attempt = self.attempt(request, attempt_id)
        try:
            jobs.resume(attempt=attempt, now=timezone.now())
            receipt = jobs.submit(attempt=attempt, report=report, now=timezone.now())
        except jobs.DeltaMissing as error:
            raise Problem(status.HTTP_409_CONFLICT, code="delta_missing", detail=str(error)) from error
        except jobs.AttemptNotYours as error:
            raise moved_on(error) from error
        doorbell.ring_validation(attempt_id=attempt.pk)
        return Response(protocol.encode(receipt), status=status.HTTP_202_ACCEPTED)


class ReleaseView(VolunteerView):
    """Give an attempt back."""

    @extend_schema(request=schemas.ReleaseSchema, responses=schemas.ReceiptSchema)
    def post(self, request: Request, attempt_id: int) -> Response:
        body = schemas.ReleaseSchema(data=request.data)
        body.is_valid(raise_exception=True)
        attempt = self.attempt(request, attempt_id)
        try:
            receipt = jobs.release(
                attempt=attempt,
                reason=Reason(body.validated_data["reason"]),
                detail=body.validated_data["detail"],
                now=timezone.now(),
            )
        except jobs.AttemptNotYours as error:
            raise moved_on(error) from error
        uploads.discard(attempt)
        return Response(protocol.encode(receipt))


class BytesParser(BaseParser):
    """The raw body, whatever type it claims, under the one key `piece`."""

    media_type = "*/*"

    def parse(self, stream: Any, media_type: Any = None, parser_context: Any = None) -> dict[str, bytes]:
        return {"piece": stream.read()}


UPLOAD_HEADERS = [
    OpenApiParameter("Upload-Offset", int, OpenApiParameter.HEADER, required=True),
    OpenApiParameter("Upload-Length", int, OpenApiParameter.HEADER, required=True),
    OpenApiParameter("Upload-Sha256", str, OpenApiParameter.HEADER, required=True),
    OpenApiParameter(
        "Upload-Report", str, OpenApiParameter.HEADER, description="A report as JSON: the last piece submits it too."
    ),
]


class DeltaView(VolunteerView):
    """Send a delta in pieces of at most UPLOAD_CHUNK_BYTES, each announcing the whole."""

    parser_classes = (BytesParser,)

    def head(self, request: Request, attempt_id: int) -> Response:
        offset = uploads.received_bytes(self.attempt(request, attempt_id))
        return Response(headers={"Upload-Offset": str(offset)})

    @extend_schema(parameters=UPLOAD_HEADERS, request=OpenApiTypes.BINARY, responses=schemas.ReceivedSchema)
    def put(self, request: Request, attempt_id: int) -> Response:
        announced = schemas.UploadHeadersSchema(
            data={
                "offset": request.headers.get("Upload-Offset"),
                "size_bytes": request.headers.get("Upload-Length"),
                "sha256": request.headers.get("Upload-Sha256"),
                "report": request.headers.get("Upload-Report", ""),
            }
        )
        announced.is_valid(raise_exception=True)
        upload = announced.validated_data
        report = read(protocol.Report, parse_json(upload["report"])) if upload["report"] else None
        attempt = self.attempt(request, attempt_id)
        receipt = None
        try:
            jobs.resume(attempt=attempt, now=timezone.now())
            if report is None or attempt.submitted_at is None:
                receive(attempt, upload, request)
            if report is not None and attempt.delta_id is not None:
                receipt = jobs.submit(attempt=attempt, report=report, now=timezone.now())
                doorbell.ring_validation(attempt_id=attempt.pk)
        except jobs.AttemptNotYours as error:
            raise moved_on(error) from error
        encoded = None if receipt is None else protocol.encode(receipt)
        return Response({"offset": uploads.received_bytes(attempt), "receipt": encoded})


def receive(attempt: Attempt, upload: dict[str, Any], request: Request) -> None:
    """Announce before the body is read, then keep it.

    Raises: Problem where the piece cannot be kept; jobs.AttemptNotYours.
    """
    try:
        uploads.announce(attempt=attempt, size_bytes=upload["size_bytes"], sha256=upload["sha256"])
        uploads.append(attempt=attempt, offset=upload["offset"], piece=piece_of(request), now=timezone.now())
    except uploads.UploadTooLarge as error:
        raise Problem(status.HTTP_413_REQUEST_ENTITY_TOO_LARGE, code=Reason.TOO_LARGE, detail=str(error)) from error
    except uploads.OffsetMismatch as error:
        raise Problem(
            status.HTTP_409_CONFLICT, code="offset_mismatch", detail=str(error), offset=error.offset
        ) from error
    except uploads.UploadCorrupt as error:
        raise Problem(status.HTTP_422_UNPROCESSABLE_ENTITY, code=Reason.WRONG_HASH, detail=str(error)) from error
    except uploads.DiskFull as error:
        raise Problem(status.HTTP_507_INSUFFICIENT_STORAGE, code="disk_full", detail=str(error)) from error
    except BlobUnavailable as error:
        logger.error("the delta of %s is not stored: %s", attempt, error)  # noqa: TRY400 - the message is the cause
        raise Problem(
            status.HTTP_503_SERVICE_UNAVAILABLE,
            code="storage_unavailable",
            detail="the coordinator's storage is away; your delta is safe with you, it will be sent again",
            headers={"Retry-After": "5"},
        ) from error


PUBLIC_EXPERIMENTS = (
    Experiment.objects.exclude(state=Experiment.State.DRAFT)
    .annotate(round_number=Coalesce(Max("rounds__number"), 0))
    .order_by("-started_at", "-pk")
)
MEASURED = Checkpoint.objects.exclude(published_at=None).order_by("number")


class ExperimentListView(ListAPIView[Experiment]):
    """Experiments that have left their draft, newest first."""

    authentication_classes = ()
    permission_classes = (AllowAny,)
    serializer_class = schemas.ExperimentSchema
    queryset = PUBLIC_EXPERIMENTS


class ExperimentView(RetrieveAPIView[Experiment]):
    """One experiment that has left its draft, with the loss of each checkpoint."""

    authentication_classes = ()
    permission_classes = (AllowAny,)
    serializer_class = schemas.ExperimentDetailSchema
    queryset = PUBLIC_EXPERIMENTS.prefetch_related(Prefetch("checkpoints", queryset=MEASURED))
    lookup_field = "slug"


class RoundListView(ListAPIView[Round]):
    """An experiment's rounds, newest first."""

    authentication_classes = ()
    permission_classes = (AllowAny,)
    serializer_class = schemas.RoundSchema

    def get_queryset(self) -> QuerySet[Round]:
        experiment = get_object_or_404(PUBLIC_EXPERIMENTS, slug=self.kwargs["slug"])
        rows = Round.objects.filter(experiment=experiment).select_related("base", "result")
        return merge_statistics.annotate_merges(rows).order_by("-number")


class LatestCheckpointView(APIView):
    """The newest published checkpoint of an experiment."""

    authentication_classes = ()
    permission_classes = (AllowAny,)

    @extend_schema(responses=schemas.CheckpointSchema)
    def get(self, request: Request, slug: str) -> Response:
        published = Checkpoint.objects.filter(~Q(published_at=None), experiment__slug=slug)
        checkpoint = published.select_related("blob", "experiment").order_by("-number").first()
        if checkpoint is None:
            raise Http404(f"{slug} has no published checkpoint yet")
        return Response(schemas.CheckpointSchema(checkpoint).data)


def caller(request: Request) -> Contributor:
    """The contributor whose key the request carries."""
    assert isinstance(request.user, Contributor)
    return request.user


def parse_json(text: str) -> Any:
    """Raises: rest_framework.exceptions.ParseError."""
    return BoundedJSONParser().parse(io.BytesIO(text.encode()))


def piece_of(request: Request) -> bytes:
    """The bytes that BytesParser found; REST framework calls no parser for an empty body."""
    assert isinstance(request.data, dict)
    return bytes(request.data.get("piece", b""))


T = TypeVar("T")


def read(cls: type[T], data: Any) -> T:
    """The body as one of the wire's types.

    Raises: ValidationError.
    """
    try:
        return protocol.decode(cls, data)
    except protocol.ProtocolError as error:
        raise ValidationError(str(error)) from error


def moved_on(error: jobs.AttemptNotYours) -> Problem:
    """409 where another change won the race, 410 where the attempt has ended."""
    code = status.HTTP_410_GONE if error.ended else status.HTTP_409_CONFLICT
    return Problem(code, code=error.reason, detail=str(error))
