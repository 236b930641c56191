"""Everything about one row, as names and values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, Static

from credits_plugin.ledger.attribution import PaidBy
from credits_plugin.ledger.entries import SYSTEM_ACCOUNTS
from credits_plugin.ledger.queries import TransferLine
from credits_plugin.money import format_money
from credits_plugin.payments.queries import InboxLine, PaymentView, RefundView

from ..formats import NOTHING, code_text, credits_text, full_time_text, signed_credits
from ..safe_text import safe_text

Field = tuple[str, str]


class DetailsDialog(ModalScreen[None]):
    """Shows fields; Esc, Enter and q close it."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,h", "close", "close", show=False)]

    def __init__(self, title: str, fields: Sequence[Field]) -> None:
        super().__init__()
        self._title = title
        self._fields = fields

    def compose(self) -> ComposeResult:
        """Yield the fields and a button."""
        lines = [Content.assemble((f"{name:<13}", "$foreground-muted"), safe_text(text)) for name, text in self._fields]
        with VerticalScroll(classes="dialog") as dialog:
            dialog.border_title = Content(safe_text(self._title))
            yield Static(Content("\n").join(lines), markup=False)
            yield Button("Close", compact=True, id="close", classes="apart")

    def on_mount(self) -> None:
        """Let Enter close it."""
        self.query_one("#close").focus()

    @on(Button.Pressed)
    def action_close(self) -> None:
        """Close the dialog."""
        self.dismiss(None)


def transfer_fields(line: TransferLine, *, external_id: str) -> Iterator[Field]:
    """Yield what a transfer says."""
    yield "customer", external_id
    yield "kind", f"{code_text(line.code)} ({'from' if line.amount > 0 else 'to'} {SYSTEM_ACCOUNTS[line.code]})"
    yield "amount", f"{signed_credits(line.amount)} credits"
    yield "balance", f"{credits_text(line.balance_after)} credits after it"
    yield "time", full_time_text(line.at_ms)
    yield "reference", line.reference or NOTHING
    yield "id", str(line.id)
    if line.usage is not None:
        yield "model", line.model or "unknown"
        for name in ("input", "cache_read", "cache_write", "output", "reasoning"):
            yield name.replace("_", " "), f"{getattr(line.usage, name):,} tokens"


def payer_fields(answer: PaidBy, payments: Mapping[int, PaymentView]) -> Iterator[Field]:
    """Yield the lots that a transfer took its credits from, with the payment behind each, and what is still owed."""
    for share in answer.shares:
        payment = payments.get(share.payment_id or 0)
        lot = f"lot {share.lot_id}"
        if payment is not None:
            lot = f"{payment.package_name}, {payment.payment_intent_id or payment.session_id or payment.id}, {lot}"
        yield "paid by", f"{credits_text(share.microcredits)} of {lot}"
    if answer.owed:
        yield "owed", f"{credits_text(answer.owed)}: what comes in next repays it"


def event_fields(line: InboxLine) -> Iterator[Field]:
    """Yield what became of an event."""
    yield "event", line.event_id
    yield "type", line.type
    yield "status", line.status
    yield "detail", line.detail or NOTHING
    yield "object", line.object_id or NOTHING
    yield "mode", "live" if line.livemode else "test"
    yield "API version", line.api_version or NOTHING
    yield "attempts", str(line.attempts)
    yield "made", full_time_text(line.created_at_ms)
    yield "received", full_time_text(line.received_at_ms)


def refund_fields(row: RefundView) -> Iterator[Field]:
    """Yield what was asked for, by whom and why, and what became of it."""
    yield "amount", format_money(row.amount_minor, row.currency)
    yield "status", row.status.replace("_", " ")
    yield "reason", row.reason.replace("_", " ")
    yield "note", row.note or NOTHING
    yield "by", row.actor
    yield "at Stripe", row.stripe_refund_id or NOTHING
    yield "detail", row.detail or NOTHING
    yield "asked for", full_time_text(row.created_at_ms)
    yield "last change", full_time_text(row.updated_at_ms)
    yield "id", str(row.id)
