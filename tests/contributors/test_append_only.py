"""The database itself refuses to change the ledger."""

import pytest
from django.db import IntegrityError, connection, transaction
from django.db.models import F

from contributors import ledger
from contributors.models import Posting, Txn
from tests.contributors.make import NOW, make_contributor


@pytest.mark.django_db
@pytest.mark.parametrize(
    "change",
    [
        lambda: Txn.objects.update(source="attempt:2"),
        lambda: Posting.objects.update(amount=F("amount") * 2),
        lambda: Posting.objects.all().delete(),
        lambda: Txn.objects.all()._raw_delete(using="default"),
    ],
    ids=["update a transaction", "update a posting", "delete postings", "delete transactions"],
)
def test_the_database_refuses_to_change_the_ledger(change):
    make_contributor(credits_=100)
    with pytest.raises(IntegrityError, match="append-only"), transaction.atomic():
        change()
    assert Posting.objects.count() == 2
    assert ledger.violations(now=NOW) == []


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("run", ["first", "after a flush"])
def test_a_flush_between_tests_leaves_the_triggers_in_place(run):
    assert Txn.objects.count() == 0
    make_contributor(credits_=100)
    with pytest.raises(IntegrityError, match="append-only"), transaction.atomic():
        Posting.objects.all().delete()


@pytest.mark.django_db
@pytest.mark.skipif(connection.vendor != "sqlite", reason="the statement is SQLite's")
def test_replacing_a_row_counts_as_changing_it():
    make_contributor(credits_=100)
    row = Posting.objects.order_by("pk").values_list("pk", "amount", "account_id", "txn_id").first()
    replace = "INSERT OR REPLACE INTO contributors_posting (id, amount, account_id, txn_id) VALUES (%s, %s, %s, %s)"
    with connection.cursor() as cursor, pytest.raises(IntegrityError, match="append-only"), transaction.atomic():
        cursor.execute(replace, row)
    assert Posting.objects.order_by("pk").values_list("pk", "amount", "account_id", "txn_id").first() == row
