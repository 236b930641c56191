"""Where each account's chain goes on after its oldest transfers were archived. Frozen; never edit it."""

from __future__ import annotations

from typing import Any

from peewee import BigIntegerField, BlobField, Check, Model, SqliteDatabase


class ArchiveAnchor(Model):
    account_id = BigIntegerField(primary_key=True)
    seq = BigIntegerField(constraints=[Check("seq > 0")])
    transfer_id = BigIntegerField()
    hash = BlobField()
    balance = BigIntegerField()

    class Meta:
        legacy_table_names = False
        strict_tables = True


def up(migrator: Any, db: Any) -> None:
    """Create the table, empty: nothing was archived yet."""
    ArchiveAnchor._meta.strict_tables = isinstance(db, SqliteDatabase)
    with db.bind_ctx([ArchiveAnchor]):
        db.create_tables([ArchiveAnchor])
