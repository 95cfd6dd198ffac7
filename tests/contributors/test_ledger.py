"""The ledger's rules, one by one, and that `violations` sees each of them broken."""

import contextlib
from datetime import timedelta

import pytest
from django.db import IntegrityError, connection, transaction
from django.test.utils import CaptureQueriesContext
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from contributors import ledger
from contributors.models import Account, EscrowLine, Hold, Posting, Txn
from tests.contributors.make import NOW, make_contributor, make_earning, make_hold

pytestmark = pytest.mark.django_db
LATER = NOW + timedelta(days=1)


def balance_of(contributor, *, available=0, held=0, escrow=0):
    assert ledger.balance(contributor) == ledger.Balance(available=available, held=held, escrow=escrow)
    assert ledger.violations(now=NOW) == []


def test_a_newcomer_has_nothing():
    balance_of(make_contributor())


def test_an_earning_can_be_spent_at_once():
    mina = make_contributor()
    make_earning(mina, 100)
    balance_of(mina, available=100)


@pytest.mark.postgresql
@pytest.mark.parametrize("amount", [2**31 - 1, 2**31, 10**10, 2**62])
def test_no_amount_loses_its_upper_bits(amount):
    mina = make_contributor()
    make_earning(mina, amount)
    balance_of(mina, available=amount)
    ledger.capture(hold=make_hold(mina, amount), amount=amount, now=NOW)
    balance_of(mina)


def test_an_earning_is_booked_once():
    mina = make_contributor()
    first = ledger.earn(contributor=mina, amount=100, source="attempt:1", release_at=None, now=NOW)
    again = ledger.earn(contributor=mina, amount=100, source="attempt:1", release_at=LATER, now=LATER)
    assert first == again
    balance_of(mina, available=100)


@pytest.mark.parametrize("other", [{"amount": 101}, {"nickname": "jun"}], ids=["other amount", "other contributor"])
def test_an_attempt_is_not_paid_again_for_another_request(other):
    mina = make_contributor()
    make_earning(mina, 100)
    payee = make_contributor(other["nickname"]) if "nickname" in other else mina
    with pytest.raises(ledger.IdempotencyConflict):
        make_earning(payee, other.get("amount", 100))
    balance_of(mina, available=100)


def test_an_earning_of_nothing_is_recorded_without_postings():
    mina = make_contributor()
    make_earning(mina, 0, release_at=LATER)
    assert Txn.objects.get().idempotency_key == "earn:attempt:1"
    balance_of(mina)


def test_a_negative_earning_is_refused():
    with pytest.raises(ValueError, match="correction"):
        make_earning(make_contributor(), -1)


def test_escrow_is_visible_and_cannot_be_spent():
    mina = make_contributor()
    make_earning(mina, 100, release_at=LATER)
    with pytest.raises(ledger.InsufficientCredits):
        make_hold(mina, 1)
    balance_of(mina, escrow=100)


def test_escrow_is_released_once_and_when_its_date_has_come():
    mina = make_contributor()
    make_earning(mina, 100, release_at=LATER)
    assert ledger.release_escrow(now=LATER - timedelta(seconds=1)) == 0
    assert ledger.release_escrow(now=LATER) == 1
    assert ledger.release_escrow(now=LATER) == 0
    balance_of(mina, available=100)


def test_two_sweeps_that_read_the_same_line_release_it_once():
    mina = make_contributor()
    make_earning(mina, 100, release_at=NOW)
    line = EscrowLine.objects.select_related("txn", "account__contributor").get()
    assert [ledger._release_line(line, now=NOW), ledger._release_line(line, now=NOW)] == [True, False]
    balance_of(mina, available=100)


def test_escrow_of_a_banned_contributor_rests():
    mina = make_contributor()
    make_earning(mina, 100, release_at=NOW)
    mina.banned_at = NOW
    mina.save()
    assert ledger.release_escrow(now=LATER) == 0
    balance_of(mina, escrow=100)


def test_a_hold_sets_credits_aside():
    mina = make_contributor(credits_=100)
    make_hold(mina, 80)
    balance_of(mina, available=20, held=80)


def test_a_hold_beyond_what_is_available_changes_nothing():
    mina = make_contributor(credits_=100)
    make_hold(mina, 80)
    with pytest.raises(ledger.InsufficientCredits, match="21 credits are needed, 20 are available"):
        make_hold(mina, 21, source="completion:2")
    assert Hold.objects.count() == 1
    balance_of(mina, available=20, held=80)


@pytest.mark.parametrize("amount", [0, -5])
def test_a_hold_needs_an_amount(amount):
    with pytest.raises(ValueError, match="above zero"):
        make_hold(make_contributor(credits_=100), amount)


