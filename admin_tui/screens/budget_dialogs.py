"""The dialogs of budgets: set a cap, remove one, let a run go on."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Final, TypeVar

from textual import on
from textual.widget import Widget
from textual.widgets import Input, Select

from credits_plugin.errors import InvalidValue
from credits_plugin.ledger.budget_entries import BudgetKind, BudgetPeriod, BudgetStatus
from credits_plugin.ledger.budget_queries import BudgetPlace, BudgetView
from credits_plugin.ledger.budgets import period_end_ms, period_start_ms
from credits_plugin.ledger.ids import require_name
from credits_plugin.money import MICROCREDITS_PER_CREDIT, parse_credits

from ..backend import BudgetDecision
from ..formats import credits_text
from ..widgets.panels import Line
from .budget_preview import limit_text, place_text, preview_lines
from .decision import DecisionDialog, field

R = TypeVar("R")

_LONGEST_NAME: Final = 255


@dataclass(frozen=True, slots=True)
class BudgetCase:
    """Whose budget it is, which one, how it is now (None: there is none), and the id of the change."""

    external_id: str
    place: BudgetPlace
    budget: BudgetView | None
    action_id: int
    at_ms: int


class BudgetDialog(DecisionDialog[BudgetDecision, R]):
    """What the dialogs of budgets share: all of them are about one budget and credits."""

    TITLE: ClassVar[str]

    def __init__(self, case: BudgetCase, submit: Callable[[BudgetDecision], Awaitable[R]]) -> None:
        super().__init__(submit)
        self.case = case

    def heading(self) -> str:
        """Name the customer."""
        return f"{self.TITLE} ▸ {self.case.external_id}"

    def summary(self) -> str:
        """Name the budget."""
        return place_text(self.case.place)

    def form(self) -> Iterable[Widget]:
        """Yield the amount, empty."""
        yield field("Limit", Input(placeholder="1,000 or 0.5", id="amount", compact=True), "credits", apart=True)

    def parse_amount(self, text: str) -> int:
        """Read credits, 0 or more."""
        if not text.strip():
            msg = "type a number of credits, for example 1,000 or 0.5"
            raise InvalidValue(msg)
        amount = parse_credits(text)
        if amount < 0:
            msg = "an amount of credits is 0 or more"
            raise InvalidValue(msg)
        return amount

    def decide(self) -> BudgetDecision:
        """Return the change that the form asks for."""
        case = self.case
        return BudgetDecision(case.external_id, case.place, self.typed_amount(), self.note(), case.action_id)

    def amount_of(self, decision: BudgetDecision) -> int:
        """Return the credits."""
        return decision.amount

    def preview(self, decision: BudgetDecision) -> Sequence[Line]:
        """Show the budget before and after."""
        return preview_lines(self.case.budget, self.after(decision))

    @abstractmethod
    def after(self, decision: BudgetDecision) -> BudgetView | None:
        """Return the budget as the decision would leave it."""


class CapDialog(BudgetDialog[BudgetView | None]):
    """Gives the budget of the case another limit."""

    VERB = "Set the cap"
    CONFIRM = "type the limit again"
    TITLE = "Cap"

    def label(self, decision: BudgetDecision) -> str:
        """Name the limit on the button."""
        return f"Set to {credits_text(decision.amount)}"

    def after(self, decision: BudgetDecision) -> BudgetView:
        """Return the budget with the new limit; a new one has nothing spent."""
        now = self.case.budget
        if now is not None:
            return replace(now, limit=decision.amount, status=BudgetStatus.OPEN)
        (kind, name, period), at_ms = decision.place, self.case.at_ms
        start = period_start_ms(period, at_ms)
        dates = (start, period_end_ms(period, start))
        return BudgetView(kind, name, period, decision.amount, 0, 0, *dates, BudgetStatus.OPEN, at_ms)

    def success(self, result: BudgetView | None) -> str:
        """Say what is left now."""
        if result is None:
            return "✓ set, and removed again since"
        return f"✓ {place_text(result.place)}: {limit_text(result.limit)}, {limit_text(result.left)} left"


class NewCapDialog(CapDialog):
    """Asks whose spending is capped and per what first, and looks for a cap that is there already."""

    TITLE = "New cap"

    def __init__(
        self,
        case: BudgetCase,
        submit: Callable[[BudgetDecision], Awaitable[BudgetView | None]],
        find: Callable[[BudgetPlace], Awaitable[BudgetView | None]],
    ) -> None:
        super().__init__(case, submit)
        self._find = find
        self._looked_at: BudgetPlace | None = case.place

    def summary(self) -> str:
        """Leave it to the form, which says whose it is."""
        return ""

    def form(self) -> Iterable[Widget]:
        """Yield whose, per what, how much."""
        kinds = [("the whole customer", BudgetKind.ACCOUNT), ("a member", BudgetKind.MEMBER), ("a key", BudgetKind.KEY)]
        periods = [("UTC day", BudgetPeriod.DAY), ("calendar month", BudgetPeriod.MONTH), ("in all", BudgetPeriod.NONE)]
        kind, _, period = self.case.place
        yield field("Whose", Select(kinds, allow_blank=False, value=kind, compact=True, id="kind"), apart=True)
        name = Input(placeholder="as the host names it", id="name", compact=True, max_length=_LONGEST_NAME)
        name.disabled = True
        yield field("Name", name)
        yield field("Per", Select(periods, allow_blank=False, value=period, compact=True, id="period"))
        yield field("Limit", Input(placeholder="1,000 or 0.5", id="amount", compact=True), "credits")

    def decide(self) -> BudgetDecision:
        """Return the change that the form asks for, once it is known what is there."""
        place = self._place()
        if place[0] is not BudgetKind.ACCOUNT:
            if not place[1]:
                msg = f"a {place[0]} has a name: type it as the host does"
                raise InvalidValue(msg)
            require_name(place[1], f"a {place[0]}'s name")
        if place != self._looked_at:
            msg = "… looking whether there is such a cap"
            raise InvalidValue(msg)
        return super().decide()

    @on(Select.Changed, "#kind")
    @on(Select.Changed, "#period")
    @on(Input.Changed, "#name")
    def _look(self) -> None:
        place = self._place()
        self.query_one("#name", Input).disabled = place[0] is BudgetKind.ACCOUNT
        if place != self._looked_at:
            self._looked_at = None
            self.run_worker(self._look_at(place), exit_on_error=False)

    async def _look_at(self, place: BudgetPlace) -> None:
        budget = await self._find(place)
        if place == self._place():
            self.case, self._looked_at = replace(self.case, place=place, budget=budget), place
            self.show_decision()

    def _place(self) -> BudgetPlace:
        kind = BudgetKind(str(self.query_one("#kind", Select).value))
        period = BudgetPeriod(str(self.query_one("#period", Select).value))
        return kind, "" if kind is BudgetKind.ACCOUNT else self.query_one("#name", Input).value.strip(), period


class RemovalDialog(BudgetDialog[None]):
    """Takes a limit away; that limit has to be typed."""

    VERB = "Remove the cap"
    CONFIRM = "type the limit"
    TITLE = "Remove cap"

    def form(self) -> Iterable[Widget]:
        """Yield nothing: the limit stands in the preview."""
        return ()

    def typed_amount(self) -> int:
        """Return the limit that is removed."""
        budget = self.case.budget
        return (budget.limit or 0) if budget is not None else 0

    def after(self, decision: BudgetDecision) -> None:  # noqa: ARG002 - there is none afterwards
        """Return nothing: the budget is gone."""
        return

    def success(self, result: None) -> str:  # noqa: ARG002 - there is none
        """Say that it is gone."""
        return f"✓ removed: {place_text(self.case.place)} is bounded no longer"


class ResumeDialog(BudgetDialog[BudgetView]):
    """Lets a run go on, with whole credits more or none."""

    VERB = "Resume"
    TITLE = "Resume run"

    def form(self) -> Iterable[Widget]:
        """Yield what is added."""
        yield field("Add", Input("0", id="amount", compact=True), "whole credits, or 0", apart=True)

    def parse_amount(self, text: str) -> int:
        """Read whole credits, 0 or more."""
        amount = super().parse_amount(text)
        if amount % MICROCREDITS_PER_CREDIT:
            msg = "a run gets whole credits"
            raise InvalidValue(msg)
        return amount

    def decide(self) -> BudgetDecision:
        """Return the change; a run that is only counted has no limit to add to."""
        decision, run = super().decide(), self.case.budget
        if decision.amount and run is not None and run.limit is None:
            msg = "this run is counted and not bounded: there is no limit to add to; 0 resumes it"
            raise InvalidValue(msg)
        return decision

    def label(self, decision: BudgetDecision) -> str:
        """Name what is added on the button."""
        return f"Resume with {credits_text(decision.amount)} more" if decision.amount else "Resume"

    def after(self, decision: BudgetDecision) -> BudgetView | None:
        """Return the run, open and with more to spend."""
        run = self.case.budget
        if run is None:
            return None
        limit = None if run.limit is None else run.limit + decision.amount
        return replace(run, limit=limit, status=BudgetStatus.OPEN)

    def success(self, result: BudgetView) -> str:
        """Say what is left now."""
        return f"✓ {result.status}: {limit_text(result.limit)} in all, {limit_text(result.left)} left"
