"""Budgets of accounts, members, keys and runs, and what each hold is counted in. Frozen; never edit it."""

from __future__ import annotations

from typing import Any

from peewee import SQL, BigIntegerField, Model, SqliteDatabase, TextField


class BaseModel(Model):
    class Meta:
        legacy_table_names = False
        strict_tables = True


class Budget(BaseModel):
    id = BigIntegerField(primary_key=True)
    account_id = BigIntegerField()
    kind = TextField()
    name = TextField()
    period = TextField()
    limit = BigIntegerField(null=True)
    spent = BigIntegerField()
    held = BigIntegerField()
    starts_at_ms = BigIntegerField()
    state = TextField()
    used_at_ms = BigIntegerField()

    class Meta:
        indexes = (SQL("CREATE UNIQUE INDEX budget_key ON budget (account_id, kind, name, period)"),)


def up(migrator: Any, db: Any) -> None:
    """Create the table, and add the columns that say where to look for its rows."""
    Budget._meta.strict_tables = isinstance(db, SqliteDatabase)
    with db.bind_ctx([Budget]):
        db.create_tables([Budget])
    db.execute_sql("ALTER TABLE account ADD COLUMN budgets INTEGER NOT NULL DEFAULT 0")
    db.execute_sql("ALTER TABLE hold ADD COLUMN budgets TEXT")
