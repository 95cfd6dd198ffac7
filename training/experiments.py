"""An experiment's life: drafted, prepared, run, paused, finished."""

from datetime import datetime

from django.core.exceptions import ValidationError
from django.db import transaction

from ml.config import CODECS, ConfigInvalid
from ml.protocol import Reason
from training import jobs, leases, rounds
from training.models import Attempt, Blob, Checkpoint, Experiment, Round
from training.transitions import TransitionLost, move

State = Experiment.State


def validate(experiment: Experiment) -> None:
    """Check what the fields mean together.

    Raises: django.core.exceptions.ValidationError, one sentence per field.
    """
    problems: dict[str, str] = {}
    for field in ("model", "inner", "outer"):
        try:
            getattr(experiment, f"{field}_config")
        except ConfigInvalid as error:
            problems[field] = str(error)
    if experiment.codec not in CODECS:
        problems["codec"] = f"codec must be one of {', '.join(CODECS)}"
    if not problems:
        least_tokens = experiment.inner_config.batch_tokens
        if experiment.model_config.block_size > least_tokens:
            problems["inner"] = f"batch_tokens must be at least the block size, {experiment.model_config.block_size}"
        if experiment.round_tokens < least_tokens:
            problems["round_tokens"] = f"round_tokens must be at least one step of batch_tokens, {least_tokens}"
    if not 0 < experiment.round_min_tokens <= experiment.round_tokens:
        problems["round_min_tokens"] = "round_min_tokens must lie between 1 and round_tokens"
    if experiment.num_rounds < 1:
        problems["num_rounds"] = "num_rounds must be at least 1"
    if problems:
        raise ValidationError(problems)


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
def finish_preparation(
    *, experiment: Experiment, checkpoint: Blob, validation_loss: float, max_delta_bytes: int, now: datetime
) -> Round | None:
    """Publish the untrained checkpoint as number 0 and open the first round.

    Raises: TransitionLost.
    """
    move(experiment, State.RUNNING, max_delta_bytes=max_delta_bytes, next_transition_at=None)
    Checkpoint.objects.create(
        experiment=experiment,
        number=0,
        blob=checkpoint,
        validation_loss=validation_loss,
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


def advance(*, experiment: Experiment, now: datetime) -> Round | None:
    """Open the next round of a running experiment that has none, or finish it after its last. Idempotent."""
    if experiment.state != State.RUNNING or experiment.rounds.filter(state__in=Round.LIVE_STATES).exists():
        return None
    round_ = rounds.open_next(experiment=experiment, now=now)
    if round_ is None:
        try:
            finish(experiment=experiment, now=now)
        except TransitionLost:
            return None
    return round_
