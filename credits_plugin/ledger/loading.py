"""What a batch reads before it decides: one statement each for accounts, holds and lots, whatever its size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from .book import Book
from .budget_entries import BUDGET_COMMANDS, BudgetKey, BudgetKind, PauseRun, RemoveBudget, SetBudget, StartRun
from .budgets import counted_in, keys_of_hold
from .entries import Command, ExpireHold, ExtendHold, HoldState, HoldStatus, PlaceHold, ReleaseHold, SettleHold
from .ids import CLOCKS_DIFFER_MS, id_time_ms, now_ms
from .store import Store
from .work import Work

_ON_HOLDS: Final = (SettleHold, ReleaseHold, ExpireHold, ExtendHold)
_SETTLED: Final = int(HoldStatus.SETTLED)


def load_book(store: Store, commands: Sequence[Command | Work], book: Book, *, careful: bool) -> Book:
    """Read and lock what the commands decide on, but for what the book has and is still true; return the book.

    ``careful``: also look for the rows that they would write, after a commit of unknown outcome.
    """
    needs = Needs()
    book.forget_what_may_move()
    for command in commands:
        needs.add(command, careful=careful)
    missing, missing_holds = needs.accounts - book.accounts.keys(), needs.holds - book.holds.keys()
    if missing or missing_holds:
        accounts, holds = store.read(missing, missing_holds)
        book.accounts.update((account.id, account) for account in accounts)
        book.watched.update(one.id for one in accounts if one.next_expiry_at_ms is not None or one.budgets)
        _add_holds(book, holds)
    budgeted = _look_at_accounts(store, book, needs)
    if unknown := needs.requests - book.requests.keys():
        _add_holds(book, store.requests(unknown))
    if budgeted:
        _load_budgets(store, book, commands, needs.holds)
    _load_proofs(store, book, needs)
    return book


def _look_at_accounts(store: Store, book: Book, needs: Needs) -> bool:
    """Add the lots of the accounts whose lots change, or may: those with an expiry that is over.

    Returns whether any of the accounts has a budget.
    """
    now, accounts, lots, budgeted = now_ms(), book.accounts, needs.lots, False
    for account_id in needs.accounts & book.watched:
        account = accounts[account_id]
        if account.next_expiry_at_ms is not None and account.next_expiry_at_ms <= now:
            lots.add(account_id)
        budgeted = budgeted or account.budgets > 0
    if lots:
        book.lots = {account_id: [] for account_id in lots}
        for lot in store.lots(lots):
            book.lots[lot.account_id].append(lot)
    return budgeted


def _load_budgets(store: Store, book: Book, commands: Iterable[Command | Work], hold_ids: Iterable[int]) -> None:
    """Add the budgets that new holds may be counted in, those that open ones are, and those that are changed."""
    accounts, known = book.accounts, book.budgets
    asked = {key for command in commands for key in _budget_keys(command)} - known.keys()
    keys = {key for key in asked if key[0] in accounts and accounts[key[0]].budgets}
    holds = (book.holds.get(hold_id) for hold_id in hold_ids)
    ids = {identifier for hold in holds if hold is not None for identifier, _ in counted_in(hold.budgets)}
    ids -= book.budgets_by_id.keys()
    known.update((key, []) for key in keys)
    for found in store.budgets(keys, ids) if keys or ids else ():
        budget = book.budgets_by_id.setdefault(found.id, found)
        if budget.key in keys and budget not in known[budget.key]:
            known[budget.key].append(budget)


def _budget_keys(command: Command | Work) -> Iterable[BudgetKey]:
    match command:
        case PlaceHold():
            return keys_of_hold(command)
        case SetBudget() | RemoveBudget():
            return ((command.account_id, command.kind, command.name),)
        case StartRun() | PauseRun():
            return ((command.account_id, BudgetKind.RUN, command.run_id),)
        case _:
            return ()


@dataclass(slots=True)
class Needs:
    """The rows that a batch's commands decide on. ``transfers`` maps the ids that they would make to their accounts."""

    accounts: set[int] = field(default_factory=set)
    lots: set[int] = field(default_factory=set)
    holds: set[int] = field(default_factory=set)
    requests: set[tuple[int, str]] = field(default_factory=set)
    transfers: dict[int, int] = field(default_factory=dict)

    def add(self, command: Command | Work, *, careful: bool) -> None:
        """Add what one command needs.

        ``careful``: also the rows that it would write, after a commit of unknown outcome.
        """
        if isinstance(command, PlaceHold):
            self.accounts.add(command.account_id)
            if command.request_id is not None:
                self.requests.add((command.account_id, command.request_id))
            if careful:
                self.holds.add(command.hold_id)
        elif isinstance(command, _ON_HOLDS):
            self.accounts.add(command.account_id)
            self.holds.add(command.hold_id)
            if careful:
                self.transfers[command.hold_id] = command.account_id
        elif isinstance(command, Work):
            self.accounts.update(command.account_ids)
            self.lots.update(command.account_ids)
        elif isinstance(command, BUDGET_COMMANDS):
            self.accounts.add(command.account_id)
        else:
            self.accounts.add(command.account_id)
            self.lots.add(command.account_id)
            # Always: a repeated withdrawal must find that it stands, not that too little is left for it.
            self.transfers[command.transfer_id] = command.account_id


def load_for(store: Store, book: Book, command: Command) -> None:
    """Add what one command of a unit of work needs beyond the declared accounts and their lots."""
    needs = Needs()
    needs.add(command, careful=False)
    needs.transfers.clear()  # a unit of work makes new ids: its transfers are not there yet
    if missing := needs.holds - book.holds.keys():
        _add_holds(book, store.holds(missing))
    if needs.requests:
        _add_holds(book, store.requests(needs.requests))
    _load_budgets(store, book, [command], needs.holds)
    _load_proofs(store, book, needs)


def _add_holds(book: Book, found: Iterable[HoldState]) -> None:
    for hold in found:
        kept = book.holds.setdefault(hold.id, hold)
        if kept.request_id is not None:
            book.requests[kept.account_id, kept.request_id] = kept.id


def _load_proofs(store: Store, book: Book, needs: Needs) -> None:
    """Look for the transfers of the holds that have ended, and for those that were asked for."""
    holds = book.holds
    gone = {hold_id for hold_id in needs.holds if hold_id not in holds or holds[hold_id].status == _SETTLED}
    gone |= needs.transfers.keys()
    if gone:
        book.settled.update({row[0]: (row[1], row[2]) for row in store.transfers(gone)})
    new = {transfer_id: owner for transfer_id, owner in needs.transfers.items() if transfer_id not in book.settled}
    if new:
        _load_archived(store, book, new)


def _load_archived(store: Store, book: Book, new: Mapping[int, int]) -> None:
    """Note which ids that stand nowhere may be those of archived transfers: nobody can tell whether they were made."""
    anchors = dict(store.anchors(set(new.values())))
    for transfer_id, owner in new.items():
        if owner in anchors and id_time_ms(transfer_id) <= id_time_ms(anchors[owner]) + CLOCKS_DIFFER_MS:
            book.archived.add(transfer_id)
