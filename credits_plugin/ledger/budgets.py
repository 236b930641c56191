"""The rules of budgets: which ones a hold is counted in, what they have left, and when they begin anew. Pure.

A hold remembers in which budgets it is counted, and in which period of each: ``id@start id@start``. Whatever has become
of a budget since then, no other one is moved when the hold ends.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import lru_cache
from operator import attrgetter
from typing import Final, NoReturn

from ..errors import BudgetExceeded
from ..money import MAX_AMOUNT, format_credits
from .book import Book
from .budget_entries import BudgetKey, BudgetKind, BudgetPeriod, BudgetState, BudgetStatus
from .entries import AccountState, ExtendHold, HoldState, HoldStatus, PlaceHold
from .ids import id_at

_DAY_MS: Final = 86_400_000
_NO_LIMIT: Final = 2 * MAX_AMOUNT
_PER: Final = {BudgetPeriod.DAY: " a day", BudgetPeriod.MONTH: " a month", BudgetPeriod.NONE: " in all"}


def period_start_ms(period: str, at_ms: int) -> int:
    """Return when the UTC day or month of ``at_ms`` began; a budget without a period begins when it is made."""
    if period == BudgetPeriod.NONE:
        return at_ms
    day = at_ms // _DAY_MS
    return day * _DAY_MS if period == BudgetPeriod.DAY else _month_of(day)[0]


def period_end_ms(period: str, starts_at_ms: int) -> int | None:
    """Return when the period that began at ``starts_at_ms`` is over, or None if it never is."""
    if period == BudgetPeriod.NONE:
        return None
    return starts_at_ms + _DAY_MS if period == BudgetPeriod.DAY else _month_of(starts_at_ms // _DAY_MS)[1]


@lru_cache(maxsize=64)
def _month_of(day: int) -> tuple[int, int]:
    first = datetime.fromtimestamp(day * _DAY_MS // 1_000, UTC).replace(day=1)
    following = first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1)
    return int(first.timestamp()) * 1_000, int(following.timestamp()) * 1_000


def keys_of_hold(command: PlaceHold) -> Iterator[BudgetKey]:
    """Yield the keys of all budgets that the hold may be counted in."""
    account_id = command.account_id
    yield account_id, BudgetKind.ACCOUNT, ""
    if command.member_id is not None:
        yield account_id, BudgetKind.MEMBER, command.member_id
    if command.key_id is not None:
        yield account_id, BudgetKind.KEY, command.key_id
    if command.run_id is not None:
        yield account_id, BudgetKind.RUN, command.run_id


def counted_in(budgets: str | None) -> list[tuple[int, int]]:
    """Return (budget id, start of its period) of each budget that a hold is counted in, from what it remembers."""
    return [_parse(entry) for entry in budgets.split()] if budgets is not None else []


def _parse(entry: str) -> tuple[int, int]:
    identifier, _, starts_at_ms = entry.partition("@")
    return int(identifier), int(starts_at_ms)


def _remember(budgets: Iterable[BudgetState]) -> str | None:
    return " ".join([f"{budget.id}@{budget.starts_at_ms}" for budget in budgets]) or None


def current(book: Book, budget: BudgetState, at_ms: int) -> BudgetState:
    """Return the budget in the period of ``at_ms``; one that has begun already is never left again."""
    ends_at_ms = period_end_ms(budget.period, budget.starts_at_ms)
    if ends_at_ms is not None and ends_at_ms <= at_ms:
        budget.starts_at_ms, budget.spent, budget.held = period_start_ms(budget.period, at_ms), 0, 0
        note_changed(book, budget)
    return budget


def left_of(budget: BudgetState) -> int:
    """Return what may still be held in its period; negative where more was spent than its limit."""
    return _NO_LIMIT if budget.limit is None else budget.limit - budget.spent - budget.held


def add_budget(book: Book, account: AccountState, budget: BudgetState) -> None:
    """Enter a new budget, and on its account that there is one more to look at."""
    book.budgets.setdefault(budget.key, []).append(budget)
    book.budgets_by_id[budget.id] = book.new_budgets[budget.id] = budget
    account.budgets += 1
    book.watched.add(account.id)
    book.moved_budgets.add(account.id)


def note_changed(book: Book, budget: BudgetState) -> None:
    """See that the budget is written."""
    book.changed_budgets.add(budget.id)


def new_run(account_id: int, budget_id: int, run_id: str, *, limit: int | None, at_ms: int) -> BudgetState:
    """Return a run's budget, not entered yet."""
    kind, period, status = str(BudgetKind.RUN), str(BudgetPeriod.NONE), str(BudgetStatus.OPEN)
    return BudgetState(budget_id, account_id, kind, run_id, period, limit, 0, 0, at_ms, status, at_ms)


