"""Read models of payments, refunds and the inbox: frozen values, newest first, paged by key.

``account_id`` is the ledger's integer key throughout. The functions also run inside a unit of work, on its database.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import peewee

from ..models import Account, Dispute, InboxEvent, Payment, Refund
from ..prepared import Prepared
from .cursors import RECONCILIATION, read_cursor
from .states import OPEN_DISPUTES, DisputeStatus, InboxStatus, PaymentStatus, RefundStatus, dispute_rank


@dataclass(frozen=True, slots=True)
class PaymentView:
    """A payment: what was ordered and what became of it. ``external_id`` is None until the account's first grant."""

    id: int
    account_id: int
    external_id: str | None
    status: PaymentStatus
    package_id: int
    package_name: str
    microcredits: int
    amount_minor: int
    currency: str
    livemode: bool
    session_id: str | None
    payment_intent_id: str | None
    charge_id: str | None
    payment_url: str | None
    email: str | None = field(repr=False)
    receipt_url: str | None
    grant_transfer_id: int | None
    refunded_minor: int
    clawed_back: int
    detail: str | None
    created_at_ms: int
    updated_at_ms: int
    paid_at_ms: int | None
    allows_discounts: bool
    paid_minor: int | None
    granted_microcredits: int | None
    disputed_minor: int

    @property
    def is_granted(self) -> bool:
        """Whether its credits have been added, once and for ever."""
        return self.grant_transfer_id is not None

    @property
    def whole_minor(self) -> int:
        """What was taken for it: with tax, without discounts, the captured part; what was ordered until it is paid."""
        return self.amount_minor if self.paid_minor is None else self.paid_minor

    @property
    def credited(self) -> int:
        """The microcredits of its grant; those ordered until there is one."""
        return self.microcredits if self.granted_microcredits is None else self.granted_microcredits


@dataclass(frozen=True, slots=True)
class RefundView:
    """A refund: asked for by ``actor``, or seen in Stripe's events (``actor`` is then ``stripe``)."""

    id: int
    payment_id: int
    account_id: int
    status: RefundStatus
    amount_minor: int
    currency: str
    reason: str
    note: str | None
    actor: str
    idempotency_key: str = field(repr=False)
    stripe_refund_id: str | None
    detail: str | None
    created_at_ms: int
    updated_at_ms: int


@dataclass(frozen=True, slots=True)
class DisputeView:
    """A dispute of a payment. ``frozen``: the microcredits that were held back when it opened, None before that."""

    id: int
    payment_id: int
    account_id: int
    stripe_dispute_id: str
    status: DisputeStatus
    status_at_ms: int
    amount_minor: int
    currency: str
    reason: str
    withdrawals: int
    reinstatements: int
    hold_id: int | None
    frozen: int | None
    evidence_due_at_ms: int | None
    created_at_ms: int
    updated_at_ms: int

    @property
    def is_withdrawn(self) -> bool:
        """Whether its money is gone: taken more often than given back. A lost one's was taken, told of or not."""
        taken = max(self.withdrawals, self.reinstatements, int(self.status is DisputeStatus.LOST))
        return taken > self.reinstatements

    @property
    def is_open(self) -> bool:
        """Whether the bank still decides, or still asks."""
        return dispute_rank(self.status) < dispute_rank(DisputeStatus.WON) and (
            self.status is not DisputeStatus.WARNING_CLOSED
        )

    @property
    def threatens(self) -> bool:
        """Whether its money is still there and may be taken."""
        return self.status in OPEN_DISPUTES and not self.withdrawals and not self.reinstatements


@dataclass(frozen=True, slots=True)
class InboxLine:
    """An incoming event without its payload."""

    event_id: str
    type: str
    status: InboxStatus
    object_id: str | None
    account_id: int | None
    api_version: str | None
    livemode: bool
    attempts: int
    detail: str | None
    created_at_ms: int
    received_at_ms: int


@dataclass(frozen=True, slots=True)
class LastReconciliation:
    """When our books were last compared with Stripe's lists and mended, and how many differences are left."""

    at_ms: int
    repaired: int
    left: int


