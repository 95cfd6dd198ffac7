"""Moves what is overdue, and names the rows whose next step a task must take. Everything here may run twice at once."""

import contextlib
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.db.models import Exists, OuterRef

from contributors import ledger
from ml.protocol import Reason
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
            move(attempt, State.SUBMITTED, guard={"next_transition_at__lte": now}, next_transition_at=_ask_again(now))
            due.validate.append(attempt.pk)
        case State.SUBMITTED:
            waiting = Attempt.objects.overdue(now).filter(pk=attempt.pk, state=State.SUBMITTED)
            if waiting.update(next_transition_at=_ask_again(now)):
                due.validate.append(attempt.pk)


def _ask_again(now: datetime) -> datetime:
    return now + timedelta(seconds=jobs.SUBMITTED_SECONDS)


def _reap_rounds(due: Due, *, now: datetime) -> None:
    for round_ in Round.objects.select_related("experiment").filter(state__in=Round.LIVE_STATES):
        overdue = round_.next_transition_at <= now
        try:
            if round_.state == Round.State.MERGING and overdue:
                rounds.reopen(round_=round_, now=now)
        except TransitionLost:
            continue
        if round_.state == Round.State.OPEN:
            if overdue:
                _reap_overlong(round_, now=now)
            rounds.retire_stale(round_=round_, now=now)
            # Here and not where a delta is accepted: of two accepted at once neither sees the other, and a round may
            # open with its least tokens already there.
            rounds.begin_grace(round_, now=now)
            if rounds.is_full(round_, now=now):
                due.merge.append(round_.pk)
        elif round_.state == Round.State.EVALUATING and overdue and _take_up(round_, now=now):
            due.evaluate.append(round_.pk)


def _reap_overlong(round_: Round, *, now: datetime) -> None:
    """End attempts that have run as long as a whole round may, so that none keeps it open forever."""
    longest = timedelta(seconds=round_.experiment.round_seconds)
    overlong = Attempt.objects.filter(
        job__round__experiment=round_.experiment, state=State.RUNNING, claimed_at__lte=now - longest
    )
    for attempt in overlong:
        with contextlib.suppress(jobs.AttemptNotYours):
            detail = f"the job ran for more than {longest}"
            jobs.end(attempt, State.CANCELLED, reason=Reason.TOO_LATE, detail=detail, now=now)


def _reap_experiments(due: Due, *, now: datetime) -> None:
    live = Round.objects.filter(experiment=OuterRef("pk"), state__in=Round.LIVE_STATES)
    for experiment in Experiment.objects.filter(~Exists(live), state=Experiment.State.RUNNING):
        experiments.advance(experiment=experiment, now=now)
    for experiment in Experiment.objects.filter(state=Experiment.State.PREPARING, next_transition_at__lte=now):
        if _take_up(experiment, now=now):
            due.prepare.append(experiment.pk)


def _take_up(row: Round | Experiment, *, now: datetime) -> bool:
    """Give overdue work a new lease; False when another reaper has done so."""
    overdue = type(row)._default_manager.filter(pk=row.pk, state=row.state, next_transition_at__lte=now)
    return bool(overdue.update(next_transition_at=leases.until(now)))
