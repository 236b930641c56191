"""What a change of a budget would come to, before anybody confirms it. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from credits_plugin.ledger.budget_entries import BudgetKind, BudgetPeriod, BudgetStatus
from credits_plugin.ledger.budget_queries import BudgetPlace, BudgetView

from ..formats import NOTHING, credits_text, full_time_text
from ..widgets.panels import Line
from ..widgets.virtual_table import Cell, Tone

_LABEL: Final = 12
_FIGURE: Final = 20
NO_LIMIT: Final = "no limit"


def place_text(place: BudgetPlace) -> str:
    """Say whose budget it is and per what: ``key ci per day``, ``run nightly-42``."""
    kind, name, period = place
    whose = f"{kind} {name}" if name else str(kind)
    if kind is BudgetKind.RUN:
        return whose
    return f"{whose} in all" if period is BudgetPeriod.NONE else f"{whose} per {period}"


def state_cell(budget: BudgetView) -> Cell:
    """Say whether the budget lets requests through."""
    if budget.status is BudgetStatus.PAUSED:
        return Cell("PAUSED", Tone.BAD)
    if budget.left is not None and budget.left <= 0:
        return Cell("used up", Tone.BAD)
    return Cell(str(budget.status), Tone.WARNING if budget.status is BudgetStatus.WAITING else Tone.MUTED)


def preview_lines(before: BudgetView | None, after: BudgetView | None) -> list[Line]:
    """Show a budget before and after; None where there is none. Says when nothing is left then, and what is lost."""
    rows: list[tuple[str, Callable[[BudgetView], str]]] = [
        ("limit", lambda budget: limit_text(budget.limit)),
        ("spent", lambda budget: credits_text(budget.spent)),
        ("held", lambda budget: credits_text(budget.held)),
        ("left", lambda budget: limit_text(budget.left)),
    ]
    if any(budget is not None and budget.kind is BudgetKind.RUN for budget in (before, after)):
        rows.insert(0, ("state", lambda budget: state_cell(budget).text))
    lines: list[Line] = [[Cell(f"{'':{_LABEL}}{'before':>{_FIGURE}}{'after':>{_FIGURE}}", Tone.MUTED)]]
    lines += [_row(name, *(NOTHING if one is None else show(one) for one in (before, after))) for name, show in rows]
    warning = _warning(before, after)
    return [*lines, [warning]] if warning is not None else lines


def limit_text(microcredits: int | None) -> str:
    """Show a limit, or what is left of it."""
    return NO_LIMIT if microcredits is None else credits_text(microcredits)


def _row(label: str, before: str, after: str) -> Line:
    return [
        Cell(f"{label:<{_LABEL}}", Tone.MUTED),
        Cell(f"{before:>{_FIGURE}}"),
        Cell(f"{after:>{_FIGURE}}", Tone.STRONG if after != before else Tone.PLAIN),
    ]


def _warning(before: BudgetView | None, after: BudgetView | None) -> Cell | None:
    if after is None:
        spent = f" and forgets {credits_text(before.spent)} spent" if before is not None and before.spent else ""
        return Cell(f"! bounds it no longer{spent}", Tone.WARNING)
    if after.left is None or after.left > 0:
        return None
    if after.kind is BudgetKind.RUN:
        return Cell("! leaves nothing to spend: its next request pauses it again", Tone.WARNING)
    until = "" if after.ends_at_ms is None else f" until {full_time_text(after.ends_at_ms)}"
    return Cell(f"! leaves nothing to spend: every request is refused{until}", Tone.BAD)
