"""The refund dialog: amount, reason, note, preview, confirmation by typing the amount; the outcome in its place."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any
from uuid import uuid4

import peewee
from textual.widget import Widget
from textual.widgets import Input, Select

from credits_plugin.errors import InvalidValue
from credits_plugin.ledger.queries import account_balance
from credits_plugin.money import format_money
from credits_plugin.payments.gateway import RefundReason
from credits_plugin.payments.queries import RefundView, payment, refunds_of

from ..backend import Backend, RefundDecision
from ..formats import credits_text, plain_money
from ..safe_text import safe_text
from ..widgets.panels import Line
from .base import TableScreen
from .decision import DecisionDialog, field
from .refund_preview import RefundCase, preview_lines


class RefundDialog(DecisionDialog[RefundDecision, RefundView]):
    """Decides on a refund; one key for all tries of one dialog."""

    VERB = "Refund"
    SENT = "… asking Stripe"

    def __init__(self, case: RefundCase, submit: Callable[[RefundDecision], Awaitable[RefundView]]) -> None:
        super().__init__(submit)
        self._case = case
        self._key = f"admin-refund-{uuid4()}"

    def heading(self) -> str:
        """Name whose payment it is."""
        paid = self._case.payment
        return f"Refund ▸ {paid.external_id or paid.email or paid.id}"

    def summary(self) -> str:
        """Say what was paid for what."""
        paid = self._case.payment
        return (
            f"{paid.package_name}: {credits_text(paid.credited)} credits for "
            f"{format_money(paid.whole_minor, paid.currency)} · {paid.payment_intent_id}"
        )

    def form(self) -> Iterable[Widget]:
        """Yield amount and reason."""
        left = plain_money(self._case.left_minor, self._case.payment.currency)
        hint = f"{self._case.payment.currency.upper()}, at most {left}"
        yield field("Amount", Input(left, id="amount", compact=True), hint, apart=True)
        reason = RefundReason.REQUESTED_BY_CUSTOMER
        yield field("Reason", Select(_reasons(), allow_blank=False, value=reason, compact=True))

    def parse_amount(self, text: str) -> int:
        """Read money, at most what is left."""
        return self._case.parse_amount(text)

    def decide(self) -> RefundDecision:
        """Return the refund that the form asks for."""
        reason, paid = str(self.query_one(Select).value), self._case.payment
        return RefundDecision(paid.id, self.typed_amount(), reason, self.note(), idempotency_key=self._key)

    def amount_of(self, decision: RefundDecision) -> int:
        """Return the money."""
        return decision.amount_minor

    def preview(self, decision: RefundDecision) -> Sequence[Line]:
        """Show money and credits before and after."""
        return preview_lines(self._case, decision.amount_minor)

    def label(self, decision: RefundDecision) -> str:
        """Name the money on the button."""
        return f"Refund {format_money(decision.amount_minor, self._case.payment.currency)}"

    def success(self, result: RefundView) -> str:
        """Say what went back and what was taken for it."""
        taken = credits_text(self._case.credits_for(result.amount_minor))
        money = format_money(result.amount_minor, result.currency)
        return f"✓ {money} {result.status.replace('_', ' ')} · {taken} credits taken back · {result.stripe_refund_id}"


def open_refund(screen: TableScreen[Any], backend: Backend, payment_id: int) -> None:
    """Open the dialog for a payment over ``screen``, or say why it cannot be refunded."""
    obstacle = backend.obstacle("refund")
    if obstacle is not None:
        screen.notify(safe_text(obstacle), title="No refund from here", severity="warning", markup=False, timeout=12)
        return
    screen.begin(_ask(screen, backend, payment_id), group="refund")


async def _ask(screen: TableScreen[Any], backend: Backend, payment_id: int) -> None:
    case = await backend.read(lambda database: read_case(database, payment_id))
    obstacle = case.obstacle()
    if obstacle is not None:
        screen.notify(safe_text(obstacle), title="No refund", severity="warning", markup=False)
        return
    screen.app.push_screen(RefundDialog(case, backend.refund), lambda _decision: screen.refresh_soon())


def read_case(database: peewee.Database, payment_id: int) -> RefundCase:
    """Read a payment with its refunds and its customer's balance."""
    paid = payment(database, payment_id)
    if paid is None:
        msg = f"there is no payment {payment_id}"
        raise InvalidValue(msg)
    return RefundCase(paid, refunds_of(database, payment_id), account_balance(database, paid.account_id))


def _reasons() -> list[tuple[str, RefundReason]]:
    return [(reason.replace("_", " "), reason) for reason in RefundReason]
