"""Disputes, how far Stripe's lists were read, and what a payment really took and granted. Frozen; never edit it."""

from __future__ import annotations

from typing import Any

from peewee import SQL, BigIntegerField, Check, IntegerField, Model, SqliteDatabase, TextField


class BaseModel(Model):
    class Meta:
        legacy_table_names = False
        strict_tables = True


class Dispute(BaseModel):
    id = BigIntegerField(primary_key=True)
    payment_id = BigIntegerField()
    account_id = BigIntegerField()
    stripe_dispute_id = TextField(unique=True)
    status = TextField()
    status_at_ms = BigIntegerField()
    amount_minor = BigIntegerField(constraints=[Check("amount_minor > 0")])
    currency = TextField()
    reason = TextField()
    withdrawals = IntegerField(default=0, constraints=[Check("withdrawals >= 0")])
    reinstatements = IntegerField(default=0, constraints=[Check("reinstatements >= 0")])
    hold_id = BigIntegerField(null=True)
    frozen = BigIntegerField(null=True)
    evidence_due_at_ms = BigIntegerField(null=True)
    created_at_ms = BigIntegerField()
    updated_at_ms = BigIntegerField()

    class Meta:
        indexes = (
            SQL("CREATE INDEX dispute_payment ON dispute (payment_id, id)"),
            SQL("CREATE INDEX dispute_account ON dispute (account_id, id)"),
        )


class StripeCursor(BaseModel):
    name = TextField(primary_key=True)
    position = TextField()
    updated_at_ms = BigIntegerField()


MODELS = (Dispute, StripeCursor)
_PAYMENT_COLUMNS = (
    "allows_discounts INTEGER NOT NULL DEFAULT 0",
    "paid_minor BIGINT",
    "granted_microcredits BIGINT",
    "disputed_minor BIGINT NOT NULL DEFAULT 0",
)


def up(migrator: Any, db: Any) -> None:
    """Create the tables, and add the columns; payments that were granted before keep what they were ordered for."""
    on_sqlite = isinstance(db, SqliteDatabase)
    for model in MODELS:
        model._meta.strict_tables = on_sqlite
    with db.bind_ctx(MODELS):
        db.create_tables(MODELS)
    for column in _PAYMENT_COLUMNS:
        # STRICT tables of SQLite know one integer type.
        db.execute_sql(f"ALTER TABLE payment ADD COLUMN {column.replace('BIGINT', 'INTEGER') if on_sqlite else column}")
