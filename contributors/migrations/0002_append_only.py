"""The ledger's rows never change: the database itself refuses UPDATE and DELETE on transactions and postings.

SQLite drops a table's triggers when a later migration rebuilds that table; such a migration runs `forwards` again.
"""

from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

# What of a new row may not be there already: SQLite's INSERT OR REPLACE deletes a row without firing its DELETE trigger.
SAME_ROW = {
    "contributors_txn": "id = NEW.id OR idempotency_key = NEW.idempotency_key",
    "contributors_posting": "id = NEW.id",
}
TABLES = tuple(SAME_ROW)
MESSAGE = "the ledger is append-only: post a compensating transaction"


def sqlite_create():
    refuse = f"BEGIN SELECT RAISE(ABORT, '{MESSAGE}'); END"
    return [
        statement
        for table, same_row in SAME_ROW.items()
        for statement in (
            f"CREATE TRIGGER {table}_no_update BEFORE UPDATE ON {table} {refuse}",
            f"CREATE TRIGGER {table}_no_delete BEFORE DELETE ON {table} {refuse}",
            f"CREATE TRIGGER {table}_no_replace BEFORE INSERT ON {table} "
            f"WHEN EXISTS (SELECT 1 FROM {table} WHERE {same_row}) {refuse}",
        )
    ]


def sqlite_drop():
    return [f"DROP TRIGGER IF EXISTS {table}_no_{event}" for table in TABLES for event in ("update", "delete", "replace")]


def postgresql_create():
    return [
        "CREATE FUNCTION contributors_refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{MESSAGE}' USING ERRCODE = 'restrict_violation'; END $$",
        *(
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION contributors_refuse_change()"
            for table in TABLES
        ),
    ]


def postgresql_drop():
    return [
        *(f"DROP TRIGGER IF EXISTS {table}_append_only ON {table}" for table in TABLES),
        "DROP FUNCTION IF EXISTS contributors_refuse_change()",
    ]


CREATE = {"sqlite": sqlite_create, "postgresql": postgresql_create}
DROP = {"sqlite": sqlite_drop, "postgresql": postgresql_drop}


def forwards(apps, schema_editor: BaseDatabaseSchemaEditor):
    backwards(apps, schema_editor)
    for statement in CREATE[schema_editor.connection.vendor]():
        schema_editor.execute(statement)


def backwards(apps, schema_editor: BaseDatabaseSchemaEditor):
    for statement in DROP[schema_editor.connection.vendor]():
        schema_editor.execute(statement)


class Migration(migrations.Migration):
    dependencies = [("contributors", "0001_initial")]
    operations = [migrations.RunPython(forwards, backwards)]