def hold_within_budgets(
    book: Book, account: AccountState, command: PlaceHold, *, amount: int, least: int
) -> tuple[int, str | None]:
    """Count a new hold in every budget that it concerns, for what all of them have left of ``amount``.

    A run without a budget gets that of the settings here, with its first hold. Returns the amount, and what the hold
    remembers.

    Raises:
        BudgetExceeded: a budget has less left than ``least``, or the run is paused.
    """
    at_ms, run_id = command.at_ms, command.run_id
    rows = [row for key in keys_of_hold(command) for row in book.budgets.get(key, ())]
    rows.sort(key=attrgetter("id"))  # a database returns changed rows in another order
    budgets = [current(book, row, at_ms) for row in rows]
    run = next((one for one in budgets if one.kind == BudgetKind.RUN), None)
    if run is None and run_id is not None and book.run_budget:
        run = new_run(account.id, command.hold_id, run_id, limit=book.run_budget, at_ms=at_ms)
        budgets.append(run)
    if not budgets:
        return amount, None
    tightest = min(budgets, key=left_of)
    left = left_of(tightest)
    if left < least or (run is not None and run.status == BudgetStatus.PAUSED):
        refusing = tightest if left < least or run is None else run
        _refuse(book, account, command, refusing=refusing, run=run, needed=least, left=left)
    amount = min(amount, left)
    for budget in budgets:
        budget.held += amount
        _use(book, budget, at_ms)
    if run is not None:
        run.status = str(BudgetStatus.OPEN)
        if run.id not in book.budgets_by_id:
            add_budget(book, account, run)
    return amount, _remember(budgets)


def _use(book: Book, budget: BudgetState, at_ms: int) -> None:
    budget.used_at_ms = max(budget.used_at_ms, at_ms)
    note_changed(book, budget)


def end_in_budgets(book: Book, hold: HoldState, *, at_ms: int, spent: int) -> None:
    """Move what the hold cost out of what is held, wherever it is still counted.

    A hold that had expired is not held any more; what it cost in the end is spent all the same.
    """
    held = hold.amount if hold.status == HoldStatus.PLACED else 0
    for budget_id, starts_at_ms in counted_in(hold.budgets):
        budget = book.budgets_by_id.get(budget_id)
        if budget is not None and budget.starts_at_ms == starts_at_ms:
            budget.held -= held
            budget.spent = min(budget.spent + spent, MAX_AMOUNT)
            _use(book, budget, at_ms)