def test_the_same_hold_again_holds_once():
    mina = make_contributor(credits_=100)
    assert make_hold(mina, 40) == make_hold(mina, 40)
    balance_of(mina, available=60, held=40)


def test_a_source_cannot_hold_another_amount():
    mina = make_contributor(credits_=100)
    make_hold(mina, 40)
    with pytest.raises(ledger.IdempotencyConflict):
        make_hold(mina, 41)
    balance_of(mina, available=60, held=40)


@pytest.mark.parametrize("spent", [0, 1, 79, 80])
def test_a_capture_spends_what_was_delivered_and_gives_the_rest_back(spent):
    mina = make_contributor(credits_=100)
    ledger.capture(hold=make_hold(mina, 80), amount=spent, now=NOW)
    balance_of(mina, available=100 - spent)


@pytest.mark.parametrize("amount", [-1, 81])
def test_a_capture_lies_within_its_hold(amount):
    mina = make_contributor(credits_=100)
    with pytest.raises(ValueError, match=f"cannot capture {amount} of a hold of 80"):
        ledger.capture(hold=make_hold(mina, 80), amount=amount, now=NOW)
    balance_of(mina, available=20, held=80)


def test_the_same_capture_again_returns_the_stored_transaction():
    mina = make_contributor(credits_=100)
    hold = make_hold(mina, 80)
    assert ledger.capture(hold=hold, amount=30, now=NOW) == ledger.capture(hold=hold, amount=30, now=LATER)
    balance_of(mina, available=70)


@pytest.mark.parametrize("first", ["capture", "release", "expiry"])
@pytest.mark.parametrize("second", ["capture", "release", "expiry"])
def test_a_hold_resolves_once(first, second):
    mina = make_contributor(credits_=100)
    hold = make_hold(mina, 80)
    resolve = {
        "capture": lambda amount: ledger.capture(hold=hold, amount=amount, now=LATER),
        "release": lambda _: ledger.release(hold=hold, now=LATER),
        "expiry": lambda _: ledger.expire_holds(now=LATER),
    }
    resolve[first](30)
    refused = second == "capture" or (first, second) == ("capture", "release")
    if refused:
        with pytest.raises(ledger.HoldResolved):
            resolve[second](31)
    else:
        assert not resolve[second](31)
    balance_of(mina, available=70 if first == "capture" else 100)


def test_expiry_takes_only_what_is_overdue():
    mina = make_contributor(credits_=100)
    hold = make_hold(mina, 80)
    assert ledger.expire_holds(now=hold.expires_at - timedelta(seconds=1)) == 0
    assert ledger.expire_holds(now=hold.expires_at) == 1
    balance_of(mina, available=100)


def test_a_hold_past_its_expiry_can_be_captured_until_it_is_swept():
    mina = make_contributor(credits_=100)
    ledger.capture(hold=make_hold(mina, 80), amount=80, now=LATER)
    balance_of(mina, available=20)


def test_a_correction_is_a_compensating_transaction():
    mina = make_contributor(credits_=100)
    available, mint = (
        ledger.account_of(mina, Account.Kind.AVAILABLE),
        ledger.account_of(None, Account.Kind.MINT),
    )
    ledger.post(
        kind=Txn.Kind.CORRECTION,
        idempotency_key="correction:1",
        source="gift:mina",
        amounts={available: -60, mint: 60},
        now=NOW,
    )
    balance_of(mina, available=40)
    with pytest.raises(ledger.InsufficientCredits):
        ledger.post(
            kind=Txn.Kind.CORRECTION,
            idempotency_key="correction:2",
            source="gift:mina",
            amounts={available: -60, mint: 60},
            now=NOW,
        )
    balance_of(mina, available=40)


def test_a_transaction_that_does_not_sum_to_zero_is_refused():
    available = ledger.account_of(make_contributor(), Account.Kind.AVAILABLE)
    with pytest.raises(ValueError, match="sum to 5"):
        ledger.post(kind=Txn.Kind.CORRECTION, idempotency_key="k", source="s", amounts={available: 5}, now=NOW)


def test_a_caller_that_rolls_back_takes_the_earning_with_it():
    mina = make_contributor()
    with transaction.atomic():
        make_earning(mina, 100)
        transaction.set_rollback(True)
    balance_of(mina)
    make_earning(mina, 100)
    balance_of(mina, available=100)


def test_earnings_never_write_the_mints_row():
    mina = make_contributor(credits_=1)
    with CaptureQueriesContext(connection) as queries:
        make_earning(mina, 100)
    updates = [query["sql"] for query in queries if query["sql"].startswith("UPDATE")]
    assert len(updates) == 1
    assert Account.objects.get(kind=Account.Kind.MINT).balance == 0
    assert sum(Posting.objects.filter(account__kind="mint").values_list("amount", flat=True)) == -101


