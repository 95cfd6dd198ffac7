"""Completions that were asked for and paid; never their text."""

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
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name = _("completion")
        verbose_name_plural = _("completions")
        indexes = [models.Index(fields=["state", "created_at"], name="completion_under_way")]

    def __str__(self) -> str:
        return self.request_id
