"""Credits by double entry: earned from MINT, rested in ESCROW, held, spent to USAGE. Integers, append-only, idempotent.

A contributor's AVAILABLE row is the only place where a spend can be refused, and one conditional UPDATE refuses it:
`balance - held` cannot fall below zero under any concurrency, and a CHECK says so again. Pending income and escrow
never fund a spend.

Locks are taken in one order: the hold or escrow line, the transaction's unique key, then contributors' accounts by
ascending id. Nothing locks in the other direction, so single calls cannot deadlock; who makes several in one database
transaction makes them for one contributor. MINT and USAGE are never locked: their rows cache no balance, `violations`
sums their postings, so that earnings do not queue behind one row.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import connection, transaction
from django.db.models import BigIntegerField, Count, F, OuterRef, Q, QuerySet, Subquery, Sum, Value
from django.db.models.functions import Coalesce, Concat

from contributors.models import Account, Contributor, EscrowLine, Hold, Posting, Txn

OVERDUE_AFTER = timedelta(seconds=60)
"""An open hold may outlive its expiry so long, the time that a sweep may take."""


class InsufficientCredits(Exception):
    """The spend is larger than what is available; nothing was changed."""


class IdempotencyConflict(Exception):
    """The same key came with another request; the stored one stands."""


class HoldResolved(Exception):
    """The hold was captured, released or expired before; nothing was changed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Balance:
    """Units: credits. `available` may be spent; `held` is set aside for spends under way; `escrow` rests."""

    available: int
    held: int
    escrow: int


def balance(contributor: Contributor) -> Balance:
    accounts = {account.kind: account for account in Account.objects.filter(contributor=contributor)}
    available, escrow = accounts.get(Account.Kind.AVAILABLE), accounts.get(Account.Kind.ESCROW)
    return Balance(
        available=available.balance - available.held if available else 0,
        held=available.held if available else 0,
        escrow=escrow.balance if escrow else 0,
    )


def account_of(contributor: Contributor | None, kind: Account.Kind) -> Account:
    """The contributor's account of that kind, or the system's for None; opened at its first use."""
    return Account.objects.get_or_create(contributor=contributor, kind=kind)[0]


def post(*, kind: Txn.Kind, idempotency_key: str, source: str, amounts: Mapping[Account, int], now: datetime) -> Txn:
    """Move credits between accounts, once per key; a replay returns the stored transaction.

    Raises: InsufficientCredits, IdempotencyConflict; ValueError where the amounts do not sum to zero.
    """
    request = [kind, source, *sorted((account.pk, amount) for account, amount in amounts.items())]
    return _post(kind=kind, idempotency_key=idempotency_key, source=source, amounts=amounts, request=request, now=now)


@transaction.atomic
def earn(*, contributor: Contributor, amount: int, source: str, release_at: datetime | None, now: datetime) -> Txn:
    """Pay `amount` for `source`, once; with `release_at` it rests in escrow until then.

    The same contributor, amount and source is the same request, whatever the release date of the second try.

    Raises: IdempotencyConflict where the source was paid to another, or with another amount.
    """
    _require_not_negative(amount)
    target = account_of(contributor, Account.Kind.ESCROW if release_at else Account.Kind.AVAILABLE)
    txn = _post(
        kind=Txn.Kind.EARN,
        idempotency_key=f"earn:{source}",
        source=source,
        amounts={account_of(None, Account.Kind.MINT): -amount, target: amount},
        request=["earn", contributor.pk, amount, source],
        now=now,
    )
    if release_at and amount and txn.postings.filter(account=target).exists():
        EscrowLine.objects.get_or_create(
            txn=txn, defaults={"account": target, "amount": amount, "release_at": release_at}
        )
    return txn


def release_escrow(*, now: datetime) -> int:
    """Number of escrow lines whose date has come that were moved to AVAILABLE; a banned contributor's lines rest."""
    due = EscrowLine.objects.filter(
        released_at=None, release_at__lte=now, account__contributor__banned_at=None
    ).select_related("txn", "account__contributor")
    return sum(_release_line(line, now=now) for line in due.order_by("pk"))


@transaction.atomic
def hold(*, contributor: Contributor, amount: int, source: str, expires_at: datetime, now: datetime) -> Hold:
    """Set `amount` aside for one spend; the same source and amount returns the stored hold, whatever its state.

    Choose `expires_at` beyond the longest time that the service may take: what is delivered after it is not paid.

    Raises: InsufficientCredits, IdempotencyConflict; ValueError unless amount > 0.
    """
    if amount <= 0:
        raise ValueError(f"a hold needs an amount above zero, not {amount}")
    account = account_of(contributor, Account.Kind.AVAILABLE)
    new, created = Hold.objects.get_or_create(
        source=source,
        defaults={"account": account, "amount": amount, "created_at": now, "expires_at": expires_at},
    )
    if created:
        _change(account, held=amount)
    elif (new.account_id, new.amount) != (account.pk, amount):
        raise IdempotencyConflict(f"{source} already holds another amount or another contributor's credits")
    return new


