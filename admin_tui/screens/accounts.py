"""Customers: every account with what it holds."""

from __future__ import annotations

from collections.abc import Sequence

from credits_plugin.ledger.queries import Balance

from .. import sources
from ..actions import Where, bindings
from ..feeds import Source
from ..formats import CREDITS_WIDTH, align_point, credits_text, time_text
from ..widgets.virtual_table import Cell, Column, Tone
from .base import AccountChosen, TableScreen


class AccountsScreen(TableScreen[Balance]):
    """The list of customers, by id; the filter finds ids and e-mail addresses by their beginnings."""

    WHERE = Where.ACCOUNTS
    TAB = "Customers"
    EMPTY = "No customer yet: the first purchase or grant makes one."
    FILTER_HINT = "beginning of an id or e-mail address"
    BINDINGS = bindings(Where.ACCOUNTS, Where.SCREEN)

    def source(self, filter_text: str = "") -> Source[Balance]:
        """Return the customers that the filter finds."""
        return sources.accounts(filter_text)

    def columns(self) -> Sequence[Column[Balance]]:
        """Return the columns; the money columns never go."""
        return (
            Column("customer", 18, lambda row: Cell(row.external_id, Tone.STRONG), grows=True),
            Column("e-mail", 24, lambda row: Cell(row.email or "", Tone.MUTED), drop=3),
            Column("available", CREDITS_WIDTH, lambda row: _credits(row.available), right=True),
            Column("held", CREDITS_WIDTH, _held, right=True, drop=1),
            Column("balance", CREDITS_WIDTH, lambda row: _credits(row.balance), right=True),
            Column("transfers", 9, lambda row: Cell(f"{row.transfers:,}"), right=True, drop=2),
            Column("since (UTC)", 12, self._since, drop=4),
        )

    def title_text(self) -> str:
        """Name the list."""
        return "Customers"

    def id_of(self, row: Balance) -> str:
        """Return the customer's id."""
        return row.external_id

    def choose(self, row: Balance) -> None:
        """Open the customer."""
        self.post_message(AccountChosen(row.account_id, row.external_id))

    def _since(self, row: Balance) -> Cell:
        return Cell(time_text(row.created_at_ms, now_ms=self.backend.clock()), Tone.MUTED)


def _credits(microcredits: int) -> Cell:
    return Cell(align_point(credits_text(microcredits)), Tone.BAD if microcredits < 0 else Tone.PLAIN)


def _held(row: Balance) -> Cell:
    return Cell(align_point(credits_text(row.held)), Tone.WARNING if row.held else Tone.MUTED)