class Extension:
    """An open hold's way to a larger amount, in the budgets that it is counted in and are still there.

    A budget that has begun anew meanwhile counts the whole hold, once it is raised: a request that outgrows its hold
    after midnight is the new day's.
    """

    def __init__(self, book: Book, hold: HoldState, *, at_ms: int) -> None:
        self._book = book
        self._hold = hold
        self._at_ms = at_ms
        found = ((book.budgets_by_id.get(identifier), start) for identifier, start in counted_in(hold.budgets))
        self._parts = [
            (budget, hold.amount if current(book, budget, at_ms).starts_at_ms == start else 0)
            for budget, start in found
            if budget is not None
        ]

    @property
    def most(self) -> int:
        """What the hold can be raised to in total."""
        return min((left_of(budget) + counted for budget, counted in self._parts), default=_NO_LIMIT)

    def refuse(self, account: AccountState, command: ExtendHold, *, least: int) -> NoReturn:
        """Raise the refusal of the tightest budget.

        Raises:
            BudgetExceeded: always.
        """
        tightest, counted = min(self._parts, key=lambda part: left_of(part[0]) + part[1])
        run = next((budget for budget, _ in self._parts if budget.kind == BudgetKind.RUN), None)
        needed, left = least - counted, left_of(tightest)
        _refuse(self._book, account, command, refusing=tightest, run=run, needed=needed, left=left)

    def count(self, amount: int) -> str | None:
        """Count the hold anew, for ``amount`` in total; return what it remembers."""
        for budget, counted in self._parts:
            budget.held += amount - counted
            _use(self._book, budget, self._at_ms)
        return _remember(budget for budget, _ in self._parts)


def let_run_wait(book: Book, account: AccountState, run_id: str, *, cause_id: int, at_ms: int) -> None:
    """Note on a run that its account has too few credits for it."""
    for run in book.budgets.get((account.id, BudgetKind.RUN, run_id), ()):
        stop_run(book, run, BudgetStatus.WAITING, reason="credits", event_id=id_at(cause_id, at_ms), at_ms=at_ms)


def stop_run(book: Book, run: BudgetState, status: BudgetStatus, *, reason: str, event_id: int, at_ms: int) -> None:
    """Pause a run or let it wait, and tell the host, once."""
    if run.status in {status, BudgetStatus.PAUSED}:
        return
    run.status = str(status)
    note_changed(book, run)
    told = {"run_id": run.name, "status": run.status, "reason": reason, "limit_microcredits": run.limit}
    told |= {"spent_microcredits": run.spent, "held_microcredits": run.held}
    book.new_events.append((event_id, run.account_id, "run_paused", json.dumps(told), at_ms))


def _refuse(
    book: Book,
    account: AccountState,
    command: PlaceHold | ExtendHold,
    *,
    refusing: BudgetState,
    run: BudgetState | None,
    needed: int,
    left: int,
) -> NoReturn:
    paused = run is refusing and run.status == BudgetStatus.PAUSED and needed <= left
    if run is not None:
        own = run is refusing or left_of(run) < needed
        if own and run.id not in book.budgets_by_id:
            add_budget(book, account, run)
        if run.id in book.budgets_by_id:
            status, reason = (BudgetStatus.PAUSED, "budget") if own else (BudgetStatus.WAITING, "cap")
            event_id = id_at(command.hold_id, command.at_ms)
            stop_run(book, run, status, reason=reason, event_id=event_id, at_ms=command.at_ms)
    raise BudgetExceeded(
        _why(refusing, needed=needed, left=left, paused=paused),
        needed=needed,
        available=0 if paused else left,
        account_id=account.external_id,
        kind=refusing.kind,
        name=refusing.name,
        period=refusing.period,
        limit=refusing.limit,
        period_ends_at_ms=period_end_ms(refusing.period, refusing.starts_at_ms),
        paused=paused,
    )


def _why(budget: BudgetState, *, needed: int, left: int, paused: bool) -> str:
    whose = "this account" if budget.kind == BudgetKind.ACCOUNT else f"{budget.kind} {budget.name!r:.80}"
    if paused:
        return f"{whose} is paused; it goes on once it is resumed"
    ends_at_ms = period_end_ms(budget.period, budget.starts_at_ms)
    until = f" until {datetime.fromtimestamp(ends_at_ms // 1_000, UTC):%Y-%m-%d %H:%M} UTC" if ends_at_ms else ""
    limit = f"{format_credits(budget.limit or 0)} credits{_PER[BudgetPeriod(budget.period)]}"
    have = f"{format_credits(max(left, 0))} are left{until}"
    return f"{whose} may spend {limit}; {have}, and this needs {format_credits(needed)}"