def payment(database: peewee.Database, payment_id: int) -> PaymentView | None:
    """Return one payment."""
    return _one_payment(_BY_ID.rows(database, payment_id))


def payments_by_id(database: peewee.Database, payment_ids: Iterable[int | None]) -> dict[int, PaymentView]:
    """Return the payments with these ids; None and unknown ids have none. Some thousands at once, at most."""
    wanted = sorted({payment_id for payment_id in payment_ids if payment_id is not None})
    if not wanted:
        return {}
    rows = _payments(Payment.id.in_(wanted)).dicts().execute(database)
    return {view.id: view for view in map(payment_view, rows)}


def payment_of_session(database: peewee.Database, session_id: str) -> PaymentView | None:
    """Return the payment whose Checkout Session has this id."""
    return _one_payment(_BY_SESSION.rows(database, session_id))


def payment_of_intent(database: peewee.Database, payment_intent_id: str) -> PaymentView | None:
    """Return the payment that this payment intent paid."""
    return _one_payment(_BY_INTENT.rows(database, payment_intent_id))


def payments_page(
    database: peewee.Database, *, account_id: int | None = None, before_id: int | None = None, limit: int = 50
) -> list[PaymentView]:
    """Return payments of one account, or of all, newest first, from the one below ``before_id``."""
    conditions = []
    if account_id is not None:
        conditions.append(Payment.account_id == account_id)
    if before_id is not None:
        conditions.append(Payment.id < before_id)
    query = _payments(*conditions).order_by(Payment.id.desc()).limit(limit)
    return [payment_view(row) for row in query.dicts().execute(database)]


def refunds_of(database: peewee.Database, payment_id: int) -> list[RefundView]:
    """Return a payment's refunds, oldest first."""
    return [_refund_view(row) for row in _REFUNDS.rows(database, payment_id)]


def refund(database: peewee.Database, refund_id: int) -> RefundView | None:
    """Return one refund."""
    return _one_refund(database, Refund.id == refund_id)


def refund_of_key(database: peewee.Database, idempotency_key: str) -> RefundView | None:
    """Return the refund that was asked for with this key."""
    return _one_refund(database, Refund.idempotency_key == idempotency_key)


def refund_of_stripe(database: peewee.Database, stripe_refund_id: str) -> RefundView | None:
    """Return the refund with this id of Stripe's."""
    return _one_refund(database, Refund.stripe_refund_id == stripe_refund_id)


def disputes_of(database: peewee.Database, payment_id: int) -> list[DisputeView]:
    """Return a payment's disputes, oldest first."""
    return [_dispute_view(row) for row in _DISPUTES.rows(database, payment_id)]


def dispute_of_stripe(database: peewee.Database, stripe_dispute_id: str) -> DisputeView | None:
    """Return the dispute with this id of Stripe's."""
    query = Dispute.select().where(Dispute.stripe_dispute_id == stripe_dispute_id)
    return next((_dispute_view(row) for row in query.dicts().execute(database)), None)


def disputes_page(database: peewee.Database, *, before_id: int | None = None, limit: int = 50) -> list[DisputeView]:
    """Return all disputes, newest first, from the one below ``before_id``."""
    query = Dispute.select().order_by(Dispute.id.desc()).limit(limit)
    if before_id is not None:
        query = query.where(Dispute.id < before_id)
    return [_dispute_view(row) for row in query.dicts().execute(database)]


def inbox_page(
    database: peewee.Database,
    *,
    before: tuple[int, str] | None = None,
    status: InboxStatus | None = None,
    object_id: str | None = None,
    limit: int = 50,
) -> list[InboxLine]:
    """Return events, the latest received first, from below ``before`` (received_at_ms, event_id of the last line)."""
    query = InboxEvent.select(*_INBOX_COLUMNS)
    if before is not None:
        # A row value keeps the keyset on its index; the database compares both columns at once.
        keyset = peewee.Tuple(InboxEvent.received_at_ms, InboxEvent.event_id)
        query = query.where(keyset < peewee.Tuple(*before))
    if status is not None:
        query = query.where(InboxEvent.status == status)
    if object_id is not None:
        query = query.where(InboxEvent.object_id == object_id)
    query = query.order_by(InboxEvent.received_at_ms.desc(), InboxEvent.event_id.desc()).limit(limit)
    return [_inbox_line(row) for row in query.dicts().execute(database)]


