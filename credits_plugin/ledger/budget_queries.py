"""What budgets say, for pages and commands, as of a time: a new period has spent nothing, touched or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import peewee

from ..models import Account, Budget
from .budget_entries import BudgetKind, BudgetPeriod, BudgetStatus
from .budgets import period_end_ms, period_start_ms

_COLUMNS: Final = (
    Budget.kind,
    Budget.name,
    Budget.period,
    Budget.limit,
    Budget.spent,
    Budget.held,
    Budget.starts_at_ms,
    Budget.state,
    Budget.used_at_ms,
)
BUDGET_ORDER: Final = (Budget.kind, Budget.name, Budget.period)
"""The order of an account's budgets in their index: the account's own, keys, members, runs, each by name."""
BudgetPlace: TypeAlias = tuple[BudgetKind, str, BudgetPeriod]
"""A budget's place in that order."""


@dataclass(frozen=True, slots=True)
class BudgetView:
    """A budget in the period of the time that was asked for. Amounts are microcredits.

    ``limit`` is None for a run that is counted but not bounded. ``starts_at_ms`` is when its period began, or when a
    budget without one was made; ``ends_at_ms`` is None there. ``used_at_ms``: when something was counted in it last.
    """

    kind: BudgetKind
    name: str
    period: BudgetPeriod
    limit: int | None
    spent: int
    held: int
    starts_at_ms: int
    ends_at_ms: int | None
    status: BudgetStatus
    used_at_ms: int

    @property
    def place(self) -> BudgetPlace:
        """Where it stands among the account's budgets."""
        return self.kind, self.name, self.period

    @property
    def left(self) -> int | None:
        """What may still be held; negative where more was spent than the limit, None where there is none."""
        return None if self.limit is None else self.limit - self.spent - self.held


def budgets_of(database: peewee.Database, account_id: int, *, at_ms: int) -> list[BudgetView]:
    """Return the account's budgets but for those of its runs, by kind and name."""
    condition = (Budget.account_id == account_id) & (Budget.kind != BudgetKind.RUN)
    return _views(database, condition, BUDGET_ORDER, at_ms=at_ms)


def runs_of(
    database: peewee.Database, account_id: int, *, at_ms: int, limit: int = 50, before: int | None = None
) -> list[BudgetView]:
    """Return the account's runs, the last used first; ``before`` is the ``used_at_ms`` to go on after."""
    condition = (Budget.account_id == account_id) & (Budget.kind == BudgetKind.RUN)
    if before is not None:
        condition &= Budget.used_at_ms < before
    return _views(database, condition, (Budget.used_at_ms.desc(), Budget.id.desc()), at_ms=at_ms, limit=limit)


def find_run(database: peewee.Database, account_id: int, run_id: str, *, at_ms: int) -> BudgetView | None:
    """Return the run, or None if the account has none of that name."""
    return find_budget(database, account_id, (BudgetKind.RUN, run_id, BudgetPeriod.NONE), at_ms=at_ms)


def find_budget(database: peewee.Database, account_id: int, place: BudgetPlace, *, at_ms: int) -> BudgetView | None:
    """Return the budget, or None if the account has no such one."""
    kind, name, period = place
    named = (Budget.account_id == account_id) & (Budget.kind == kind) & (Budget.name == name)
    return next(iter(_views(database, named & (Budget.period == period), BUDGET_ORDER, at_ms=at_ms)), None)


def budgets_page(
    database: peewee.Database,
    account_id: int,
    *,
    at_ms: int,
    after: BudgetPlace | None = None,
    limit: int = 50,
) -> list[BudgetView]:
    """Return the account's budgets and runs in the order of their index, from the one following ``after``."""
    condition = Budget.account_id == account_id
    if after is not None:
        condition &= peewee.Tuple(*BUDGET_ORDER) > peewee.Tuple(*after)
    return _views(database, condition, BUDGET_ORDER, at_ms=at_ms, limit=limit)


def budgets_named(database: peewee.Database, account_id: int, name: str, *, at_ms: int) -> list[BudgetView]:
    """Return the account's member, key and run of exactly this name; with ``""``, its own budgets."""
    condition = (Budget.account_id == account_id) & Budget.kind.in_(list(BudgetKind)) & (Budget.name == name)
    return _views(database, condition, BUDGET_ORDER, at_ms=at_ms)


def budget_count(database: peewee.Database, account_id: int) -> int:
    """Return how many budgets and runs the account has, which its row knows."""
    rows = Account.select(Account.budgets).where(Account.id == account_id).tuples().execute(database)
    return sum(count for (count,) in rows)


def idle_runs(database: peewee.Database, *, unused_since_ms: int, limit: int) -> list[tuple[int, str]]:
    """Return (account id, run id) of runs that hold nothing and were not used since then."""
    condition = (Budget.kind == BudgetKind.RUN) & (Budget.used_at_ms < unused_since_ms) & (Budget.held == 0)
    query = Budget.select(Budget.account_id, Budget.name).where(condition).limit(limit)
    return list(query.tuples().execute(database))


def _views(
    database: peewee.Database, condition: Any, order: tuple[Any, ...], *, at_ms: int, limit: int | None = None
) -> list[BudgetView]:
    query = Budget.select(*_COLUMNS).where(condition).order_by(*order).limit(limit)
    return [_view(row, at_ms=at_ms) for row in query.tuples().execute(database)]


def _view(row: tuple[Any, ...], *, at_ms: int) -> BudgetView:
    kind, name, period, limit, spent, held, starts_at_ms, status, used_at_ms = row
    ends_at_ms = period_end_ms(period, starts_at_ms)
    if ends_at_ms is not None and ends_at_ms <= at_ms:
        starts_at_ms, spent, held = period_start_ms(period, at_ms), 0, 0
        ends_at_ms = period_end_ms(period, starts_at_ms)
    about = (BudgetKind(kind), name, BudgetPeriod(period))
    return BudgetView(*about, limit, spent, held, starts_at_ms, ends_at_ms, BudgetStatus(status), used_at_ms)
