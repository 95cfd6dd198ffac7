"""What an API key has spent in the period of its cap: what its bills say, and for open ones the most they can cost."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import BigIntegerField, Case, F, Q, Sum, Value, When
from django.db.models.functions import Coalesce

from contributors.models import ApiKey, Hold
from inference.models import Completion

Period = ApiKey.CapPeriod


class CapReached(Exception):
    """The spend is larger than what the key's cap leaves in this period; nothing was changed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spending:
    """Of the key and of those that it replaced. Units: credits."""

    used: int
    remaining: int | None
    """None: the key has no cap."""
    resets_at: datetime | None
    """None: the cap is for good, or there is none."""


def of(key: ApiKey, *, now: datetime) -> Spending:
    used = _used(key, since=period_start(key.cap_period, now=now))
    remaining = None if key.credit_cap is None else max(0, key.credit_cap - used)
    return Spending(used=used, remaining=remaining, resets_at=period_end(key.cap_period, now=now))


def require(key: ApiKey, amount: int, *, now: datetime) -> None:
    """Let the caller's transaction spend `amount` under the cap: no other one passes here before it has ended.

    Raises: CapReached.
    """
    line = ApiKey.objects.select_for_update(no_key=True).filter(pk__in=[key.root_id, key.pk]).order_by("pk")
    # As it stands now: the cap may have been lowered since the request was authenticated.
    current = next(row for row in line if row.pk == key.pk)
    remaining = of(current, now=now).remaining
    if remaining is not None and amount > remaining:
        raise CapReached(f"{amount} credits are needed, the key's cap leaves {remaining}")


def period_start(period: str, *, now: datetime) -> datetime | None:
    """Midnight in UTC; None where the period has no beginning."""
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    match period:
        case Period.DAY:
            return midnight
        case Period.WEEK:
            return midnight - timedelta(days=now.weekday())
        case Period.MONTH:
            return midnight.replace(day=1)
    return None


def period_end(period: str, *, now: datetime) -> datetime | None:
    start = period_start(period, now=now)
    if start is None:
        return None
    if period == Period.MONTH:
        return (start + timedelta(days=32)).replace(day=1)
    return start + timedelta(days=7 if period == Period.WEEK else 1)


def _used(key: ApiKey, *, since: datetime | None) -> int:
    line = ApiKey.objects.filter(Q(pk=key.root_id) | Q(line=key.root_id)).values("pk")
    bills = Completion.objects.filter(api_key__in=line)
    if since is not None:
        bills = bills.filter(created_at__gte=since)
    owed = Case(When(hold__state=Hold.State.OPEN, then=F("hold__amount")), default=F("hold__captured_amount"))
    total = Coalesce(Sum(owed), Value(0), output_field=BigIntegerField())
    used: int = bills.aggregate(total=total)["total"]
    return used