def inbox_event(database: peewee.Database, event_id: str) -> InboxLine | None:
    """Return one event."""
    rows = _EVENT_BY_ID.rows(database, event_id)
    return _inbox_line(rows[0]) if rows else None


def last_reconciliation(database: peewee.Database) -> LastReconciliation | None:
    """Return how the last comparison with Stripe's lists ended; None before the first."""
    position = read_cursor(database, RECONCILIATION)
    if not position:
        return None
    return LastReconciliation(position["until_ms"], position["repaired"], len(position["findings"]))


def inbox_payload(database: peewee.Database, event_id: str) -> str | None:
    """Return an event's JSON as it came in."""
    query = InboxEvent.select(InboxEvent.payload).where(InboxEvent.event_id == event_id)
    return next((row[0] for row in query.tuples().execute(database)), None)


_INBOX_COLUMNS: Final = (
    InboxEvent.event_id,
    InboxEvent.type,
    InboxEvent.status,
    InboxEvent.object_id,
    InboxEvent.account_id,
    InboxEvent.api_version,
    InboxEvent.livemode,
    InboxEvent.attempts,
    InboxEvent.detail,
    InboxEvent.created_at_ms,
    InboxEvent.received_at_ms,
)


def _payments(*conditions: Any) -> Any:
    query = Payment.select(Payment, Account.external_id).join(
        Account, peewee.JOIN.LEFT_OUTER, on=(Account.id == Payment.account_id)
    )
    return query.where(*conditions) if conditions else query


# What every webhook asks several times.
_BY_ID: Final = Prepared(lambda payment_id: _payments(Payment.id == payment_id))
_BY_SESSION: Final = Prepared(lambda session_id: _payments(Payment.stripe_session_id == session_id))
_BY_INTENT: Final = Prepared(lambda intent_id: _payments(Payment.payment_intent_id == intent_id))
_REFUNDS: Final = Prepared(
    lambda payment_id: Refund.select().where(Refund.payment_id == payment_id).order_by(Refund.id)
)
_DISPUTES: Final = Prepared(
    lambda payment_id: Dispute.select().where(Dispute.payment_id == payment_id).order_by(Dispute.id)
)
_EVENT_BY_ID: Final = Prepared(
    lambda event_id: InboxEvent.select(*_INBOX_COLUMNS).where(InboxEvent.event_id == event_id)
)


def _one_payment(rows: list[dict[str, Any]]) -> PaymentView | None:
    return payment_view(rows[0]) if rows else None


def _one_refund(database: peewee.Database, condition: Any) -> RefundView | None:
    rows = list(Refund.select().where(condition).dicts().execute(database))
    return _refund_view(rows[0]) if rows else None


def payment_view(row: Mapping[str, Any], **more: Any) -> PaymentView:
    """Return a payment from its row by column; ``external_id`` is the account's, or comes beside it."""
    values = {**row, **more}
    del values["idempotency_key"]
    values["session_id"] = values.pop("stripe_session_id")
    values["status"] = PaymentStatus(values["status"])
    values["livemode"] = bool(values["livemode"])
    values["allows_discounts"] = bool(values["allows_discounts"])
    return PaymentView(**values)


def _refund_view(row: dict[str, Any]) -> RefundView:
    return RefundView(**{**row, "status": RefundStatus(row["status"])})


def _dispute_view(row: dict[str, Any]) -> DisputeView:
    return DisputeView(**{**row, "status": DisputeStatus(row["status"])})


def _inbox_line(row: dict[str, Any]) -> InboxLine:
    return InboxLine(**{**row, "status": InboxStatus(row["status"]), "livemode": bool(row["livemode"])})
