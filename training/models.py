"""Experiments, rounds, jobs, attempts and the files they are made of. State changes live in the noun modules."""

import math
from datetime import datetime
from typing import ClassVar

from django.db import models
from django.db.models import F, Q
from django.utils.translation import gettext_lazy as _

from contributors.models import Device
from ml.config import InnerConfig, ModelConfig, OuterConfig

TIME_BOX = 1.5
"""A device trains for at most so many times job_seconds; its speed is a measurement, and machines grow busy."""

Edges = dict[str, tuple[str, ...]]
"""State machine: from each state that is not an end, the states that may follow."""


class Blob(models.Model):
    """A file in storage, named by its content."""

    class Kind(models.TextChoices):
        TOKENIZER = "tokenizer"
        SHARD = "shard"
        CHECKPOINT = "checkpoint"
        OUTER_STATE = "outer_state"
        DELTA = "delta"
        MANIFEST = "manifest"
        STEP = "step"

    sha256 = models.CharField(max_length=64, primary_key=True)
    kind = models.CharField(max_length=12, choices=Kind)
    size_bytes = models.BigIntegerField()
    created_at = models.DateTimeField(help_text="When it was stored; storing the same bytes again renews it.")

    class Meta:
        verbose_name = _("file")
        verbose_name_plural = _("files")

    def __str__(self) -> str:
        return f"{self.kind} {self.sha256[:12]}"

    @property
    def path(self) -> str:
        """Name in storage."""
        return f"blobs/{self.sha256[:2]}/{self.sha256}"


class Experiment(models.Model):
    """A model, its data and its hyperparameters under a name."""

    class State(models.TextChoices):
        DRAFT = "draft"
        PREPARING = "preparing"
        RUNNING = "running"
        PAUSED = "paused"
        FINISHED = "finished"

    EDGES: ClassVar[Edges] = {
        State.DRAFT: (State.PREPARING,),
        State.PREPARING: (State.RUNNING, State.DRAFT),
        State.RUNNING: (State.PAUSED, State.FINISHED),
        State.PAUSED: (State.RUNNING, State.FINISHED),
    }

    slug = models.SlugField(unique=True)
    title = models.CharField(max_length=120)
    description = models.TextField(blank=True)
    state = models.CharField(max_length=10, choices=State, default=State.DRAFT)
    problem = models.TextField(blank=True, help_text="Why the last preparation failed.")
    created_at = models.DateTimeField()
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    next_transition_at = models.DateTimeField(
        null=True, blank=True, help_text="When a preparation is taken for dead and begun again."
    )

    corpus_dir = models.CharField(max_length=500, help_text="Folder of Markdown and Dart files on the coordinator.")
    model = models.JSONField(help_text="ml.config.ModelConfig")
    inner = models.JSONField(default=dict, blank=True, help_text="ml.config.InnerConfig")
    outer = models.JSONField(default=dict, blank=True, help_text="ml.config.OuterConfig")
    codec = models.CharField(max_length=16, default="int8")
    shard_tokens = models.PositiveIntegerField(default=4_000_000, help_text="Tokens of one shard.")

    num_rounds = models.PositiveIntegerField(help_text="The experiment is finished after so many rounds.")
    round_tokens = models.PositiveBigIntegerField(help_text="A round closes when so many tokens are accepted.")
    round_min_tokens = models.PositiveBigIntegerField(help_text="Least tokens with which a round may close late.")
    round_seconds = models.PositiveIntegerField(default=3_600, help_text="Deadline of a round.")
    grace_seconds = models.PositiveIntegerField(
        null=True,
        blank=True,
        help_text="How long a round waits on once it has its least tokens; null: until its deadline.",
    )
    job_seconds = models.PositiveIntegerField(default=600, help_text="A job is sized to last so long on its device.")
    max_staleness = models.PositiveSmallIntegerField(default=1, help_text="Rounds by which a delta may be late.")
    staleness_percent = models.PositiveSmallIntegerField(
        default=50, help_text="Weight that is left to a delta for each round it is late."
    )
    credits_per_teraflop = models.PositiveIntegerField(default=1_000)
    credits_per_completion_token = models.PositiveIntegerField(default=1)
    escrow_seconds = models.PositiveIntegerField(
        default=0, help_text="How long the first earnings of a new contributor rest."
    )

    tokenizer = models.ForeignKey(Blob, on_delete=models.PROTECT, null=True, blank=True, related_name="+")
    max_delta_bytes = models.PositiveBigIntegerField(default=0, help_text="Set by preparation from model and codec.")

    class Meta:
        verbose_name = _("experiment")
        verbose_name_plural = _("experiments")

    def __str__(self) -> str:
        return self.slug

    @property
    def model_config(self) -> ModelConfig:
        return ModelConfig.from_dict(self.model)

    @property
    def inner_config(self) -> InnerConfig:
        return InnerConfig.from_dict(self.inner)

    @property
    def outer_config(self) -> OuterConfig:
        return OuterConfig.from_dict(self.outer)

    @property
    def train_seconds(self) -> int:
        """Time box of a job: what its device was slower than it had measured must not hold up a round."""
        return min(math.ceil(TIME_BOX * self.job_seconds), self.round_seconds)

    def credits_for(self, tokens: int) -> int:
        """Credits earned by training on `tokens` tokens, rounded down."""
        return tokens * self.model_config.training_flops_per_token * self.credits_per_teraflop // 10**12


