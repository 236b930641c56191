"""Payments: of all customers, or of one."""

from __future__ import annotations

from collections.abc import Sequence

from credits_plugin.payments.queries import PaymentView

from .. import sources
from ..actions import Where, bindings
from ..backend import Backend
from ..feeds import Source
from ..widgets.virtual_table import Column
from .base import TableScreen
from .columns import payment_columns
from .payment import PaymentScreen
from .refund import open_refund


class PaymentsScreen(TableScreen[PaymentView]):
    """Payments, newest first."""

    WHERE = Where.PAYMENTS
    TAB = "Payments"
    EMPTY = "No payment yet."
    BINDINGS = bindings(Where.PAYMENTS, Where.SCREEN)

    def __init__(self, backend: Backend, account_id: int | None = None, *, external_id: str = "") -> None:
        self._account_id = account_id
        self._external_id = external_id
        super().__init__(backend)

    def source(self, filter_text: str = "") -> Source[PaymentView]:  # noqa: ARG002 - this list has no filter
        """Return the payments."""
        return sources.payments(self._account_id)

    def columns(self) -> Sequence[Column[PaymentView]]:
        """Return the columns of a payment."""
        return payment_columns(self.backend)

    def title_text(self) -> str:
        """Name the list."""
        return "Payments" if self._account_id is None else f"Customer ▸ {self._external_id} ▸ Payments"

    def id_of(self, row: PaymentView) -> str:
        """Return Stripe's id of the payment where there is one."""
        return row.payment_intent_id or row.session_id or str(row.id)

    def choose(self, row: PaymentView) -> None:
        """Open the payment."""
        self.app.push_screen(PaymentScreen(self.backend, row))

    def action_refund(self) -> None:
        """Refund the payment under the cursor."""
        if self.table.current is not None:
            open_refund(self, self.backend, self.table.current.id)
