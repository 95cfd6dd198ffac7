"""What an operator sees and does: ban, unban, revoke keys, watch devices, read the ledger. Nothing is deleted here."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import F, Model, OuterRef, QuerySet, Subquery
from django.http import HttpRequest
from django.utils import timezone
from unfold.admin import ModelAdmin, TabularInline
from unfold.forms import ActionForm
from unfold.widgets import UnfoldAdminTextInputWidget

from contributors import api_keys, people
from contributors.broker import BrokerUnavailable
from contributors.models import Account, ApiKey, Contributor, Device, EscrowLine, Hold, Posting, Txn


class ReadOnly:
    """Rows that may be looked at and never added, changed or deleted by hand."""

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


class BanForm(ActionForm):
    """Beside the list of actions, the reason for a ban."""

    reason = forms.CharField(
        label="",
        required=False,
        max_length=200,
        widget=UnfoldAdminTextInputWidget(attrs={"placeholder": "Reason, where you ban"}),
    )


@admin.register(Contributor)
class ContributorAdmin(ReadOnly, ModelAdmin):
    list_display = ("nickname", "available", "escrow", "created_at", "banned_at", "ban_reason")
    list_filter = (("banned_at", admin.EmptyFieldListFilter),)
    search_fields = ("nickname",)
    ordering = ("-created_at",)
    actions = ("ban", "unban")
    action_form = BanForm

    def get_queryset(self, request: HttpRequest) -> QuerySet[Contributor]:
        accounts = Account.objects.filter(contributor=OuterRef("pk"))
        available = accounts.filter(kind=Account.Kind.AVAILABLE).values(free=F("balance") - F("held"))
        escrow = accounts.filter(kind=Account.Kind.ESCROW).values("balance")
        rows: QuerySet[Contributor] = super().get_queryset(request)
        return rows.annotate(available=Subquery(available), escrow=Subquery(escrow))

    @admin.display(ordering="available", empty_value="0")
    def available(self, row: Any) -> int | None:
        available: int | None = row.available
        return available

    @admin.display(ordering="escrow", empty_value="0")
    def escrow(self, row: Any) -> int | None:
        escrow: int | None = row.escrow
        return escrow

    @admin.action(description="Ban: revoke keys, disconnect devices", permissions=["ban"])
    def ban(self, request: HttpRequest, rows: QuerySet[Contributor]) -> None:
        reason = request.POST.get("reason", "").strip()
        if not reason:
            self.message_user(request, "Nobody was banned: write the reason beside the action.", messages.ERROR)
            return
        for contributor in rows.order_by("pk"):
            try:
                people.ban(contributor=contributor, reason=reason[:200], now=timezone.now())
            except BrokerUnavailable as error:
                text = f"{contributor} is banned, but Redis is away ({error}): ban again to disconnect the devices."
                self.message_user(request, text, messages.WARNING)
            else:
                self.message_user(request, f"{contributor} is banned.", messages.SUCCESS)

    @admin.action(description="Unban: the contributor needs a new key", permissions=["ban"])
    def unban(self, request: HttpRequest, rows: QuerySet[Contributor]) -> None:
        for contributor in rows.order_by("pk"):
            people.unban(contributor=contributor)
            self.message_user(request, f"{contributor} is no longer banned.", messages.SUCCESS)

    def has_ban_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("contributors.change_contributor")


@admin.register(ApiKey)
class ApiKeyAdmin(ReadOnly, ModelAdmin):
    list_display = (
        "prefix", "name", "contributor", "scopes", "is_shared", "credit_cap", "cap_period", "created_at",
        "last_used_at", "expires_at", "revoked_at",
    )  # fmt: skip
    list_filter = ("is_shared", ("revoked_at", admin.EmptyFieldListFilter), ("credit_cap", admin.EmptyFieldListFilter))
    list_select_related = ("contributor",)
    search_fields = ("prefix", "name", "contributor__nickname")
    ordering = ("-created_at",)
    fields = (*list_display, "requests_per_minute", "tokens_per_minute", "line", "replaced_by")
    actions = ("revoke",)

    @admin.action(description="Revoke", permissions=["revoke"])
    def revoke(self, request: HttpRequest, rows: QuerySet[ApiKey]) -> None:
        for key in rows.order_by("pk"):
            api_keys.revoke(key=key, now=timezone.now())
        self.message_user(request, f"{len(rows)} keys are revoked.", messages.SUCCESS)

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("contributors.change_apikey")


@admin.register(Device)
class DeviceAdmin(ReadOnly, ModelAdmin):
    list_display = ("name", "contributor", "state", "idle_reason", "last_seen_at", "hardware", "protocol_version")
    list_filter = ("state", "last_seen_at")
    list_select_related = ("contributor",)
    search_fields = ("name", "contributor__nickname")
    ordering = (F("last_seen_at").desc(nulls_last=True),)


class PostingInline(ReadOnly, TabularInline):
    model = Posting
    fields = ("account", "amount")
    extra = 0


@admin.register(Txn)
class TxnAdmin(ReadOnly, ModelAdmin):
    list_display = ("idempotency_key", "kind", "source", "created_at")
    list_filter = ("kind", "created_at")
    search_fields = ("idempotency_key", "source")
    ordering = ("-pk",)
    inlines = (PostingInline,)


@admin.register(Account)
class AccountAdmin(ReadOnly, ModelAdmin):
    list_display = ("__str__", "kind", "balance", "held")
    list_filter = ("kind",)
    list_select_related = ("contributor",)
    search_fields = ("contributor__nickname",)
    ordering = ("-balance", "pk")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Account]:
        """Without the system's accounts, whose columns are always 0."""
        rows: QuerySet[Account] = super().get_queryset(request).exclude(contributor=None)
        return rows


@admin.register(Hold)
class HoldAdmin(ReadOnly, ModelAdmin):
    list_display = ("source", "account", "state", "amount", "captured_amount", "created_at", "expires_at")
    list_filter = ("state",)
    list_select_related = ("account__contributor",)
    search_fields = ("source", "account__contributor__nickname")
    ordering = ("-pk",)


@admin.register(EscrowLine)
class EscrowLineAdmin(ReadOnly, ModelAdmin):
    list_display = ("txn", "account", "amount", "release_at", "released_at")
    list_filter = (("released_at", admin.EmptyFieldListFilter),)
    list_select_related = ("txn", "account__contributor")
    ordering = ("-pk",)
