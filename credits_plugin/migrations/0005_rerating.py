"""What usage has beyond its five kinds of tokens, and what was charged anew. Frozen; never edit it."""

from __future__ import annotations

from typing import Any

from peewee import BigIntegerField, Model, SqliteDatabase, TextField


class BaseModel(Model):
    class Meta:
        legacy_table_names = False
        strict_tables = True


class UsageDetail(BaseModel):
    transfer_id = BigIntegerField(primary_key=True)
    account_id = BigIntegerField()
    detail = TextField()


class ReratedUsage(BaseModel):
    transfer_id = BigIntegerField(primary_key=True)
    account_id = BigIntegerField()
    corrected = BigIntegerField()
    rerating_id = BigIntegerField()


MODELS = (UsageDetail, ReratedUsage)


def up(migrator: Any, db: Any) -> None:
    """Create the tables."""
    for model in MODELS:
        model._meta.strict_tables = isinstance(db, SqliteDatabase)
    with db.bind_ctx(MODELS):
        db.create_tables(MODELS)
