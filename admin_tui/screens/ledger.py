"""Ledger: all transfers of all accounts, newest first."""

from __future__ import annotations

from collections.abc import Sequence

from credits_plugin.ledger.queries import LedgerLine

from .. import sources
from ..actions import Where, bindings
from ..feeds import Source
from ..widgets.virtual_table import Cell, Column, Tone
from .base import AccountChosen, TableScreen
from .columns import transfer_columns
from .holds import HoldsScreen


class LedgerScreen(TableScreen[LedgerLine]):
    """The whole ledger; the filter finds transfers by their exact reference."""

    WHERE = Where.LEDGER
    TAB = "Ledger"
    EMPTY = "No transfer."
    FILTER_HINT = "exact reference: pi_… of a purchase, re_… of a refund"
    BINDINGS = bindings(Where.LEDGER, Where.SCREEN)

    def source(self, filter_text: str = "") -> Source[LedgerLine]:
        """Return all transfers, or those with the reference in the filter line."""
        return sources.ledger_of_reference(filter_text) if filter_text else sources.ledger()

    def columns(self) -> Sequence[Column[LedgerLine]]:
        """Return whose it is and the columns of every transfer."""
        columns: Sequence[Column[LedgerLine]] = transfer_columns(self.backend, lambda row: row.transfer)
        time, *others = columns
        return (time, Column("customer", 18, lambda row: Cell(row.external_id, Tone.STRONG)), *others)

    def title_text(self) -> str:
        """Name the list."""
        return "Ledger"

    def id_of(self, row: LedgerLine) -> str:
        """Return the transfer's id."""
        return str(row.transfer.id)

    def choose(self, row: LedgerLine) -> None:
        """Open the customer."""
        self.post_message(AccountChosen(row.account_id, row.external_id))

    def action_holds(self) -> None:
        """Show how good holds were."""
        self.app.push_screen(HoldsScreen(self.backend))
