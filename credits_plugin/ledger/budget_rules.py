"""The rules that make, change and remove budgets; budgets.py has those that count. Pure."""

from __future__ import annotations

from ..errors import InvalidValue, LedgerError, NotFound
from ..money import MAX_AMOUNT
from .book import Book
from .budget_entries import (
    Budgeted,
    BudgetKind,
    BudgetPeriod,
    BudgetState,
    BudgetStatus,
    PauseRun,
    RemoveBudget,
    SetBudget,
    StartRun,
)
from .budgets import add_budget, current, new_run, note_changed, period_start_ms, stop_run
from .entries import AccountState


def open_account(book: Book, account_id: int, external_id: str, *, at_ms: int) -> AccountState:
    """Return the account; one that was never seen before is opened with nothing in it.

    Raises:
        LedgerError: the key is another account's.
    """
    account = book.accounts.get(account_id)
    if account is None:
        account = book.accounts[account_id] = AccountState(account_id, external_id)
        book.lots[account_id] = []
        book.new_accounts[account_id] = at_ms
    require_same_name(account, external_id)
    return account


def require_same_name(account: AccountState, external_id: str) -> None:
    """Refuse a command for another account whose name led to the same key.

    Raises:
        LedgerError: it is another account's.
    """
    if account.external_id != external_id:
        msg = "two account names share one ledger key; rename the newer one"
        raise LedgerError(msg, account_id=external_id)


def set_budget(book: Book, command: SetBudget) -> Budgeted:
    """Make the budget, or change its limit; what was spent and is held stays."""
    account_id, external_id, budget_id, kind, name, period, limit, at_ms = command
    _require_sense(command)
    account = open_account(book, account_id, external_id, at_ms=at_ms)
    budget = _find(book, account_id, kind, name, period)
    if budget is None:
        starts_at_ms, status = period_start_ms(period, at_ms), str(BudgetStatus.OPEN)
        row = (budget_id, account_id, str(kind), name, str(period), limit, 0, 0, starts_at_ms, status, at_ms)
        add_budget(book, account, budget := BudgetState(*row))
        return _answer(budget, changed=True)
    current(book, budget, at_ms)
    budget.limit, budget.status = limit, str(BudgetStatus.OPEN)
    budget.used_at_ms = max(budget.used_at_ms, at_ms)
    note_changed(book, budget)
    return _answer(budget, changed=True)


def start_run(book: Book, command: StartRun) -> Budgeted:
    """Make the run's budget; one that is there is answered as it is."""
    account_id, external_id, budget_id, run_id, limit, at_ms = command
    _require_limit(limit)
    account = open_account(book, account_id, external_id, at_ms=at_ms)
    found = _find(book, account_id, BudgetKind.RUN, run_id, BudgetPeriod.NONE)
    if found is not None:
        return _answer(found, changed=False)
    add_budget(book, account, made := new_run(account_id, budget_id, run_id, limit=limit, at_ms=at_ms))
    return _answer(made, changed=True)


def pause_run(book: Book, command: PauseRun) -> Budgeted:
    """Pause the run, and tell the host once."""
    account_id, run_id, event_id, at_ms = command
    run = _find(book, account_id, BudgetKind.RUN, run_id, BudgetPeriod.NONE)
    if run is None:
        msg = f"the account has no run {run_id!r:.80} with a budget: start it before its first request"
        raise NotFound(msg)
    before = run.status
    stop_run(book, run, BudgetStatus.PAUSED, reason="request", event_id=event_id, at_ms=at_ms)
    return _answer(run, changed=run.status != before)


def remove_budget(book: Book, command: RemoveBudget) -> Budgeted:
    """Remove the budget if the command's conditions hold."""
    account_id, kind, name, period, unused_since_ms = command
    budget = _find(book, account_id, kind, name, period)
    if budget is None:
        return Budgeted(0, None, 0, 0, str(BudgetStatus.OPEN), changed=False)
    if unused_since_ms is not None and (budget.held or budget.used_at_ms >= unused_since_ms):
        return _answer(budget, changed=False)
    book.budgets[budget.key].remove(budget)
    del book.budgets_by_id[budget.id]
    book.changed_budgets.discard(budget.id)
    if book.new_budgets.pop(budget.id, None) is None:
        book.removed_budgets.append(budget.id)
    book.accounts[account_id].budgets -= 1
    book.moved_budgets.add(account_id)
    return _answer(budget, changed=True)


def _find(book: Book, account_id: int, kind: str, name: str, period: str) -> BudgetState | None:
    found = book.budgets.get((account_id, kind, name), ())
    return next((budget for budget in found if budget.period == period), None)


def _answer(budget: BudgetState, *, changed: bool) -> Budgeted:
    return Budgeted(budget.id, budget.limit, budget.spent, budget.held, budget.status, changed)


def _require_sense(command: SetBudget) -> None:
    _require_limit(command.limit)
    is_run = command.kind == BudgetKind.RUN
    if (command.kind == BudgetKind.ACCOUNT) != (not command.name):
        msg = "an account's own budget has no name, and every other kind needs one"
        raise InvalidValue(msg)
    if is_run and command.period != BudgetPeriod.NONE:
        msg = f"a run's budget has no period; got {command.period}"
        raise InvalidValue(msg)
    if command.limit is None and not is_run:
        msg = "a budget needs a limit; remove it where spending shall not be bounded"
        raise InvalidValue(msg)


def _require_limit(limit: object) -> None:
    if limit is not None and (type(limit) is not int or not 0 <= limit <= MAX_AMOUNT):
        msg = f"a budget's limit must be a whole number of microcredits from 0 to {MAX_AMOUNT}; got {limit!r:.40}"
        raise InvalidValue(msg)
