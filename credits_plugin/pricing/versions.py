"""Prices as they were applied: every hold is stamped with the version that its cost will be computed with."""

from __future__ import annotations

import json

import peewee

from ..errors import NotFound
from ..models import PriceVersion
from .price import Price


def ensure_version(database: peewee.Database, price: Price, *, at_ms: int) -> int:
    """Return the id of ``price``'s version, writing it when it is first used. Runs inside a transaction."""
    row = {
        "digest": price.digest(),
        "provider": price.provider,
        "model": price.model,
        "record": json.dumps(price.to_record()),
        "created_at_ms": at_ms,
    }
    PriceVersion.insert(row).on_conflict_ignore().execute(database)
    found = PriceVersion.select(PriceVersion.id).where(PriceVersion.digest == row["digest"])
    identifier: int = found.tuples().execute(database)[0][0]
    return identifier


def load_version(database: peewee.Database, version: int) -> Price:
    """Return the price of a version.

    Raises:
        NotFound: no such version was ever written to this database.
    """
    rows = list(PriceVersion.select(PriceVersion.record).where(PriceVersion.id == version).tuples().execute(database))
    if not rows:
        msg = f"price version {version} is not in this database; the hold came from another one"
        raise NotFound(msg)
    return Price.from_record(json.loads(rows[0][0]))
