"""What the ledger and the attempts must say alike: who was paid for which delta, and never beyond a round's budget."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from django.db import connection, transaction
from django.db.models import BigIntegerField, CharField, F, OuterRef, Q, Subquery, Sum, Value
from django.db.models.functions import Cast, Coalesce, Concat, Substr

from contributors import ledger
from contributors.models import Account, Contributor, Posting, Txn
from training.models import Attempt, Round

SOURCE_PREFIX = "attempt:"
PAID_STATES = (Attempt.State.ACCEPTED, Attempt.State.MERGED)
"""What is in one of these was paid; LATE was paid where it was accepted before it grew too old."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Audit:
    """What a check of the whole ledger found."""

    violations: list[str]
    num_transactions: int
    num_contributors: int
    minted_credits: int


def source_of(attempt: Attempt) -> str:
    """The name under which the ledger knows an attempt's earning."""
    return f"{SOURCE_PREFIX}{attempt.pk}"


def minted(round_: Round) -> int:
    """Credits that the round's own jobs have earned so far."""
    earned = Attempt.objects.filter(job__round=round_).aggregate(total=Coalesce(Sum("earned_credits"), 0))
    return int(earned["total"])


def audit(*, now: datetime) -> Audit:
    """Check every invariant of the ledger, with and without attempts, on one snapshot of the database."""
    with transaction.atomic():
        if connection.vendor == "postgresql" and not connection.savepoint_ids:
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        minted = Posting.objects.filter(account__kind=Account.Kind.MINT).aggregate(total=Coalesce(Sum("amount"), 0))
        return Audit(
            violations=[*ledger.violations(now=now), *violations()],
            num_transactions=Txn.objects.count(),
            num_contributors=Contributor.objects.count(),
            minted_credits=-minted["total"],
        )


def violations() -> Iterator[str]:
    """One sentence for every attempt, earning and round that does not fit the others."""
    yield from _wrong_attempts()
    yield from _earnings_of_nothing()
    yield from _rounds_beyond_budget()


def _wrong_attempts() -> Iterator[str]:
    attempts = Attempt.objects.annotate(paid=_paid(), due=Coalesce(F("earned_credits"), 0))
    for pk, due, paid in attempts.exclude(paid=F("due")).values_list("pk", "due", "paid"):
        yield f"attempt {pk} earned {due} credits, the ledger paid {paid}"
    elsewhere = attempts.exclude(state__in=[*PAID_STATES, Attempt.State.LATE])
    for pk, state in elsewhere.exclude(due=0, paid=0).values_list("pk", "state"):
        yield f"attempt {pk} was paid and is {state}"
    unverified = attempts.filter(state__in=PAID_STATES).filter(Q(verified_tokens=None) | Q(earned_credits=None))
    for pk, state in unverified.values_list("pk", "state"):
        yield f"attempt {pk} is {state} without verified tokens or credits"


def _paid() -> Coalesce:
    """Credits minted for an attempt."""
    source = Concat(Value(SOURCE_PREFIX), Cast(OuterRef("pk"), CharField()))
    earning = Posting.objects.filter(account__kind=Account.Kind.MINT, txn__kind=Txn.Kind.EARN, txn__source=source)
    total = earning.order_by().values("account").annotate(total=-Sum("amount")).values("total")
    return Coalesce(Subquery(total, output_field=BigIntegerField()), 0)


def _earnings_of_nothing() -> Iterator[str]:
    earnings = Txn.objects.filter(kind=Txn.Kind.EARN, source__startswith=SOURCE_PREFIX)
    numbered = earnings.annotate(attempt=Cast(Substr("source", len(SOURCE_PREFIX) + 1), BigIntegerField()))
    for source in numbered.exclude(attempt__in=Attempt.objects.values("pk")).values_list("source", flat=True):
        yield f"{source} was paid and does not exist"


def _rounds_beyond_budget() -> Iterator[str]:
    rounds = Round.objects.annotate(minted=Coalesce(Sum("jobs__attempts__earned_credits"), 0))
    beyond = rounds.filter(minted__gt=F("credit_budget"))
    for slug, number, minted, budget in beyond.values_list("experiment__slug", "number", "minted", "credit_budget"):
        yield f"{slug} round {number} minted {minted} credits, its budget is {budget}"
