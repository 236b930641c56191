"""One customer: what it holds, why, what is reserved, where it came from; below, its ledger."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import peewee
from textual.containers import Horizontal
from textual.events import Resize
from textual.widget import Widget

from credits_plugin.errors import CreditsError
from credits_plugin.ledger import queries
from credits_plugin.ledger.attribution import paid_by
from credits_plugin.ledger.budget_queries import budget_count, budgets_named
from credits_plugin.ledger.queries import TransferLine
from credits_plugin.payments.queries import payments_by_id

from .. import sources
from ..actions import Where, bindings
from ..backend import Backend
from ..feeds import Source
from ..widgets.panels import Panel
from ..widgets.virtual_table import Column
from .account_panels import (
    AccountFacts,
    balance_lines,
    cap_line,
    hold_lines,
    lot_lines,
    merge_sums,
    slim_lines,
    why_lines,
    why_title,
)
from .base import TableScreen
from .budgets import BudgetsScreen
from .columns import transfer_columns
from .details import DetailsDialog, Field, payer_fields, transfer_fields
from .payments import PaymentsScreen

_WIDE = 118
_HIGH = 30
_HOLDS = 100
_DETAILS = "details"


class AccountScreen(TableScreen[TransferLine]):
    """A customer's panels and its transfers, newest first."""

    WHERE = Where.ACCOUNT
    TAB = "Customers"
    EMPTY = "No transfer yet."
    BINDINGS = bindings(Where.ACCOUNT, Where.SCREEN)

    def __init__(self, backend: Backend, account_id: int, *, external_id: str) -> None:
        self._account_id = account_id
        self._external_id = external_id
        self._facts: AccountFacts | None = None
        super().__init__(backend)
        self._balance = Panel("Balance", id="balance")
        self._why = Panel("Why?", id="why")
        self._holds = Panel("Open holds", id="holds")
        self._lots = Panel("Lots", id="lots")
        self._caps = Panel("Budgets", id="caps")
        self._slim = Panel("", id="slim")

    def source(self, filter_text: str = "") -> Source[TransferLine]:  # noqa: ARG002 - this list has no filter
        """Return the customer's transfers."""
        return sources.account_ledger(self._account_id)

    def columns(self) -> Sequence[Column[TransferLine]]:
        """Return the columns of a transfer."""
        return transfer_columns(self.backend, lambda row: row)

    def title_text(self) -> str:
        """Name the customer."""
        return f"Customer ▸ {self._external_id}"

    def id_of(self, row: TransferLine) -> str:
        """Return the transfer's reference where it has one, else its id."""
        return row.reference or str(row.id)

    def above(self) -> Iterable[Widget]:
        """Return the panels: four beside each other and the budgets below, or one of three lines where it is small."""
        yield Horizontal(self._balance, self._why, self._holds, self._lots, id="panels")
        yield self._caps
        yield self._slim

    def on_mount(self) -> None:
        """Read the panels as well."""
        super().on_mount()
        self.begin(self._read_facts())

    def on_resize(self, event: Resize) -> None:
        """Choose between the panels and the slim one."""
        self.set_class(event.size.width < _WIDE or event.size.height < _HIGH, "-slim")

    def choose(self, row: TransferLine) -> None:
        """Show everything about a transfer, also which lots and payments paid for it."""
        self.begin(self._show_details(row), group=_DETAILS)

    async def _show_details(self, row: TransferLine) -> None:
        fields = list(transfer_fields(row, external_id=self._external_id))
        if row.amount < 0:
            fields += await self.backend.read(lambda database: self._payers(database, row.id))
        if self.is_current:
            self.app.push_screen(DetailsDialog(f"Transfer no. {row.seq:,}", fields))

    def _payers(self, database: peewee.Database, transfer_id: int) -> list[Field]:
        try:
            answer = paid_by(database, self._account_id, transfer_id)
        except CreditsError as error:  # archived, or a broken chain: the rest of the details is worth showing
            return [("paid by", error.message)]
        return list(payer_fields(answer, payments_by_id(database, (share.payment_id for share in answer.shares))))

    def action_payments(self) -> None:
        """Show the customer's payments."""
        self.app.push_screen(PaymentsScreen(self.backend, self._account_id, external_id=self._external_id))

    def action_budgets(self) -> None:
        """Show the customer's budgets and runs."""
        self.app.push_screen(BudgetsScreen(self.backend, self._account_id, external_id=self._external_id))

    async def refresh_view(self) -> None:
        """Bring the ledger and the panels up to date."""
        await super().refresh_view()
        await self._read_facts()

    async def _read_facts(self) -> None:
        known = self._facts.sums if self._facts else None
        facts = await self.backend.read(lambda database: self._query(database, known.newest_seq if known else 0))
        if facts is None:
            return
        sums = merge_sums(known, facts.sums)
        self._facts = replace(facts, sums=sums)
        self._show(self._facts)

    def _query(self, database: peewee.Database, after_seq: int) -> AccountFacts | None:
        balance = queries.account_balance(database, self._account_id)
        if balance is None:
            return None
        at_ms = self.backend.clock()
        return AccountFacts(
            balance,
            queries.chain_sums(database, self._account_id, after_seq=after_seq),
            queries.open_holds(database, self._account_id, limit=_HOLDS),
            queries.account_lots(database, self._account_id),
            at_ms,
            budgets_named(database, self._account_id, "", at_ms=at_ms),
            budget_count(database, self._account_id),
        )

    def _show(self, facts: AccountFacts) -> None:
        self._balance.show(balance_lines(facts))
        self._why.show(why_lines(facts), title=why_title(facts))
        self._holds.show(hold_lines(facts), title=f"Open holds ({_counted(len(facts.holds))})")
        self._lots.show(lot_lines(facts), title=f"Lots ({len(facts.lots)})")
        self._caps.show([cap_line(facts)])
        self.set_class(facts.budgets > 0, "-capped")
        self._slim.show(slim_lines(facts))


def _counted(holds: int) -> str:
    return f"{holds}{'+' if holds == _HOLDS else ''}"
