"""Completions that were asked for and paid, without their text; and the answers that clients asked to be kept."""

from django.db import models
from django.utils.translation import gettext_lazy as _

from contributors.models import ApiKey, Hold
from training.models import Checkpoint


class Completion(models.Model):
    """One billed request: what was counted and how it ended."""

    class State(models.TextChoices):
        RUNNING = "running"
        DONE = "done"
        DISCONNECTED = "disconnected"
        FAILED = "failed"

    request_id = models.CharField(max_length=40, unique=True)
    api_key = models.ForeignKey(ApiKey, on_delete=models.PROTECT, related_name="completions")
    checkpoint = models.ForeignKey(Checkpoint, on_delete=models.PROTECT, related_name="completions")
    hold = models.OneToOneField(Hold, on_delete=models.PROTECT, null=True, blank=True, related_name="completion")
    """None where the model is free."""
    credits_per_token = models.PositiveIntegerField(help_text="Price at the time of the request.")
    state = models.CharField(max_length=12, choices=State, default=State.RUNNING)
    prompt_tokens = models.PositiveIntegerField()
    completion_tokens = models.PositiveIntegerField(default=0)
    created_at = models.DateTimeField(db_index=True)
    lease_expires_at = models.DateTimeField(null=True, blank=True)
    """The web process that answers the request renews it; past it, that process is dead. None in old rows."""
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name = _("completion")
        verbose_name_plural = _("completions")
        indexes = [
            models.Index(fields=["state", "created_at"], name="completion_under_way"),
            models.Index(fields=["api_key", "created_at"], name="completion_of_key"),
        ]

    def __str__(self) -> str:
        return self.request_id


class IdempotentRequest(models.Model):
    """A request that came with an Idempotency-Key: there while it runs, then with its answer until that expires.

    The body is text of a person, and the only one that is stored: because the client asked for it, and for a day.
    """

    line = models.ForeignKey(ApiKey, on_delete=models.CASCADE, related_name="idempotent_requests")
    """The first of the API keys that replaced each other."""
    key = models.CharField(max_length=255)
    request_sha256 = models.CharField(max_length=64)
    completion = models.OneToOneField(Completion, on_delete=models.CASCADE, related_name="idempotent_request")
    content_type = models.CharField(max_length=60)
    body = models.BinaryField(null=True)
    """None while the request runs."""
    expires_at = models.DateTimeField(db_index=True)

    class Meta:
        verbose_name = _("idempotent request")
        verbose_name_plural = _("idempotent requests")
        constraints = [models.UniqueConstraint(fields=["line", "key"], name="one_request_per_idempotency_key")]

    def __str__(self) -> str:
        return f"{self.key} of {self.completion_id}"
