"""Budgets and runs of one customer: what each may spend, has spent, and when it starts anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from textual.screen import ModalScreen

from credits_plugin.ledger.budget_entries import BudgetKind, BudgetPeriod, BudgetStatus
from credits_plugin.ledger.budget_queries import BudgetPlace, BudgetView, budgets_named

from .. import sources
from ..actions import Where, bindings
from ..backend import Backend, BudgetDecision
from ..feeds import Source
from ..formats import NOTHING, align_point, credits_text, duration_text, full_time_text
from ..safe_text import safe_text
from ..widgets.virtual_table import Cell, Column, Tone
from .base import TableScreen
from .budget_dialogs import BudgetCase, CapDialog, NewCapDialog, RemovalDialog, ResumeDialog
from .budget_preview import NO_LIMIT, limit_text, place_text, state_cell
from .details import DetailsDialog, Field

_CREDITS: Final = 13
"""Cells of a credits column: 99,999 and six places; larger ones lose padding first, then places."""
_DIALOG: Final = "budget"


class BudgetsScreen(TableScreen[BudgetView]):
    """The customer's own budgets, then keys, members and runs, by name; the filter finds an exact name."""

    WHERE = Where.BUDGETS
    TAB = "Customers"
    EMPTY = "No budget: this customer may spend all that it has. n sets a cap."
    FILTER_HINT = "exact name of a key, member or run"
    BINDINGS = bindings(Where.BUDGETS, Where.SCREEN)

    def __init__(self, backend: Backend, account_id: int, *, external_id: str) -> None:
        self._account_id = account_id
        self._external_id = external_id
        super().__init__(backend)

    def source(self, filter_text: str = "") -> Source[BudgetView]:
        """Return all of them, or those of the name in the filter line."""
        clock, account_id = self.backend.clock, self._account_id
        if not filter_text:
            return sources.budgets(account_id, clock)
        return sources.short_list(lambda database: budgets_named(database, account_id, filter_text, at_ms=clock()))

    def columns(self) -> Sequence[Column[BudgetView]]:
        """Return the columns; limit, what is left and the state never go."""
        return (
            Column("whose", 19, lambda row: Cell(f"{row.kind} {row.name}", Tone.STRONG), grows=True),
            Column("per", 5, lambda row: Cell(_per(row), Tone.MUTED)),
            Column("state", 7, state_cell),
            Column("limit", _CREDITS, lambda row: _credits(row.limit), right=True),
            Column("spent", _CREDITS, lambda row: _credits(row.spent), right=True, drop=2),
            Column("held", _CREDITS, _held, right=True, drop=3),
            Column("left", _CREDITS, lambda row: _credits(row.left), right=True),
            Column("anew in", 8, self._anew, drop=1),
        )

    def title_text(self) -> str:
        """Name the customer."""
        return f"Customer ▸ {self._external_id} ▸ Budgets and runs"

    def id_of(self, row: BudgetView) -> str:
        """Return the host's name for it; a customer's own budgets have none."""
        return row.name or self._external_id

    def choose(self, row: BudgetView) -> None:
        """Show everything about a budget."""
        title = "Run" if row.kind is BudgetKind.RUN else "Budget"
        self.app.push_screen(DetailsDialog(title, list(budget_fields(row, external_id=self._external_id))))

    def action_set_cap(self) -> None:
        """Change the limit under the cursor."""
        row = self.table.current
        if row is not None and row.kind is BudgetKind.RUN:
            self._say("a run is given more where it is resumed: r")
        elif row is not None:
            self._open(row.place, lambda case: CapDialog(case, self.backend.set_cap))

    def action_new_cap(self) -> None:
        """Cap the customer, a member or a key."""
        self._open(None, lambda case: NewCapDialog(case, self.backend.set_cap, self._find))

    def action_remove_cap(self) -> None:
        """Remove the cap under the cursor."""
        row = self.table.current
        if row is not None and row.kind is BudgetKind.RUN:
            self._say("a run keeps its budget; it is forgotten when it has not been used for a while")
        elif row is not None:
            self._open(row.place, lambda case: RemovalDialog(case, self.backend.remove_cap))

    def action_resume(self) -> None:
        """Let the run under the cursor go on."""
        row = self.table.current
        if row is not None and row.kind is not BudgetKind.RUN:
            self._say("this is no run: s changes its limit")
        elif row is not None:
            self._open(row.place, lambda case: ResumeDialog(case, self.backend.resume_run))

    async def _find(self, place: BudgetPlace) -> BudgetView | None:
        return await self.backend.budget(self._external_id, place)

    def _open(
        self, place: BudgetPlace | None, dialog_for: Callable[[BudgetCase], ModalScreen[BudgetDecision | None]]
    ) -> None:
        """Open a dialog for the budget as it is now, or say why nothing can be changed from here."""
        obstacle = self.backend.read_only_obstacle("change budgets")
        if obstacle is not None:
            self._say(obstacle)
        else:
            self.begin(self._ask(place, dialog_for), group=_DIALOG)

    async def _ask(
        self, place: BudgetPlace | None, dialog_for: Callable[[BudgetCase], ModalScreen[BudgetDecision | None]]
    ) -> None:
        of = place or NEW_CAP
        found = await self._find(of)
        if found is None and place is not None:
            self._say(f"{place_text(place)} is gone")
            return
        case = BudgetCase(self._external_id, of, found, self.backend.new_id(), self.backend.clock())
        if self.is_current:
            self.app.push_screen(dialog_for(case), lambda _decision: self.refresh_soon())

    def _say(self, text: str) -> None:
        self.notify(safe_text(text), title="Nothing changed", severity="warning", markup=False, timeout=12)

    def _anew(self, row: BudgetView) -> Cell:
        if row.ends_at_ms is None:
            return Cell(NOTHING, Tone.MUTED)
        return Cell(duration_text(row.ends_at_ms - self.backend.clock()), Tone.MUTED)


