"""How long answers were and how good holds were, as histograms. Frozen; never edit it."""

from __future__ import annotations

from typing import Any

from peewee import SQL, BigIntegerField, Check, CompositeKey, IntegerField, Model, SqliteDatabase, TextField


class Observation(Model):
    account_id = BigIntegerField()
    kind = IntegerField()
    model = TextField()
    bucket = IntegerField()
    count = BigIntegerField(constraints=[Check("count >= 0")])
    updated_at_ms = BigIntegerField()

    class Meta:
        legacy_table_names = False
        strict_tables = True
        primary_key = CompositeKey("account_id", "kind", "model", "bucket")
        indexes = (SQL("CREATE INDEX observation_updated ON observation (updated_at_ms)"),)


MODELS = (Observation,)


def up(migrator: Any, db: Any) -> None:
    """Create the table."""
    for model in MODELS:
        model._meta.strict_tables = isinstance(db, SqliteDatabase)
    with db.bind_ctx(MODELS):
        db.create_tables(MODELS)