@pytest.mark.parametrize(
    ("columns", "constraint"),
    [
        ({"balance": 10, "held": 11}, "account_never_overdrawn"),
        ({"balance": -1}, "account_never_overdrawn"),
        ({"held": -1}, "account_held_not_negative"),
    ],
)
def test_the_database_refuses_an_overdrawn_account(columns, constraint):
    make_contributor(credits_=100)
    with pytest.raises(IntegrityError, match=constraint), transaction.atomic():
        Account.objects.filter(kind=Account.Kind.AVAILABLE).update(**columns)


def unbalanced_txn():
    txn = Txn.objects.create(kind="earn", idempotency_key="x", request_sha256="", source="x", created_at=NOW)
    Posting.objects.create(txn=txn, account=Account.objects.get(kind="mint"), amount=-7)


def second_earning():
    Txn.objects.create(kind="earn", idempotency_key="x", request_sha256="", source="gift:mina", created_at=NOW)


def usage_without_a_capture():
    txn = Txn.objects.create(kind="usage", idempotency_key="usage:completion:1", source="x", created_at=NOW)
    available, usage = Account.objects.get(kind="available"), ledger.account_of(None, Account.Kind.USAGE)
    Posting.objects.create(txn=txn, account=available, amount=-7)
    Posting.objects.create(txn=txn, account=usage, amount=7)


BREAKAGES = {
    "sums to -7": unbalanced_txn,
    "all postings sum to -7": unbalanced_txn,
    "gift:mina was paid 2 times": second_earning,
    "caches 101, its postings sum to 100": lambda: Account.objects.filter(kind="available").update(balance=101),
    "has 81 held, its open holds sum to 80": lambda: Account.objects.filter(kind="available").update(held=81),
    "its unreleased lines sum to 0": lambda: EscrowLine.objects.update(released_at=NOW),
    "is still open": lambda: Hold.objects.update(expires_at=NOW - timedelta(seconds=61)),
    "captured 5, its usage is posted as 0": lambda: Hold.objects.update(state="captured", captured_amount=5),
    "captured 0, its usage is posted as -7": usage_without_a_capture,
    "is released and yet captured 5": lambda: Hold.objects.update(state="released", captured_amount=5),
}


@pytest.mark.parametrize("sentence", BREAKAGES)
def test_violations_name_what_is_broken(sentence):
    mina = make_contributor(credits_=100)
    make_earning(mina, 50, release_at=LATER)
    make_hold(mina, 80)
    assert ledger.violations(now=NOW) == []
    BREAKAGES[sentence]()
    assert any(sentence in violation for violation in ledger.violations(now=NOW))


REFUSALS = (
    ledger.InsufficientCredits,
    ledger.IdempotencyConflict,
    ledger.HoldResolved,
    Hold.DoesNotExist,
    ValueError,
)
MOVES = st.lists(
    st.tuples(
        st.sampled_from(["earn", "escrow", "sweep", "hold", "capture", "release"]),
        st.integers(min_value=0, max_value=120),
        st.integers(min_value=0, max_value=6),
    ),
    max_size=25,
)


@given(moves=MOVES)
@hypothesis_settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
def test_no_sequence_of_moves_breaks_an_invariant(moves):
    """Amounts and sources repeat on purpose: replays, conflicts and refusals are part of the sequences."""
    with transaction.atomic():
        mina = make_contributor()
        minted = {}
        for index, (kind, amount, number) in enumerate(moves):
            now = NOW + timedelta(minutes=index)
            with contextlib.suppress(*REFUSALS):
                make_move(mina, kind, amount, number, now=now, minted=minted)
            assert ledger.violations(now=now) == []
        stand = ledger.balance(mina)
        spent = sum(Hold.objects.values_list("captured_amount", flat=True))
        assert stand.available + stand.held + stand.escrow == sum(minted.values()) - spent
        transaction.set_rollback(True)


def make_move(mina, kind, amount, number, *, now, minted):
    source = f"move:{number}"
    match kind:
        case "earn" | "escrow":
            release_at = now + timedelta(minutes=3) if kind == "escrow" else None
            ledger.earn(contributor=mina, amount=amount, source=source, release_at=release_at, now=now)
            minted[source] = amount
        case "sweep":
            ledger.release_escrow(now=now)
            ledger.expire_holds(now=now)
        case "hold":
            expires_at = now + timedelta(hours=1)
            ledger.hold(contributor=mina, amount=amount, source=source, expires_at=expires_at, now=now)
        case "capture":
            ledger.capture(hold=Hold.objects.get(source=source), amount=amount, now=now)
        case "release":
            ledger.release(hold=Hold.objects.get(source=source), now=now)