class Shard(models.Model):
    """A slice of an experiment's token stream."""

    class Split(models.TextChoices):
        TRAIN = "train"
        VALIDATION = "validation"

    experiment = models.ForeignKey(Experiment, on_delete=models.CASCADE, related_name="shards")
    split = models.CharField(max_length=10, choices=Split)
    index = models.PositiveIntegerField()
    blob = models.ForeignKey(Blob, on_delete=models.PROTECT, related_name="+")
    num_tokens = models.PositiveBigIntegerField()
    dtype = models.CharField(max_length=6)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["experiment", "split", "index"], name="shard_index")]

    def __str__(self) -> str:
        return f"{self.experiment_id}/{self.split}/{self.index}"


class Checkpoint(models.Model):
    """Weights after a round; number 0 is the untrained model. Published once evaluated."""

    experiment = models.ForeignKey(Experiment, on_delete=models.CASCADE, related_name="checkpoints")
    number = models.PositiveIntegerField()
    blob = models.ForeignKey(Blob, on_delete=models.PROTECT, related_name="+")
    outer_state = models.ForeignKey(Blob, on_delete=models.PROTECT, null=True, blank=True, related_name="+")
    step = models.ForeignKey(
        Blob,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="+",
        help_text="The outer step from its round's base, for devices that have that.",
    )
    validation_loss = models.FloatField(null=True, blank=True)
    created_at = models.DateTimeField()
    published_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name = _("checkpoint")
        verbose_name_plural = _("checkpoints")
        constraints = [models.UniqueConstraint(fields=["experiment", "number"], name="checkpoint_number")]

    def __str__(self) -> str:
        return f"{self.experiment.slug}@{self.number}"


