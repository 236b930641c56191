"""Customers: every account with what it holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from credits_plugin.ledger.queries import Balance, LedgerTotals, ledger_totals

from .. import sources
from ..actions import Where, bindings
from ..backend import Backend
from ..feeds import Source
from ..formats import CREDITS_WIDTH, align_point, credits_text, time_text, whole_credits
from ..widgets.virtual_table import Cell, Column, Tone
from .base import AccountChosen, TableScreen

_TOTALS_EVERY: Final = 15
"""Refreshes between two readings of the totals."""


class AccountsScreen(TableScreen[Balance]):
    """The list of customers, by id; the filter finds ids and e-mail addresses by their beginnings."""

    WHERE = Where.ACCOUNTS
    TAB = "Customers"
    EMPTY = "No customer yet: the first purchase or grant makes one."
    FILTER_HINT = "beginning of an id or e-mail address"
    BINDINGS = bindings(Where.ACCOUNTS, Where.SCREEN)

    def __init__(self, backend: Backend) -> None:
        self._totals: LedgerTotals | None = None
        self._refreshes = 0
        super().__init__(backend)

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
        """Name the list, and what all customers hold together."""
        totals = self._totals
        if totals is None:
            return "Customers"
        debt = f" · {whole_credits(totals.debt)} in debt" if totals.debt else ""
        outstanding, held = whole_credits(totals.outstanding), whole_credits(totals.held)
        return f"Customers · {outstanding} credits outstanding · {held} held{debt}"

    def on_mount(self) -> None:
        """Read the totals as well."""
        super().on_mount()
        self.begin(self._read_totals())

    async def refresh_view(self) -> None:
        """Bring the list up to date, the totals now and then: they are a sum over all accounts."""
        await super().refresh_view()
        self._refreshes += 1
        if self._refreshes % _TOTALS_EVERY == 0:
            await self._read_totals()

    async def _read_totals(self) -> None:
        self._totals = await self.backend.read(ledger_totals)
        self.show_titles()

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