@transaction.atomic
def capture(*, hold: Hold, amount: int, now: datetime) -> Txn:
    """Spend `amount` of the hold and give the rest back; the same capture again returns the stored transaction.

    A hold past its expiry that nobody has swept yet can still be captured: its credits are still set aside.

    Raises: HoldResolved, also for a second capture of another amount; ValueError unless 0 <= amount <= hold.amount.
    """
    if not 0 <= amount <= hold.amount:
        raise ValueError(f"cannot capture {amount} of a hold of {hold.amount}")
    if not _resolve(hold, state=Hold.State.CAPTURED, captured_amount=amount, now=now):
        stored = Hold.objects.get(pk=hold.pk)
        if (stored.state, stored.captured_amount) != (Hold.State.CAPTURED, amount):
            raise HoldResolved(f"{hold.source} is {stored.state}, {stored.captured_amount} credits captured")
        return Txn.objects.get(idempotency_key=_usage_key(hold.source))
    return _post(
        kind=Txn.Kind.USAGE,
        idempotency_key=_usage_key(hold.source),
        source=hold.source,
        amounts={hold.account: -amount, account_of(None, Account.Kind.USAGE): amount},
        request=["usage", hold.pk, amount],
        now=now,
    )


@transaction.atomic
def release(*, hold: Hold, now: datetime) -> None:
    """Give the whole hold back; nothing to do where that happened before.

    Raises: HoldResolved where it was captured.
    """
    if not _resolve(hold, state=Hold.State.RELEASED, captured_amount=0, now=now):
        stored = Hold.objects.get(pk=hold.pk)
        if stored.state == Hold.State.CAPTURED:
            raise HoldResolved(f"{hold.source} is captured")


def expire_holds(*, now: datetime) -> int:
    """Number of open holds past their expiry whose credits were given back."""
    due = Hold.objects.filter(state=Hold.State.OPEN, expires_at__lte=now).select_related("account")
    return sum(
        _resolve(overdue, state=Hold.State.EXPIRED, captured_amount=0, now=now) for overdue in due.order_by("pk")
    )


def _usage_key(source: str) -> str:
    return f"usage:{source}"


def _require_not_negative(amount: int) -> None:
    if amount < 0:
        raise ValueError(f"an earning cannot be negative, as {amount} is: post a correction")


@transaction.atomic
def _post(
    *,
    kind: Txn.Kind,
    idempotency_key: str,
    source: str,
    amounts: Mapping[Account, int],
    request: Sequence[object],
    now: datetime,
) -> Txn:
    if sum(amounts.values()) != 0:
        raise ValueError(f"postings of {idempotency_key} sum to {sum(amounts.values())}, not to zero")
    request_sha256 = hashlib.sha256(json.dumps(request).encode()).hexdigest()
    txn, created = Txn.objects.get_or_create(
        idempotency_key=idempotency_key,
        defaults={"kind": kind, "source": source, "request_sha256": request_sha256, "created_at": now},
    )
    if not created:
        if txn.request_sha256 != request_sha256:
            raise IdempotencyConflict(f"{idempotency_key} was posted before, for another request")
        return txn
    moved = sorted(((account, amount) for account, amount in amounts.items() if amount), key=lambda move: move[0].pk)
    for account, amount in moved:
        _change(account, balance=amount)
    Posting.objects.bulk_create(Posting(txn=txn, account=account, amount=amount) for account, amount in moved)
    return txn


def _change(account: Account, *, balance: int = 0, held: int = 0) -> None:
    """Change a contributor's cached columns in one UPDATE that refuses to overdraw; the system's have none."""
    if account.contributor_id is None:
        return
    covered = Account.objects.filter(pk=account.pk, balance__gte=F("held") + _credits(held - balance))
    if not covered.update(balance=F("balance") + _credits(balance), held=F("held") + _credits(held)):
        stored = Account.objects.get(pk=account.pk)
        raise InsufficientCredits(f"{held - balance} credits are needed, {stored.balance - stored.held} are available")


def _credits(amount: int) -> Value:
    """The amount for an expression. Django sends a plain number as 32 bits to PostgreSQL, and drops the others."""
    return Value(amount, output_field=BigIntegerField())


@transaction.atomic
def _resolve(hold: Hold, *, state: Hold.State, captured_amount: int, now: datetime) -> bool:
    """Whether this call was the one that resolved the hold; its credits are then no longer held."""
    won = Hold.objects.filter(pk=hold.pk, state=Hold.State.OPEN).update(
        state=state, captured_amount=captured_amount, resolved_at=now
    )
    if won:
        _change(hold.account, held=-hold.amount)
    return bool(won)


