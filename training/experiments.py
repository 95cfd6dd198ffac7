"""An experiment's life: drafted, prepared, run, paused, finished."""

from dataclasses import dataclass
from datetime import datetime

from django.core.exceptions import ValidationError
from django.db import transaction

from ml.config import CODECS, ConfigInvalid
from ml.protocol import Reason
from training import jobs, leases, rounds
from training.models import Attempt, Blob, Checkpoint, Experiment, Round, Shard
from training.transitions import move

State = Experiment.State


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """Files that a preparation left in storage, and what follows from the model."""

    tokenizer: Blob
    shards: list[Shard]
    """Not yet saved."""
    checkpoint: Blob
    """The untrained model."""
    validation_loss: float
    max_delta_bytes: int


def validate(experiment: Experiment) -> None:
    """Check what the fields mean together.

    Raises: django.core.exceptions.ValidationError, one sentence per field.
    """
    problems = _config_problems(experiment)
    if not problems:
        problems |= _size_problems(experiment, experiment.model_config.block_size, experiment.inner_config.batch_tokens)
    if not 0 < experiment.round_min_tokens <= experiment.round_tokens:
        problems["round_min_tokens"] = "round_min_tokens must lie between 1 and round_tokens"
    if not 0 < experiment.job_seconds <= experiment.round_seconds:
        problems["job_seconds"] = "job_seconds must lie between 1 and round_seconds"
    # A weight of 0 cannot be merged.
    if not 0 < experiment.staleness_percent <= 100:
        problems["staleness_percent"] = "staleness_percent must lie between 1 and 100"
    if experiment.num_rounds < 1:
        problems["num_rounds"] = "num_rounds must be at least 1"
    if problems:
        raise ValidationError(problems)


def _config_problems(experiment: Experiment) -> dict[str, str]:
    problems: dict[str, str] = {}
    for field in ("model", "inner", "outer"):
        try:
            getattr(experiment, f"{field}_config")
        except ConfigInvalid as error:
            problems[field] = str(error)
    if experiment.codec not in CODECS:
        problems["codec"] = f"codec must be one of {', '.join(CODECS)}"
    return problems


def _size_problems(experiment: Experiment, block_size: int, batch_tokens: int) -> dict[str, str]:
    problems: dict[str, str] = {}
    if block_size > batch_tokens:
        problems["inner"] = f"batch_tokens must be at least the block size, {block_size}"
    # Shards are cut to equal sizes, down to half of shard_tokens, and each must hold a window.
    if experiment.shard_tokens < 2 * (block_size + 1):
        problems["shard_tokens"] = (
            f"shard_tokens must be at least {2 * (block_size + 1)}, two windows of the block size"
        )
    if experiment.round_tokens < batch_tokens:
        problems["round_tokens"] = f"round_tokens must be at least one step of batch_tokens, {batch_tokens}"
    return problems


def start(*, experiment: Experiment, now: datetime) -> None:
    """Begin to prepare a draft: tokenizer, shards, untrained checkpoint.

    Raises: ValidationError, transitions.EdgeRefused, TransitionLost.
    """
    validate(experiment)
    move(
        experiment,
        State.PREPARING,
        problem="",
        started_at=now,
        next_transition_at=leases.until(now),
    )


@transaction.atomic
def finish_preparation(*, experiment: Experiment, prepared: Prepared, now: datetime) -> Round | None:
    """Take what was prepared, publish the untrained checkpoint as number 0, and open the first round.

    Raises: TransitionLost when another preparation came first.
    """
    move(
        experiment,
        State.RUNNING,
        tokenizer=prepared.tokenizer,
        max_delta_bytes=prepared.max_delta_bytes,
        next_transition_at=None,
    )
    Shard.objects.bulk_create(prepared.shards)
    Checkpoint.objects.create(
        experiment=experiment,
        number=0,
        blob=prepared.checkpoint,
        validation_loss=prepared.validation_loss,
        created_at=now,
        published_at=now,
    )
    return rounds.open_next(experiment=experiment, now=now)


def fail_preparation(*, experiment: Experiment, problem: str) -> None:
    """Send the experiment back to the operator with a sentence that says what to mend.

    Raises: TransitionLost.
    """
    move(experiment, State.DRAFT, problem=problem, next_transition_at=None)


def pause(*, experiment: Experiment) -> None:
    """Offer nothing more; what is under way is still taken.

    Raises: EdgeRefused, TransitionLost.
    """
    move(experiment, State.PAUSED)


def resume(*, experiment: Experiment) -> None:
    """Go on offering.

    Raises: EdgeRefused, TransitionLost.
    """
    move(experiment, State.RUNNING)


@transaction.atomic
def finish(*, experiment: Experiment, now: datetime) -> None:
    """End the experiment: an open round is abandoned, attempts under way are cancelled, what is handed in is paid.

    Raises: EdgeRefused, TransitionLost.
    """
    move(experiment, State.FINISHED, finished_at=now)
    for round_ in experiment.rounds.filter(state=Round.State.OPEN):
        rounds.abandon(round_=round_, now=now)
    under_way = Attempt.objects.filter(
        job__round__experiment=experiment, state__in=[Attempt.State.OFFERED, Attempt.State.RUNNING]
    )
    for attempt in under_way:
        try:
            jobs.end(attempt, Attempt.State.CANCELLED, reason=Reason.EXPERIMENT_FINISHED, now=now)
        except jobs.AttemptNotYours:
            continue


@transaction.atomic
def advance(*, experiment: Experiment, now: datetime) -> Round | None:
    """Open the next round of a running experiment that has none, or finish it after its last.

    Idempotent: the row lock lets one of several callers do it, and keeps off who pauses or finishes the experiment.
    """
    current = Experiment.objects.select_for_update(no_key=True).filter(pk=experiment.pk, state=State.RUNNING).first()
    if current is None or current.rounds.filter(state__in=Round.LIVE_STATES).exists():
        return None
    round_ = rounds.open_next(experiment=current, now=now)
    if round_ is None:
        finish(experiment=current, now=now)
    return round_
