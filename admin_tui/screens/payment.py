"""One payment: what was ordered, what became of it, and its refunds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from textual.containers import Horizontal
from textual.widget import Widget

from credits_plugin.money import format_money
from credits_plugin.payments.queries import DisputeView, PaymentView, RefundView, disputes_of, payment, refunds_of
from credits_plugin.payments.states import RefundStatus

from .. import sources
from ..actions import Where, bindings
from ..backend import Backend
from ..feeds import Source
from ..formats import NOTHING, credits_text, full_time_text, time_text
from ..widgets.panels import Line, Panel
from ..widgets.virtual_table import Cell, Column, Tone
from .base import AccountChosen, TableScreen
from .columns import payment_tone, status_text
from .details import DetailsDialog, refund_fields
from .refund import open_refund

_PANEL_HEIGHT: Final = 8  # as the style sheet has it, for a payment without disputes


class PaymentScreen(TableScreen[RefundView]):
    """A payment's facts, and below them its refunds, oldest first."""

    WHERE = Where.PAYMENT
    TAB = "Payments"
    EMPTY = "No refund."
    BINDINGS = bindings(Where.PAYMENT, Where.SCREEN)

    def __init__(self, backend: Backend, paid: PaymentView) -> None:
        self._payment = paid
        self._disputes: Sequence[DisputeView] = ()
        super().__init__(backend)
        self._order = Panel("Payment", id="order")
        self._stripe = Panel("At Stripe", id="stripe")

    def source(self, filter_text: str = "") -> Source[RefundView]:  # noqa: ARG002 - this list has no filter
        """Return the payment's refunds."""
        return sources.short_list(lambda database: refunds_of(database, self._payment.id))

    def columns(self) -> Sequence[Column[RefundView]]:
        """Return the columns of a refund."""
        return (
            Column("time (UTC)", 12, self._time),
            Column("status", 15, lambda row: Cell(status_text(row.status), _tone(row.status))),
            Column("amount", 12, lambda row: Cell(format_money(row.amount_minor, row.currency)), right=True),
            Column("reason", 21, lambda row: Cell(status_text(row.reason))),
            Column("by", 10, lambda row: Cell(row.actor), drop=2),
            Column("refund", 30, lambda row: Cell(row.stripe_refund_id or NOTHING, Tone.MUTED), drop=3),
            Column("note", 12, lambda row: Cell(row.detail or row.note or "", Tone.MUTED), drop=1, grows=True),
        )

    def title_text(self) -> str:
        """Name the payment."""
        return f"Payment ▸ {self._payment.external_id or self._payment.email or self._payment.id} ▸ Refunds"

    def id_of(self, row: RefundView) -> str:
        """Return Stripe's id of the refund."""
        return row.stripe_refund_id or str(row.id)

    def above(self) -> Iterable[Widget]:
        """Return the panels."""
        yield Horizontal(self._order, self._stripe, id="panels")

    def on_mount(self) -> None:
        """Show what is known."""
        super().on_mount()
        self._show()

    async def refresh_view(self) -> None:
        """Bring payment and refunds up to date."""
        await super().refresh_view()
        found = await self.backend.read(lambda database: payment(database, self._payment.id))
        if found is not None:
            self._payment = found
            self._disputes = await self.backend.read(lambda database: disputes_of(database, found.id))
            self._show()

    def choose(self, row: RefundView) -> None:
        """Show everything about a refund."""
        self.app.push_screen(DetailsDialog("Refund", list(refund_fields(row))))

    def action_refund(self) -> None:
        """Refund this payment."""
        open_refund(self, self.backend, self._payment.id)

    def action_copy(self) -> None:
        """Copy the refund's id, or the payment's where there is no refund."""
        if self.table.current is None:
            self.copy_text(self._payment.payment_intent_id or str(self._payment.id))
        else:
            super().action_copy()

    def action_customer(self) -> None:
        """Open the customer who paid; there is none before the first grant."""
        if self._payment.external_id is not None:
            self.post_message(AccountChosen(self._payment.account_id, self._payment.external_id))

    def _show(self) -> None:
        self._order.show(order_lines(self._payment))
        disputed = [line for dispute in self._disputes for line in dispute_lines(dispute)]
        self._stripe.show([*stripe_lines(self._payment), *disputed])
        if disputed:
            self.query_one("#panels").styles.height = _PANEL_HEIGHT + len(disputed)

    def _time(self, row: RefundView) -> Cell:
        return Cell(time_text(row.created_at_ms, now_ms=self.backend.clock()), Tone.MUTED)


def order_lines(paid: PaymentView) -> list[Line]:
    """Show what was ordered and what is left of it."""
    left, refunded = (
        paid.whole_minor - paid.refunded_minor - paid.disputed_minor,
        format_money(paid.refunded_minor, paid.currency),
    )
    return [
        _fact("status", status_text(paid.status), payment_tone(paid.status)),
        _fact("customer", paid.external_id or "nobody yet: nothing granted", Tone.STRONG),
        _fact("package", f"{paid.package_name}: {credits_text(paid.credited)} credits"),
        _fact("amount", format_money(paid.whole_minor, paid.currency)),
        _fact("refunded", f"{refunded}, {format_money(left, paid.currency)} left"),
        _fact("taken back", f"{credits_text(paid.clawed_back)} credits"),
    ]


def stripe_lines(paid: PaymentView) -> list[Line]:
    """Show under which ids Stripe knows it, and when it happened."""
    return [
        _fact("intent", paid.payment_intent_id or NOTHING),
        _fact("session", paid.session_id or NOTHING),
        _fact("e-mail", paid.email or NOTHING),
        _fact("ordered", full_time_text(paid.created_at_ms)),
        _fact("paid", full_time_text(paid.paid_at_ms)),
        _fact("detail", paid.detail or NOTHING),
    ]


def dispute_lines(dispute: DisputeView) -> list[Line]:
    """Show how a dispute stands, what it froze, and until when it can be answered."""
    money = format_money(dispute.amount_minor, dispute.currency)
    lines = [_fact("dispute", f"{status_text(dispute.status)}: {money}, {status_text(dispute.reason)}", Tone.BAD)]
    if dispute.hold_id and dispute.frozen:
        lines.append(_fact("frozen", f"{credits_text(dispute.frozen)} credits", Tone.WARNING))
    if dispute.is_open:
        lines.append(_fact("answer by", full_time_text(dispute.evidence_due_at_ms), Tone.WARNING))
    return lines


def _fact(label: str, value: str, tone: Tone = Tone.PLAIN) -> Line:
    return [Cell(f"{label:<11}", Tone.MUTED), Cell(value, tone)]


def _tone(status: RefundStatus) -> Tone:
    match status:
        case RefundStatus.SUCCEEDED:
            return Tone.GOOD
        case RefundStatus.FAILED | RefundStatus.CANCELED:
            return Tone.BAD
        case _:
            return Tone.WARNING