class Round(models.Model):
    """One outer step: jobs from one base checkpoint, then one merge."""

    class State(models.TextChoices):
        OPEN = "open"
        MERGING = "merging"
        EVALUATING = "evaluating"
        CLOSED = "closed"
        ABANDONED = "abandoned"

    LIVE_STATES: ClassVar = (State.OPEN, State.MERGING, State.EVALUATING)
    EDGES: ClassVar[Edges] = {
        State.OPEN: (State.MERGING, State.ABANDONED),
        State.MERGING: (State.EVALUATING, State.OPEN),
        State.EVALUATING: (State.CLOSED, State.ABANDONED),
    }

    experiment = models.ForeignKey(Experiment, on_delete=models.CASCADE, related_name="rounds")
    number = models.PositiveIntegerField()
    state = models.CharField(max_length=10, choices=State, default=State.OPEN)
    epoch = models.PositiveIntegerField(default=0, help_text="Raised by each change of state; a stale worker loses.")
    base = models.ForeignKey(Checkpoint, on_delete=models.PROTECT, related_name="rounds_from")
    result = models.OneToOneField(Checkpoint, on_delete=models.PROTECT, null=True, blank=True, related_name="round")
    manifest = models.ForeignKey(Blob, on_delete=models.PROTECT, null=True, blank=True, related_name="+")
    steps = models.JSONField(default=list, blank=True, help_text="ml.protocol.StepRef: what leads to the base.")
    target_tokens = models.PositiveBigIntegerField()
    min_tokens = models.PositiveBigIntegerField()
    credit_budget = models.BigIntegerField(help_text="Most credits that this round may mint.")
    opened_at = models.DateTimeField()
    next_transition_at = models.DateTimeField(
        db_index=True, help_text="Deadline while open; when the merge or evaluation is given up, afterwards."
    )
    closed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name = _("round")
        verbose_name_plural = _("rounds")
        constraints = [
            models.UniqueConstraint(fields=["experiment", "number"], name="round_number"),
            models.UniqueConstraint(
                fields=["experiment"],
                condition=Q(state__in=["open", "merging", "evaluating"]),
                name="one_live_round_per_experiment",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.experiment.slug} round {self.number}"


class Job(models.Model):
    """One unit of local training: a token budget on a shard from the round's base."""

    round = models.ForeignKey(Round, on_delete=models.CASCADE, related_name="jobs")
    index = models.PositiveIntegerField()
    shard = models.ForeignKey(Shard, on_delete=models.PROTECT, related_name="jobs")
    seed = models.BigIntegerField()
    token_budget = models.PositiveBigIntegerField()

    class Meta:
        verbose_name = _("job")
        verbose_name_plural = _("jobs")
        constraints = [models.UniqueConstraint(fields=["round", "index"], name="job_index")]

    def __str__(self) -> str:
        return f"{self.round} job {self.index}"


class Enrollment(models.Model):
    """A device's wish to work on an experiment, and how fast it trains that experiment's model."""

    device = models.ForeignKey(Device, on_delete=models.CASCADE, related_name="enrollments")
    experiment = models.ForeignKey(Experiment, on_delete=models.CASCADE, related_name="enrollments")
    tokens_per_second = models.FloatField(null=True, blank=True)
    updated_at = models.DateTimeField()

    class Meta:
        verbose_name = _("live device")
        verbose_name_plural = _("live devices")
        constraints = [models.UniqueConstraint(fields=["device", "experiment"], name="enrollment_once")]

    def __str__(self) -> str:
        return f"{self.device_id} on {self.experiment_id}"


class AttemptQuerySet(models.QuerySet["Attempt"]):
    def live(self) -> "AttemptQuerySet":
        """Attempts whose budget may still come in."""
        return self.filter(state__in=Attempt.LIVE_STATES)

    def claimable(self, now: datetime) -> "AttemptQuerySet":
        return self.filter(state=Attempt.State.OFFERED, next_transition_at__gt=now)

    def overdue(self, now: datetime) -> "AttemptQuerySet":
        return self.live().filter(next_transition_at__lte=now)

    def unmerged(self) -> "AttemptQuerySet":
        """Accepted attempts that the next merge will take."""
        return self.filter(state=Attempt.State.ACCEPTED, merged_into=None)


class Attempt(models.Model):
    """One device's try at a job. It carries the lease and ends in one named state."""

    class State(models.TextChoices):
        OFFERED = "offered"
        RUNNING = "running"
        SUBMITTED = "submitted"
        VALIDATING = "validating"
        ACCEPTED = "accepted"
        MERGED = "merged"
        OFFER_EXPIRED = "offer_expired"
        LEASE_EXPIRED = "lease_expired"
        RELEASED = "released"
        FAILED = "failed"
        REJECTED = "rejected"
        LATE = "late"
        CANCELLED = "cancelled"

    LIVE_STATES: ClassVar = (State.OFFERED, State.RUNNING, State.SUBMITTED, State.VALIDATING)
    EDGES: ClassVar[Edges] = {
        State.OFFERED: (State.RUNNING, State.OFFER_EXPIRED, State.CANCELLED, State.RELEASED),
        State.RUNNING: (State.SUBMITTED, State.LEASE_EXPIRED, State.RELEASED, State.FAILED, State.CANCELLED),
        State.SUBMITTED: (State.VALIDATING,),
        State.VALIDATING: (State.SUBMITTED, State.ACCEPTED, State.REJECTED, State.LATE),
        State.ACCEPTED: (State.MERGED, State.LATE),
        # Its own device comes back after an outage, with the work that it went on with.
        State.LEASE_EXPIRED: (State.RUNNING,),
    }

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="attempts")
    device = models.ForeignKey(Device, on_delete=models.PROTECT, related_name="attempts", db_index=False)
    state = models.CharField(max_length=14, choices=State, default=State.OFFERED)
    nonce = models.CharField(max_length=32)
    token_budget = models.PositiveBigIntegerField()
    quoted_credits = models.BigIntegerField()
    next_transition_at = models.DateTimeField(null=True, blank=True)
    offered_at = models.DateTimeField()
    claimed_at = models.DateTimeField(null=True, blank=True)
    submitted_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)
    reason = models.CharField(max_length=40, blank=True)
    detail = models.CharField(max_length=300, blank=True)
    progress_tokens = models.PositiveBigIntegerField(default=0)
    progress_loss = models.FloatField(null=True, blank=True)

    delta_size_bytes = models.PositiveBigIntegerField(null=True, blank=True)
    delta_sha256 = models.CharField(max_length=64, blank=True)
    delta = models.ForeignKey(Blob, on_delete=models.PROTECT, null=True, blank=True, related_name="+")
    report = models.JSONField(null=True, blank=True)
    verified_tokens = models.PositiveBigIntegerField(null=True, blank=True)
    delta_norm = models.FloatField(null=True, blank=True, help_text="L2 norm of the decoded delta.")
    earned_credits = models.BigIntegerField(null=True, blank=True)
    merged_into = models.ForeignKey(
        Round, on_delete=models.PROTECT, null=True, blank=True, related_name="merged_attempts"
    )
    weight = models.FloatField(null=True, blank=True, help_text="Weight in the merge: tokens, less for staleness.")
    kept = models.FloatField(
        null=True, blank=True, help_text="What the merge's rule left of the weight's share: 1 is all of it, 0 nothing."
    )

    objects = AttemptQuerySet.as_manager()

    class Meta:
        verbose_name = _("attempt")
        verbose_name_plural = _("attempts")
        indexes = [
            models.Index(fields=["state", "next_transition_at"], name="attempt_timer"),
            models.Index(fields=["device", "state"], name="attempt_of_device"),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["device"],
                condition=Q(state__in=["offered", "running"]),
                name="one_attempt_under_way_per_device",
            ),
            models.CheckConstraint(
                condition=Q(verified_tokens=None) | Q(verified_tokens__lte=F("token_budget")),
                name="verified_within_budget",
            ),
        ]

    def __str__(self) -> str:
        return f"attempt {self.pk} of {self.job}"
