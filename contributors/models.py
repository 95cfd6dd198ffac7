"""People, their machines, their keys, and the double-entry ledger of their credits."""

from datetime import datetime

from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Lower
from django.utils.translation import gettext_lazy as _


class Contributor(models.Model):
    """A person, known by a nickname alone."""

    nickname = models.CharField(max_length=40, unique=True)
    created_at = models.DateTimeField()
    banned_at = models.DateTimeField(null=True, blank=True)
    ban_reason = models.CharField(max_length=200, blank=True)

    is_authenticated = True
    """What REST framework asks of request.user."""

    class Meta:
        verbose_name = _("contributor")
        verbose_name_plural = _("contributors")
        constraints = [models.UniqueConstraint(Lower("nickname"), name="nickname_unique_ignoring_case")]

    def __str__(self) -> str:
        return self.nickname


class Scope(models.TextChoices):
    """What an API key may do."""

    VOLUNTEER = "volunteer"
    COMPLETION = "completion"


class ApiKeyQuerySet(models.QuerySet["ApiKey"]):
    def usable(self, now: datetime) -> "ApiKeyQuerySet":
        unexpired = Q(expires_at=None) | Q(expires_at__gt=now)
        return self.filter(unexpired, revoked_at=None, contributor__banned_at=None)


class ApiKey(models.Model):
    """A secret that is shown once: only its prefix and its SHA-256 are stored.

    A shared key is lent to others: it completes at its owner's cost, up to its cap in each period, and does nothing
    else. A key that replaces another has the same `line`: both spend under one cap and one rate while they overlap.
    """

    class CapPeriod(models.TextChoices):
        NONE = "none", _("for good")
        DAY = "day", _("a day")
        WEEK = "week", _("a week")
        MONTH = "month", _("a month")

    contributor = models.ForeignKey(Contributor, on_delete=models.CASCADE, related_name="api_keys")
    name = models.CharField(max_length=60)
    prefix = models.CharField(max_length=8, unique=True)
    secret_sha256 = models.CharField(max_length=64)
    scopes = models.JSONField(default=list)
    is_shared = models.BooleanField(_("shared"), default=False)
    credit_cap = models.PositiveBigIntegerField(
        _("credit cap"), null=True, blank=True, help_text=_("Credits that the key may spend in a period.")
    )
    cap_period = models.CharField(
        _("cap period"), max_length=6, choices=CapPeriod, default=CapPeriod.NONE, help_text=_("In UTC, from its start.")
    )
    requests_per_minute = models.PositiveIntegerField(_("requests per minute"), null=True, blank=True)
    tokens_per_minute = models.PositiveIntegerField(_("tokens per minute"), null=True, blank=True)
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True)
    replaced_by = models.OneToOneField("self", on_delete=models.PROTECT, null=True, blank=True, related_name="replaced")
    line = models.ForeignKey("self", on_delete=models.PROTECT, null=True, blank=True, related_name="successors")
    """The first key of those that replaced each other; None in that one."""

    objects = ApiKeyQuerySet.as_manager()

    class Meta:
        verbose_name = _("API key")
        verbose_name_plural = _("API keys")
        constraints = [
            models.CheckConstraint(
                condition=Q(is_shared=False) | (Q(credit_cap__isnull=False) & ~Q(cap_period="none")),
                name="shared_key_has_a_cap",
            ),
            models.CheckConstraint(
                condition=Q(credit_cap__isnull=False) | Q(cap_period="none"), name="cap_period_has_a_cap"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.prefix} ({self.name})"

    @property
    def root_id(self) -> int:
        """The first key of the line, which names what its keys have in common: their spending and their rate."""
        return self.line_id or self.pk

    @property
    def is_limited(self) -> bool:
        """Whether the key may do less than its owner: it could shed its limits, if it might make and change keys."""
        limits = (self.credit_cap, self.requests_per_minute, self.tokens_per_minute, self.expires_at)
        return self.is_shared or any(limit is not None for limit in limits)


class Device(models.Model):
    """One machine of a contributor, with a broker account of its own."""

    contributor = models.ForeignKey(Contributor, on_delete=models.CASCADE, related_name="devices")
    name = models.CharField(max_length=60)
    hardware = models.JSONField(default=dict)
    protocol_version = models.PositiveIntegerField()
    created_at = models.DateTimeField()
    last_seen_at = models.DateTimeField(null=True, blank=True, db_index=True)
    state = models.CharField(max_length=12, default="idle")
    idle_reason = models.CharField(max_length=40, blank=True)

    class Meta:
        verbose_name = _("device")
        verbose_name_plural = _("devices")
        constraints = [models.UniqueConstraint(fields=["contributor", "name"], name="device_name_per_contributor")]

    def __str__(self) -> str:
        return f"{self.name} ({self.contributor})"


class Account(models.Model):
    """One side of a posting. A contributor has AVAILABLE and ESCROW; MINT and USAGE belong to the system.

    Units: credits. `balance` caches the sum of the account's postings, `held` the sum of its open holds. The system's
    accounts cache nothing, their columns stay 0: every earning posts on MINT, and would wait for that one row.
    """

    class Kind(models.TextChoices):
        AVAILABLE = "available"
        ESCROW = "escrow"
        MINT = "mint"
        USAGE = "usage"

    kind = models.CharField(max_length=12, choices=Kind)
    contributor = models.ForeignKey(
        Contributor, on_delete=models.PROTECT, null=True, blank=True, related_name="accounts"
    )
    balance = models.BigIntegerField(default=0)
    held = models.BigIntegerField(default=0)

    class Meta:
        verbose_name = _("account")
        verbose_name_plural = _("accounts")
        constraints = [
            models.UniqueConstraint(fields=["contributor", "kind"], name="account_per_contributor_and_kind"),
            models.UniqueConstraint(fields=["kind"], condition=Q(contributor=None), name="one_system_account_per_kind"),
            models.CheckConstraint(condition=Q(held__gte=0), name="account_held_not_negative"),
            models.CheckConstraint(
                condition=Q(contributor=None, balance=0, held=0) | Q(contributor__isnull=False, balance__gte=F("held")),
                name="account_never_overdrawn",
            ),
            models.CheckConstraint(
                condition=Q(contributor=None, kind__in=["mint", "usage"])
                | Q(contributor__isnull=False, kind__in=["available", "escrow"]),
                name="account_kind_matches_owner",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.contributor or 'system'}: {self.kind}"


class Txn(models.Model):
    """An immutable movement of credits whose postings sum to zero; corrected only by a compensating one."""

    class Kind(models.TextChoices):
        EARN = "earn"
        ESCROW_RELEASE = "escrow_release"
        USAGE = "usage"
        CORRECTION = "correction"

    kind = models.CharField(max_length=16, choices=Kind)
    idempotency_key = models.CharField(max_length=120, unique=True)
    request_sha256 = models.CharField(max_length=64)
    source = models.CharField(max_length=80, db_index=True)
    created_at = models.DateTimeField(db_index=True)

    class Meta:
        verbose_name = _("transaction")
        verbose_name_plural = _("transactions")

    def __str__(self) -> str:
        return self.idempotency_key


class Posting(models.Model):
    """One signed amount on one account. Immutable."""

    txn = models.ForeignKey(Txn, on_delete=models.PROTECT, related_name="postings")
    account = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="postings", db_index=False)
    amount = models.BigIntegerField()

    class Meta:
        verbose_name = _("posting")
        verbose_name_plural = _("postings")
        indexes = [models.Index(fields=["account", "id"], name="posting_by_account")]
        constraints = [models.CheckConstraint(condition=~Q(amount=0), name="posting_moves_something")]

    def __str__(self) -> str:
        return f"{self.amount:+d} on {self.account_id}"


class EscrowLine(models.Model):
    """An earning that rests until `release_at`, then moves once to AVAILABLE."""

    txn = models.OneToOneField(Txn, on_delete=models.PROTECT, related_name="escrow_line")
    account = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="escrow_lines")
    amount = models.BigIntegerField()
    release_at = models.DateTimeField()
    released_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name = _("escrow line")
        verbose_name_plural = _("escrow lines")
        indexes = [models.Index(fields=["release_at"], condition=Q(released_at=None), name="escrow_still_resting")]

    def __str__(self) -> str:
        return f"{self.amount} until {self.release_at:%F %T}"


class Hold(models.Model):
    """Credits set aside for one spend: OPEN, then CAPTURED, RELEASED or EXPIRED, once."""

    class State(models.TextChoices):
        OPEN = "open"
        CAPTURED = "captured"
        RELEASED = "released"
        EXPIRED = "expired"

    account = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="holds")
    amount = models.BigIntegerField()
    captured_amount = models.BigIntegerField(default=0)
    state = models.CharField(max_length=10, choices=State, default=State.OPEN)
    source = models.CharField(max_length=80, unique=True)
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    resolved_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name = _("hold")
        verbose_name_plural = _("holds")
        constraints = [
            models.CheckConstraint(condition=Q(amount__gt=0), name="hold_amount_positive"),
            models.CheckConstraint(
                condition=Q(captured_amount__gte=0, captured_amount__lte=F("amount")),
                name="hold_captured_within_amount",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.state} {self.amount} for {self.source}"