NEW_CAP: Final[BudgetPlace] = (BudgetKind.ACCOUNT, "", BudgetPeriod.MONTH)
"""What the dialog for a new cap begins with."""


def budget_fields(row: BudgetView, *, external_id: str) -> Iterator[Field]:
    """Yield what a budget says."""
    yield "customer", external_id
    yield "whose", place_text(row.place)
    yield "state", _STATES[row.status] if row.left is None or row.left > 0 or row.status != BudgetStatus.OPEN else _USED
    yield "limit", NO_LIMIT if row.limit is None else f"{credits_text(row.limit)} credits"
    yield "spent", f"{credits_text(row.spent)} credits"
    yield "held", f"{credits_text(row.held)} credits"
    yield "left", limit_text(row.left)
    yield "since", full_time_text(row.starts_at_ms)
    yield "anew", "never" if row.ends_at_ms is None else full_time_text(row.ends_at_ms)
    yield "last used", full_time_text(row.used_at_ms)


_USED: Final = "used up: refuses what it concerns"
_STATES: Final = {
    BudgetStatus.OPEN: "open",
    BudgetStatus.PAUSED: "PAUSED: refuses the run's requests until it is resumed",
    BudgetStatus.WAITING: "waiting: the account or another budget refused it last",
}


def _per(row: BudgetView) -> str:
    if row.kind is BudgetKind.RUN:
        return NOTHING
    return "all" if row.period is BudgetPeriod.NONE else str(row.period)


def _credits(microcredits: int | None) -> Cell:
    if microcredits is None:
        return Cell(NO_LIMIT, Tone.MUTED)
    return Cell(align_point(credits_text(microcredits), _CREDITS), Tone.BAD if microcredits < 0 else Tone.PLAIN)


def _held(row: BudgetView) -> Cell:
    return Cell(align_point(credits_text(row.held), _CREDITS), Tone.WARNING if row.held else Tone.MUTED)
