"""The outbox: hook events are stored in the transaction that caused them and delivered after its commit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import peewee

from hookspecs import CreditEvent

from ..ledger.ids import now_ms
from ..ledger.work import Transaction
from ..models import Account, OutboxMessage
from ..prepared import Prepared

_FIRST_PAUSE_MS: Final = 1_000
_LONGEST_PAUSE_MS: Final = 3_600_000


@dataclass(frozen=True, slots=True)
class PendingEvent:
    """An event that is due, and how often it was tried."""

    event: CreditEvent
    attempts: int


def put_event(tx: Transaction, *, account_id: int, kind: str, data: Mapping[str, Any]) -> None:
    """Store an event to deliver once this transaction is committed; ``data`` must be JSON-able."""
    _PUT.execute(tx.database, tx.new_id(), account_id, kind, json.dumps(data), tx.at_ms)


_PUT: Final = Prepared(
    lambda identifier, account_id, kind, payload, at_ms: OutboxMessage.insert(
        id=identifier, account_id=account_id, kind=kind, payload=payload, next_attempt_at_ms=at_ms
    )
)


def due_events(database: peewee.Database, *, at_ms: int, limit: int = 100) -> list[PendingEvent]:
    """Return events whose next attempt is due, the longest waiting first."""
    query = (
        OutboxMessage.select(
            OutboxMessage.id, OutboxMessage.kind, OutboxMessage.payload, OutboxMessage.attempts, Account.external_id
        )
        .join(Account, on=(Account.id == OutboxMessage.account_id))
        .where(OutboxMessage.next_attempt_at_ms <= at_ms)
        .order_by(OutboxMessage.next_attempt_at_ms)
        .limit(limit)
    )
    return [
        PendingEvent(CreditEvent(identifier, kind, external_id, json.loads(payload)), attempts)
        for identifier, kind, payload, attempts, external_id in query.tuples().execute(database)
    ]


def mark_delivered(tx: Transaction, event_id: int) -> None:
    """Remove a delivered event."""
    OutboxMessage.delete().where(OutboxMessage.id == event_id).execute(tx.database)


def mark_failed(tx: Transaction, pending: PendingEvent, *, detail: str) -> None:
    """Keep an event for another attempt: after 1, 2, 4, … seconds, at most an hour. It is never given up."""
    pause_ms = min(_FIRST_PAUSE_MS << min(pending.attempts, 20), _LONGEST_PAUSE_MS)
    changes = {
        OutboxMessage.attempts: pending.attempts + 1,
        OutboxMessage.next_attempt_at_ms: now_ms() + pause_ms,
        OutboxMessage.detail: detail[:1_000],
    }
    OutboxMessage.update(changes).where(OutboxMessage.id == pending.event.event_id).execute(tx.database)
