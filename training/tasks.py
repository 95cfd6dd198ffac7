"""Celery tasks of the control plane: ids in, one domain call each. Running one twice does no harm."""

import contextlib
import logging

from celery import shared_task
from django.utils import timezone

from training import dispatch as dispatching
from training import doorbell, experiments, leases, reaper, rounds, uploads
from training.models import Attempt, Experiment, Round
from training.transitions import EdgeRefused, TransitionLost

logger = logging.getLogger(__name__)


@shared_task
def dispatch() -> None:
    """Offer work to idle devices."""
    dispatching.dispatch(now=timezone.now())


@shared_task
def reap() -> None:
    """Expire what is overdue and hand out the work that waits."""
    due = reaper.reap(now=timezone.now())
    for task, pks in ((validate, due.validate), (merge, due.merge), (evaluate, due.evaluate), (prepare, due.prepare)):
        for pk in pks:
            doorbell.ring_worker(task.name, pk)


@shared_task
def sweep() -> None:
    """Remove files that nothing will read again."""
    uploads.sweep(now=timezone.now())


@shared_task
def prepare(experiment_pk: int) -> None:
    """Make the tokenizer, shards and first checkpoint of a started experiment."""
    from ml.bad_input import CorpusInvalid
    from training import preparation

    experiment = Experiment.objects.get(pk=experiment_pk)
    if experiment.state != Experiment.State.PREPARING:
        return
    try:
        with leases.keep_alive(experiment):
            prepared = preparation.prepare(experiment=experiment, now=timezone.now())
    except CorpusInvalid as error:
        _give_up(experiment, str(error))
        return
    except OSError as error:
        _give_up(experiment, f"{error}: free some space or mend permissions on the coordinator, then start it again.")
        return
    with contextlib.suppress(TransitionLost):
        experiments.finish_preparation(experiment=experiment, prepared=prepared, now=timezone.now())


def _give_up(experiment: Experiment, problem: str) -> None:
    with contextlib.suppress(TransitionLost):
        experiments.fail_preparation(experiment=experiment, problem=problem)


@shared_task
def validate(attempt_pk: int) -> None:
    """Decide whether a submitted delta counts."""
    from ml.delta_file import DeltaInvalid
    from training import validation

    attempt = Attempt.objects.select_related(
        "delta", "device__contributor", "job__round__experiment", "job__round__base"
    ).get(pk=attempt_pk)
    with contextlib.suppress(EdgeRefused, TransitionLost):
        validation.begin(attempt=attempt, now=timezone.now())
        try:
            facts = validation.check(attempt)
        except DeltaInvalid as error:
            validation.reject(attempt=attempt, reason=error.reason, detail=error.detail, now=timezone.now())
        except validation.DeltaLost as error:
            logger.error("%s is not validated: %s", attempt, error)  # noqa: TRY400 - the message is the cause
            validation.lose(attempt=attempt, detail=str(error), now=timezone.now())
        else:
            validation.accept(attempt=attempt, facts=facts, now=timezone.now())


@shared_task
def merge(round_pk: int) -> None:
    """Merge a full round and pass it on to evaluation."""
    from training import aggregation

    round_ = Round.objects.select_related("experiment", "base__blob", "base__outer_state").get(pk=round_pk)
    try:
        attempts = rounds.begin_merge(round_=round_, now=timezone.now())
    except (EdgeRefused, TransitionLost, rounds.NothingToMerge):
        return
    try:
        with leases.keep_alive(round_):
            merged = aggregation.merge(round_=round_, attempts=attempts, now=timezone.now())
    except aggregation.DeltasLost as error:
        logger.error("%s is merged without them: %s", round_, error)  # noqa: TRY400 - the message is the cause
        with contextlib.suppress(TransitionLost):
            rounds.drop(round_=round_, attempts=error.attempts, now=timezone.now())
        return
    try:
        rounds.finish_merge(
            round_=round_,
            model=merged.model,
            outer_state=merged.outer_state,
            step=merged.step,
            manifest=merged.manifest,
            kept=merged.kept,
            now=timezone.now(),
        )
    except TransitionLost:
        return
    doorbell.ring_worker(evaluate.name, round_.pk)


@shared_task
def evaluate(round_pk: int) -> None:
    """Measure a merged checkpoint, publish it, and open the next round."""
    from training import aggregation

    round_ = Round.objects.select_related("experiment", "result__blob").get(pk=round_pk)
    if round_.state != Round.State.EVALUATING:
        return
    with leases.keep_alive(round_):
        loss = aggregation.evaluate(round_=round_)
    try:
        rounds.finish_evaluation(round_=round_, validation_loss=loss, now=timezone.now())
    except TransitionLost:
        return
    experiments.advance(experiment=round_.experiment, now=timezone.now())