@transaction.atomic
def _release_line(line: EscrowLine, *, now: datetime) -> bool:
    """Whether this call was the one that released the line."""
    won = EscrowLine.objects.filter(pk=line.pk, released_at=None).update(released_at=now)
    if won:
        post(
            kind=Txn.Kind.ESCROW_RELEASE,
            idempotency_key=f"escrow_release:{line.txn.source}",
            source=line.txn.source,
            amounts={
                line.account: -line.amount,
                account_of(line.account.contributor, Account.Kind.AVAILABLE): line.amount,
            },
            now=now,
        )
    return bool(won)


def violations(*, now: datetime) -> list[str]:
    """One sentence for every invariant of the ledger that does not hold; empty is healthy.

    All is read from one snapshot, so that postings under way raise no false alarm.
    """
    with transaction.atomic():
        if connection.vendor == "postgresql" and len(connection.savepoint_ids) == 0:
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        return [*_wrong_txns(), *_wrong_accounts(), *_wrong_escrow(), *_wrong_holds(now=now)]


def _total(rows: QuerySet[Any], group: str, amount: str) -> Coalesce:
    """Sum of `amount` over the rows, correlated by `group` and 0 where there are none."""
    totals = rows.order_by().values(group).annotate(total=Sum(amount)).values("total")
    return Coalesce(Subquery(totals, output_field=BigIntegerField()), 0)


def _wrong_txns() -> Iterator[str]:
    total = Posting.objects.aggregate(total=Coalesce(Sum("amount"), 0))["total"]
    if total:
        yield f"all postings sum to {total}, not to 0"
    for txn in Posting.objects.values("txn__idempotency_key").annotate(total=Sum("amount")).exclude(total=0):
        yield f"transaction {txn['txn__idempotency_key']} sums to {txn['total']}, not to 0"
    earnings = Txn.objects.filter(kind=Txn.Kind.EARN).values("source").annotate(count=Count("pk"))
    for earning in earnings.filter(count__gt=1):
        yield f"{earning['source']} was paid {earning['count']} times"


def _wrong_accounts() -> Iterator[str]:
    accounts = Account.objects.annotate(
        posted=_total(Posting.objects.filter(account=OuterRef("pk")), "account", "amount"),
        open=_total(Hold.objects.filter(account=OuterRef("pk"), state=Hold.State.OPEN), "account", "amount"),
    )
    system, owned = accounts.filter(contributor=None), accounts.exclude(contributor=None)
    for account in system.exclude(balance=0, held=0):
        yield f"{account} caches {account.balance} and holds {account.held}, a system account's columns stay 0"
    for account in system.filter(Q(kind=Account.Kind.MINT, posted__gt=0) | Q(kind=Account.Kind.USAGE, posted__lt=0)):
        yield f"{account} stands at {account.posted}, on the wrong side of 0"
    for account in owned.exclude(balance=F("posted")):
        yield f"{account} caches {account.balance}, its postings sum to {account.posted}"
    for account in owned.exclude(held=F("open")):
        yield f"{account} has {account.held} held, its open holds sum to {account.open}"
    for account in owned.filter(balance__lt=F("held")):
        yield f"{account} is overdrawn: {account.balance} less {account.held} held"


def _wrong_escrow() -> Iterator[str]:
    resting = EscrowLine.objects.filter(account=OuterRef("pk"), released_at=None)
    accounts = Account.objects.filter(kind=Account.Kind.ESCROW).annotate(resting=_total(resting, "account", "amount"))
    for account in accounts.exclude(balance=F("resting")):
        yield f"{account} caches {account.balance}, its unreleased lines sum to {account.resting}"


def _wrong_holds(*, now: datetime) -> Iterator[str]:
    for overdue in Hold.objects.filter(state=Hold.State.OPEN, expires_at__lt=now - OVERDUE_AFTER):
        yield f"hold {overdue.source} is still open {now - overdue.expires_at} after its expiry"
    spent = Posting.objects.filter(
        account=OuterRef("account"), txn__idempotency_key=Concat(Value(_usage_key("")), OuterRef("source"))
    )
    for wrong in Hold.objects.annotate(spent=_total(spent, "account", "amount")).exclude(spent=-F("captured_amount")):
        yield f"hold {wrong.source} captured {wrong.captured_amount}, its usage is posted as {wrong.spent}"
    for odd in Hold.objects.exclude(state=Hold.State.CAPTURED).exclude(captured_amount=0):
        yield f"hold {odd.source} is {odd.state} and yet captured {odd.captured_amount}"
