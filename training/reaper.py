"""Moves what is overdue, and names the rows whose next step a task must take. Everything here may run twice at once."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from contributors import ledger
from training import experiments, jobs, leases, rounds
from training.models import Attempt, Experiment, Round
from training.transitions import TransitionLost, move

State = Attempt.State


@dataclass(kw_only=True, slots=True)
class Due:
    """Primary keys of the rows that wait for a task."""

    validate: list[int] = field(default_factory=list)
    merge: list[int] = field(default_factory=list)
    evaluate: list[int] = field(default_factory=list)
    prepare: list[int] = field(default_factory=list)


def reap(*, now: datetime) -> Due:
    """Expire offers, leases, holds and dead workers' claims; open due rounds; return what tasks must take up."""
    due = Due()
    _reap_attempts(due, now=now)
    _reap_rounds(due, now=now)
    _reap_experiments(due, now=now)
    ledger.expire_holds(now=now)
    ledger.release_escrow(now=now)
    return due


def _reap_attempts(due: Due, *, now: datetime) -> None:
    for attempt in Attempt.objects.overdue(now).order_by("next_transition_at")[:1_000]:
        try:
            _reap_attempt(attempt, due, now=now)
        except (jobs.AttemptNotYours, TransitionLost):
            continue


def _reap_attempt(attempt: Attempt, due: Due, *, now: datetime) -> None:
    match attempt.state:
        case State.OFFERED | State.RUNNING:
            jobs.expire(attempt, now=now)
        case State.VALIDATING:
            move(attempt, State.SUBMITTED, next_transition_at=now)
            due.validate.append(attempt.pk)
        case State.SUBMITTED:
            later = now + timedelta(seconds=jobs.SUBMITTED_SECONDS)
            Attempt.objects.filter(pk=attempt.pk, state=State.SUBMITTED).update(next_transition_at=later)
            due.validate.append(attempt.pk)


def _reap_rounds(due: Due, *, now: datetime) -> None:
    for round_ in Round.objects.select_related("experiment").filter(state__in=Round.LIVE_STATES):
        overdue = round_.next_transition_at <= now
        try:
            if round_.state == Round.State.MERGING and overdue:
                rounds.reopen(round_=round_, now=now)
        except TransitionLost:
            continue
        if round_.state == Round.State.OPEN:
            rounds.retire_stale(round_=round_, now=now)
            if rounds.is_full(round_, now=now):
                due.merge.append(round_.pk)
        elif round_.state == Round.State.EVALUATING and overdue and _take_up(round_, now=now):
            due.evaluate.append(round_.pk)


def _reap_experiments(due: Due, *, now: datetime) -> None:
    for experiment in Experiment.objects.filter(state=Experiment.State.RUNNING):
        experiments.advance(experiment=experiment, now=now)
    for experiment in Experiment.objects.filter(state=Experiment.State.PREPARING, next_transition_at__lte=now):
        if _take_up(experiment, now=now):
            due.prepare.append(experiment.pk)


def _take_up(row: Round | Experiment, *, now: datetime) -> bool:
    """Give overdue work a new lease; False when another reaper has done so."""
    overdue = type(row)._default_manager.filter(pk=row.pk, state=row.state, next_transition_at__lte=now)
    return bool(overdue.update(next_transition_at=leases.until(now)))
