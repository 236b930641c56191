"""What budgets are made of: their states, the commands that change them, and the answer. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, TypeAlias


class BudgetKind(StrEnum):
    """Whose spending a budget bounds: the account's (a team's), one member's, one API key's, or one agent run's."""

    ACCOUNT = "account"
    MEMBER = "member"
    KEY = "key"
    RUN = "run"


class BudgetPeriod(StrEnum):
    """When a budget begins anew: each UTC day, each calendar month of UTC, or never."""

    DAY = "day"
    MONTH = "month"
    NONE = "none"


class BudgetStatus(StrEnum):
    """Whether a budget lets holds through; runs alone are ever anything but open.

    ``PAUSED`` refuses until the run is resumed. ``WAITING`` refuses nothing: something else refused the run last (no
    credits, another budget), and the next hold that is placed opens it again.
    """

    OPEN = "open"
    PAUSED = "paused"
    WAITING = "waiting"


BudgetKey: TypeAlias = tuple[int, str, str]
"""(account id, kind, name). An account's own budgets have the name ``""``. There is one row per key and period."""


@dataclass(slots=True)
class BudgetState:
    """A budget's row in a batch, in the order of the table's columns. Mutable, like :class:`AccountState`.

    ``spent`` and ``held`` belong to the period that began at ``starts_at_ms``; ``limit`` is None for a run that is
    counted but not bounded. Amounts are microcredits.
    """

    id: int
    account_id: int
    kind: str
    name: str
    period: str
    limit: int | None
    spent: int
    held: int
    starts_at_ms: int
    status: str
    used_at_ms: int

    @property
    def key(self) -> BudgetKey:
        """What a batch finds it by, with those of the other periods."""
        return self.account_id, self.kind, self.name


class SetBudget(NamedTuple):
    """Make a budget, or give the one that is there another limit and open it. Answer: :class:`Budgeted`.

    ``budget_id`` is that of a new one; it begins with nothing spent or held. Never send it again once the budget was
    removed: holds remember the ids that they are counted under, and would count in the new one's place.
    """

    account_id: int
    external_id: str
    budget_id: int
    kind: BudgetKind
    name: str
    period: BudgetPeriod
    limit: int | None
    at_ms: int


class StartRun(NamedTuple):
    """Make a run's budget (without a limit: only its count) unless the run has one. Answer: :class:`Budgeted`."""

    account_id: int
    external_id: str
    budget_id: int
    run_id: str
    limit: int | None
    at_ms: int


class PauseRun(NamedTuple):
    """Refuse a run's further holds until it is resumed; those that are open go on. Answer: :class:`Budgeted`."""

    account_id: int
    run_id: str
    event_id: int
    at_ms: int


class RemoveBudget(NamedTuple):
    """Forget a budget; holds that are counted in it go on uncounted. Answer: :class:`Budgeted`.

    With ``unused_since_ms``, only if nothing is held and nothing was counted since then. Not ``changed``: it stands, or
    there was none.
    """

    account_id: int
    kind: BudgetKind
    name: str
    period: BudgetPeriod
    unused_since_ms: int | None = None


BudgetCommand: TypeAlias = SetBudget | StartRun | PauseRun | RemoveBudget
BUDGET_COMMANDS = (SetBudget, StartRun, PauseRun, RemoveBudget)


class Budgeted(NamedTuple):
    """A budget as the command left it, or had found it where that did not change it."""

    budget_id: int
    limit: int | None
    spent: int
    held: int
    status: str
    changed: bool
