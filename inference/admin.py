"""Completions as an operator sees them: who asked which model, what it cost, how it ended. Never a person's text."""

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from unfold.admin import ModelAdmin

from contributors.admin import ReadOnly
from inference.billing import charges
from inference.models import Completion, IdempotentRequest


@admin.register(Completion)
class CompletionAdmin(ReadOnly, ModelAdmin):
    list_display = (
        "request_id",
        "contributor",
        "api_key",
        "checkpoint",
        "state",
        "prompt_tokens",
        "completion_tokens",
        "credits",
        "created_at",
        "finished_at",
        "lease_expires_at",
    )
    list_filter = ("state", "checkpoint__experiment")
    search_fields = ("request_id", "api_key__prefix", "api_key__contributor__nickname")
    ordering = ("-created_at",)
    date_hierarchy = "created_at"

    def get_queryset(self, request: HttpRequest) -> QuerySet[Completion]:
        rows: QuerySet[Completion] = super().get_queryset(request)
        return rows.select_related("api_key__contributor", "checkpoint__experiment", "hold")

    @admin.display(ordering="api_key__contributor__nickname")
    def contributor(self, completion: Completion) -> str:
        return completion.api_key.contributor.nickname

    @admin.display(description="credits paid", ordering="hold__captured_amount")
    def credits(self, completion: Completion) -> int:
        return charges.credits_paid(completion)


@admin.register(IdempotentRequest)
class IdempotentRequestAdmin(ReadOnly, ModelAdmin):
    """That an answer is kept, and until when; not what it says."""

    list_display = ("key", "line", "completion", "content_type", "expires_at")
    list_select_related = ("line", "completion")
    search_fields = ("key", "completion__request_id", "line__prefix")
    ordering = ("-pk",)
    fields = list_display
