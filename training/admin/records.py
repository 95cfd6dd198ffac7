"""Rounds, jobs, attempts, live devices, checkpoints and files: what the machinery did, to look at only."""

from typing import Any

from django.contrib import admin
from django.db.models import Count, F, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from unfold.admin import ModelAdmin
from unfold.decorators import display

from contributors.admin import ReadOnly
from training import labels, merge_statistics, statistics
from training.admin.columns import COLOURS, moment
from training.models import Attempt, Blob, Checkpoint, Enrollment, Job, Round
from training.templatetags.figures import compact, grouped, loss, minute, size


@admin.register(Round)
class RoundAdmin(ReadOnly, ModelAdmin):
    list_display = (
        "__str__",
        "called",
        "losses",
        "tokens",
        "num_deltas",
        "num_late",
        "num_held_back",
        "uploaded",
        "opened",
        "closed",
        "deadline",
    )
    list_filter = ("state", "experiment")
    list_select_related = ("experiment", "base", "result")
    ordering = ("-opened_at",)
    opened = moment("opened_at", _("Opened"))
    closed = moment("closed_at", _("Closed"))
    deadline = moment("next_transition_at", _("Deadline"))

    def get_queryset(self, request: HttpRequest) -> QuerySet[Round]:
        rows: QuerySet[Round] = super().get_queryset(request)
        return merge_statistics.annotate_merges(rows)

    @display(description=_("State"), ordering="state", label=COLOURS)
    def called(self, row: Round) -> tuple[str, str]:
        return row.state, str(labels.ROUNDS[row.state])

    @admin.display(description=_("Loss"), ordering="result__validation_loss")
    def losses(self, row: Round) -> str:
        return f"{loss(row.base.validation_loss)} → {loss(row.result.validation_loss if row.result else None)}"

    @admin.display(description=_("Merged tokens"), ordering="merged_tokens")
    def tokens(self, row: Any) -> str:
        return f"{compact(row.merged_tokens)} / {compact(row.target_tokens)}"

    @admin.display(description=_("Deltas"), ordering="num_deltas")
    def num_deltas(self, row: Any) -> int:
        return int(row.num_deltas)

    @admin.display(description=_("Late"), ordering="num_late")
    def num_late(self, row: Any) -> int:
        return int(row.num_late)

    @admin.display(description=_("Held back"), ordering="num_held_back")
    def num_held_back(self, row: Any) -> int:
        return int(row.num_held_back)

    @admin.display(description=_("Uploaded"), ordering="uploaded_bytes")
    def uploaded(self, row: Any) -> str:
        return size(row.uploaded_bytes)


@admin.register(Job)
class JobAdmin(ReadOnly, ModelAdmin):
    list_display = ("__str__", "shard", "token_budget", "num_attempts")
    list_filter = ("round__experiment",)
    list_select_related = ("round__experiment", "shard")
    ordering = ("-pk",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Job]:
        rows: QuerySet[Job] = super().get_queryset(request)
        return rows.annotate(num_attempts=Count("attempts"))

    @admin.display(description=_("Attempts"), ordering="num_attempts")
    def num_attempts(self, row: Any) -> int:
        return int(row.num_attempts)


@admin.register(Attempt)
class AttemptAdmin(ReadOnly, ModelAdmin):
    list_display = ("pk", "job", "device", "called", "why", "tokens", "credits", "offered", "ended")
    list_filter = ("state", "reason", "job__round__experiment", "offered_at")
    list_select_related = ("job__round__experiment", "device__contributor")
    search_fields = ("device__name", "device__contributor__nickname", "detail")
    ordering = ("-pk",)
    exclude = ("nonce",)
    offered = moment("offered_at", _("Offered"))
    ended = moment("ended_at", _("Ended"))

    @display(description=_("State"), ordering="state", label=COLOURS)
    def called(self, row: Attempt) -> tuple[str, str]:
        return row.state, str(labels.ATTEMPTS[row.state])

    @admin.display(description=_("Reason"), ordering="reason")
    def why(self, row: Attempt) -> str:
        return " ".join(part for part in (labels.describe(row.reason), row.detail) if part)

    @admin.display(description=_("Tokens"), ordering="verified_tokens")
    def tokens(self, row: Attempt) -> str:
        done = row.progress_tokens if row.verified_tokens is None else row.verified_tokens
        return f"{compact(done)} / {compact(row.token_budget)}"

    @admin.display(description=_("Credits"), ordering="earned_credits")
    def credits(self, row: Attempt) -> str:
        return "–" if row.earned_credits is None else grouped(row.earned_credits)


