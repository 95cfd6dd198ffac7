"""What a key is told of itself and of its credits: GET /v1/key and GET /v1/credits."""

from datetime import datetime
from typing import Any

from django.db.models import Sum
from django.db.models.functions import Coalesce

from contributors import ledger
from contributors.models import Account, ApiKey, Contributor, Posting, Txn
from inference.billing import limits, spending


def describe_key(key: ApiKey, *, now: datetime) -> dict[str, Any]:
    """The key's limits, and what is left of its cap in this period. Units: credits."""
    spent = spending.of(key, now=now)
    return {
        "name": key.name,
        "prefix": key.prefix,
        "scopes": key.scopes,
        "is_shared": key.is_shared,
        "limit": key.credit_cap,
        "limit_period": key.cap_period,
        "usage": spent.used,
        "limit_remaining": spent.remaining,
        "limit_resets_at": spent.resets_at,
        "requests_per_minute": limits.requests_per_minute(key) or None,
        "tokens_per_minute": limits.tokens_per_minute(key) or None,
        "expires_at": key.expires_at,
    }


def describe_credits(key: ApiKey, *, now: datetime) -> dict[str, Any]:
    """The owner's credits; of a shared key, what its cap lets it see of them. Units: credits."""
    if not key.is_shared:
        return _credits(key.contributor)
    spent = spending.of(key, now=now)
    available = min(spent.remaining or 0, ledger.balance(key.contributor).available)
    return {
        "total_credits": spent.used + available,
        "total_usage": spent.used,
        "available": available,
        "held": 0,
        "escrow": 0,
    }


def _credits(contributor: Contributor) -> dict[str, Any]:
    """Total credits less total usage is what is available or held."""
    balance = ledger.balance(contributor)
    usage = Posting.objects.filter(
        account__contributor=contributor, account__kind=Account.Kind.AVAILABLE, txn__kind=Txn.Kind.USAGE
    ).aggregate(total=Coalesce(Sum("amount"), 0))["total"]
    return {
        "total_credits": balance.available + balance.held - usage,
        "total_usage": -usage,
        "available": balance.available,
        "held": balance.held,
        "escrow": balance.escrow,
    }
