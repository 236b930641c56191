"""How far each of Stripe's lists was read: one row per reader, whose position is its own JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import peewee

from ..ledger.work import Transaction
from ..models import StripeCursor

RECONCILIATION: Final = "reconciliation"
"""The reader that compares everything; its position also holds what it left (see ``reports``)."""


def read_cursor(database: peewee.Database, name: str) -> dict[str, Any]:
    """Return a reader's position; empty before its first."""
    query = StripeCursor.select(StripeCursor.position).where(StripeCursor.name == name)
    stored: list[Any] = list(query.tuples().execute(database))
    position: dict[str, Any] = json.loads(stored[0][0]) if stored else {}
    return position


def store_cursor(tx: Transaction, *, name: str, position: Mapping[str, Any]) -> None:
    """Replace a reader's position."""
    row = {"name": name, "position": json.dumps(dict(position)), "updated_at_ms": tx.at_ms}
    changes = {StripeCursor.position: row["position"], StripeCursor.updated_at_ms: row["updated_at_ms"]}
    query = StripeCursor.insert(row).on_conflict(conflict_target=[StripeCursor.name], update=changes)
    query.execute(tx.database)
