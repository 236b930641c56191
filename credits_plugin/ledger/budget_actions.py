"""Changes of budgets by hand: who changed what, and from what to what, written down in the change's own transaction."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from ..errors import InvalidValue
from ..models import AdminAction
from .budget_entries import BudgetCommand, Budgeted, BudgetKind, BudgetPeriod, RemoveBudget
from .budget_queries import BudgetPlace, BudgetView, find_budget
from .work import Transaction


class BudgetAction(StrEnum):
    """What a person does to a budget, as ``admin_action`` names it."""

    SET = "set_budget"
    REMOVE = "remove_budget"
    PAUSE = "pause_run"
    RESUME = "resume_run"


@dataclass(frozen=True, slots=True)
class Operator:
    """Who changes a budget, and why. ``action_id`` is a new id for each change, the same one for its repeats."""

    name: str
    action_id: int
    reason: str = ""


class BudgetChange(NamedTuple):
    """Which budget is changed, and how."""

    action: BudgetAction
    account_id: int
    place: BudgetPlace

    @property
    def subject(self) -> str:
        """How ``admin_action`` names the budget: ``budget key ci per day``, ``run nightly-42``."""
        kind, name, period = self.place
        if kind is BudgetKind.RUN:
            return f"run {name}"
        whose = f"budget {kind} {name}" if name else f"budget {kind}"
        return f"{whose} in all" if period is BudgetPeriod.NONE else f"{whose} per {period}"


def change_by_hand(
    tx: Transaction, change: BudgetChange, by: Operator, command_for: Callable[[BudgetView | None], BudgetCommand]
) -> bool:
    """Decide the command for the budget as it is now, and write down who did it; returns whether it changed anything.

    ``command_for`` gets the budget, None if there is none. A change that stands already is not made again.

    Raises:
        LedgerError, InvalidValue, NotFound: the rules refuse the command, or the id is another change's.
    """
    if _stands(tx, change, by):
        return True
    before = find_budget(tx.database, change.account_id, change.place, at_ms=tx.at_ms)
    command = command_for(before)
    answer = tx.decide(command)
    if answer.changed:
        row = {
            "id": by.action_id,
            "at_ms": tx.at_ms,
            "actor": by.name,
            "action": change.action,
            "subject": change.subject,
            "account_id": change.account_id,
            "reason": by.reason,
            "before": None if before is None else _values(before),
            "after": None if isinstance(command, RemoveBudget) else _values(answer),
        }
        AdminAction.insert(row).execute(tx.database)
    return answer.changed


def _stands(tx: Transaction, change: BudgetChange, by: Operator) -> bool:
    query = AdminAction.select(AdminAction.action, AdminAction.subject).where(AdminAction.id == by.action_id)
    found = list(query.tuples().execute(tx.database))
    if found and found != [(change.action, change.subject)]:
        msg = "this action id belongs to another change; use a new one for a new change"
        raise InvalidValue(msg, action_id=by.action_id)
    return bool(found)


def _values(budget: BudgetView | Budgeted) -> str:
    values = {"limit": budget.limit, "spent": budget.spent, "held": budget.held, "status": str(budget.status)}
    return json.dumps(values)
