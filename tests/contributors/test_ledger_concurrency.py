"""What concurrency does to the ledger, on a real PostgreSQL with real threads."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.db import connection, connections

from contributors import ledger
from contributors.models import Hold, Txn
from tests.contributors.make import NOW, make_contributor, make_earning, make_hold

pytestmark = [pytest.mark.postgresql, pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("wide_pool")]


def run_together(calls, *, num_threads):
    """What each call returned or raised, all of them let loose at one moment."""
    start = threading.Barrier(num_threads)
    results = []

    def work(share):
        start.wait()
        try:
            for call in share:
                try:
                    results.append(call())
                except (ledger.InsufficientCredits, ledger.IdempotencyConflict, ledger.HoldResolved) as refusal:
                    results.append(refusal)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(num_threads) as pool:
        for future in [pool.submit(work, calls[index::num_threads]) for index in range(num_threads)]:
            future.result()
    return results


def query(sql):
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchone()[0] if cursor.description else None


@pytest.fixture
def naive_spends():
    """A ledger that is only a list of spends, against a balance of 100."""
    query("CREATE TABLE naive_spends (amount bigint)")
    yield "SELECT 100 - coalesce(sum(amount), 0) FROM naive_spends"
    query("DROP TABLE naive_spends")


def test_the_control_that_looks_and_then_inserts_lets_twenty_of_twenty_overspends_through(naive_spends):
    has_looked = threading.Barrier(20)

    def spend():
        is_covered = query(naive_spends) >= 80
        has_looked.wait()
        if is_covered:
            query("INSERT INTO naive_spends VALUES (80)")
        return is_covered

    assert run_together([spend] * 20, num_threads=20) == [True] * 20
    assert query(naive_spends) == -1_500


def test_of_twenty_spends_that_fit_once_one_is_accepted():
    mina = make_contributor(credits_=100)
    ours = run_together(
        [lambda number=number: make_hold(mina, 80, source=f"completion:{number}") for number in range(20)],
        num_threads=20,
    )
    assert sum(isinstance(result, Hold) for result in ours) == 1
    assert sum(isinstance(result, ledger.InsufficientCredits) for result in ours) == 19
    assert ledger.balance(mina) == ledger.Balance(available=20, held=80, escrow=0)
    assert ledger.violations(now=NOW) == []


def test_one_attempt_is_paid_once_by_twenty_validators():
    mina = make_contributor()
    pay = lambda: ledger.earn(contributor=mina, amount=100, source="attempt:1", release_at=None, now=NOW)  # noqa: E731
    results = run_together([pay] * 20, num_threads=20)
    assert {result.pk for result in results} == {Txn.objects.get().pk}
    assert ledger.balance(mina).available == 100
    assert ledger.violations(now=NOW) == []


def test_a_hold_is_resolved_by_one_of_capture_release_and_expiry():
    mina = make_contributor(credits_=1_000)
    for number in range(10):
        hold = make_hold(mina, 80, source=f"completion:{number}")
        later = hold.expires_at
        run_together(
            [
                lambda hold=hold: ledger.capture(hold=hold, amount=30, now=NOW),
                lambda hold=hold: ledger.release(hold=hold, now=NOW),
                lambda later=later: ledger.expire_holds(now=later),
            ]
            * 4,
            num_threads=12,
        )
    captured = Hold.objects.filter(state=Hold.State.CAPTURED).count()
    assert ledger.balance(mina) == ledger.Balance(available=1_000 - 30 * captured, held=0, escrow=0)
    assert ledger.violations(now=NOW) == []


def test_two_hundred_threads_of_mixed_moves_leave_every_invariant_standing():
    people = [make_contributor(f"person {index}", credits_=200) for index in range(5)]
    draw = random.Random(7)

    def move(number):
        person, kind = draw.choice(people), draw.choice(["spend", "give back", "abandon", "earn", "sweep", "audit"])
        match kind:
            case "spend" | "give back" | "abandon":
                hold = make_hold(person, draw.randint(1, 150), source=f"completion:{number}")
                if kind == "spend":
                    ledger.capture(hold=hold, amount=draw.randint(0, hold.amount), now=NOW)
                elif kind == "give back":
                    ledger.release(hold=hold, now=NOW)
            case "earn":
                make_earning(person, draw.randint(0, 50), source=f"attempt:{number // 3}", release_at=NOW)
            case "sweep":
                ledger.release_escrow(now=NOW)
                ledger.expire_holds(now=NOW + timedelta(minutes=10))
            case "audit":
                assert ledger.violations(now=NOW) == [], "what is under way must not look like a violation"

    run_together([lambda number=number: move(number) for number in range(1_000)], num_threads=200)
    assert ledger.violations(now=NOW) == []
    assert set(Txn.objects.values_list("kind", flat=True)) == {"earn", "escrow_release", "usage"}
    assert set(Hold.objects.values_list("state", flat=True)) >= {"captured", "released", "expired"}