class LiveFilter(admin.SimpleListFilter):
    """Devices that were heard of lately, in the experiment that they chose last."""

    title = _("Presence")
    parameter_name = "live"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("yes", _("live now"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Enrollment]) -> QuerySet[Enrollment]:
        if self.value() != "yes":
            return queryset
        return queryset.filter(pk__in=statistics.working(now=timezone.now()))


@admin.register(Enrollment)
class EnrollmentAdmin(ReadOnly, ModelAdmin):
    list_display = ("name", "contributor", "experiment", "does", "why", "speed", "last_seen")
    list_filter = (LiveFilter, "experiment")
    list_select_related = ("device__contributor", "experiment")
    search_fields = ("device__name", "device__contributor__nickname")
    ordering = (F("device__last_seen_at").desc(nulls_last=True), "pk")

    @admin.display(description=_("Device"), ordering="device__name")
    def name(self, row: Enrollment) -> str:
        return row.device.name

    @admin.display(description=_("Contributor"), ordering="device__contributor__nickname")
    def contributor(self, row: Enrollment) -> str:
        return row.device.contributor.nickname

    @admin.display(description=_("Doing"), ordering="device__state")
    def does(self, row: Enrollment) -> str:
        return str(labels.DEVICES.get(row.device.state, row.device.state))

    @admin.display(description=_("Reason"))
    def why(self, row: Enrollment) -> str:
        return labels.describe(row.device.idle_reason)

    @admin.display(description=_("Tokens/s"), ordering="tokens_per_second")
    def speed(self, row: Enrollment) -> str:
        return compact(row.tokens_per_second) if row.tokens_per_second else "–"

    @admin.display(description=_("Last heard from"), ordering="device__last_seen_at")
    def last_seen(self, row: Enrollment) -> str:
        return minute(row.device.last_seen_at)


@admin.register(Checkpoint)
class CheckpointAdmin(ReadOnly, ModelAdmin):
    list_display = ("__str__", "number", "shown_loss", "blob_size", "step_size", "created", "published")
    list_filter = ("experiment",)
    list_select_related = ("experiment", "blob", "step")
    ordering = ("-created_at", "-pk")
    created = moment("created_at", _("Created"))
    published = moment("published_at", _("Published"))

    @admin.display(description=_("Validation loss"), ordering="validation_loss")
    def shown_loss(self, row: Checkpoint) -> str:
        return loss(row.validation_loss)

    @admin.display(description=_("Size"), ordering="blob__size_bytes")
    def blob_size(self, row: Checkpoint) -> str:
        return size(row.blob.size_bytes)

    @admin.display(description=_("Step"), ordering="step__size_bytes")
    def step_size(self, row: Checkpoint) -> str:
        return size(row.step.size_bytes) if row.step else "–"


@admin.register(Blob)
class BlobAdmin(ReadOnly, ModelAdmin):
    list_display = ("sha256", "kind", "shown_size", "created")
    list_filter = ("kind",)
    search_fields = ("sha256",)
    ordering = ("-created_at", "pk")
    created = moment("created_at", _("Created"))

    @admin.display(description=_("Size"), ordering="size_bytes")
    def shown_size(self, row: Blob) -> str:
        return size(row.size_bytes)
