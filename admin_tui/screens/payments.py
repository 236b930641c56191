"""Payments: of all customers, or of one."""

from __future__ import annotations

from collections.abc import Sequence

from credits_plugin.payments.queries import LastReconciliation, PaymentView, last_reconciliation

from .. import sources
from ..actions import Where, bindings
from ..backend import Backend
from ..feeds import Source
from ..formats import time_text
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
        self._reconciled: LastReconciliation | None = None
        super().__init__(backend)

    def source(self, filter_text: str = "") -> Source[PaymentView]:  # noqa: ARG002 - this list has no filter
        """Return the payments."""
        return sources.payments(self._account_id)

    def columns(self) -> Sequence[Column[PaymentView]]:
        """Return the columns of a payment."""
        return payment_columns(self.backend)

    def title_text(self) -> str:
        """Name the list and, on that of all customers, how the last comparison with Stripe ended."""
        if self._account_id is not None:
            return f"Customer ▸ {self._external_id} ▸ Payments"
        last = self._reconciled
        if last is None:
            return "Payments"
        left = f"{last.left} differ: credits reconcile" if last.left else "nothing differs"
        return f"Payments · compared with Stripe {time_text(last.at_ms, now_ms=self.backend.clock())} · {left}"

    async def refresh_view(self) -> None:
        """Bring the list up to date, and the last comparison with Stripe."""
        self._reconciled = await self.backend.read(last_reconciliation)
        await super().refresh_view()

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
