"""The working set of a batch: rows that were read, and rows to write. Values only; rules.py changes them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, TypeAlias

from hookspecs import Usage

from .budget_entries import BudgetKey, BudgetState
from .entries import AccountState, HoldState, LotState, TransferValues
from .usage_columns import split_usage

_MOST_KEPT: Final = 20_000
EventRow: TypeAlias = tuple[int, int, str, str, int]
"""An event to deliver after the commit: id, account id, kind, JSON, when it is due."""


@dataclass(slots=True)
class Book:
    """What batches have read, and what the current one has to write.

    ``changed_holders`` are the accounts of which what is held has changed, and perhaps nothing else; ``moved_budgets``
    those of which the number of budgets has.
    ``watched`` are the accounts that may have an expiry ahead or budgets: a batch looks at these, not at the others.
    ``budgets`` has what is known under each key, also that there is nothing; accounts without budgets need no key.
    ``run_budget`` is the limit, in microcredits, that a run without one gets with its first hold; 0 gives none.
    ``settled`` maps looked-up ids of transfers that stand already to (account id, amount), ``archived`` has those that
    may be archived. ``lots`` holds the lots with credits left of every account that a command may need them for.
    """

    accounts: dict[int, AccountState] = field(default_factory=dict)
    holds: dict[int, HoldState] = field(default_factory=dict)
    requests: dict[tuple[int, str], int] = field(default_factory=dict)
    settled: dict[int, tuple[int, int]] = field(default_factory=dict)
    archived: set[int] = field(default_factory=set)
    lots: dict[int, list[LotState]] = field(default_factory=dict)
    new_accounts: dict[int, int] = field(default_factory=dict)
    changed_accounts: set[int] = field(default_factory=set)
    changed_holders: set[int] = field(default_factory=set)
    moved_expiries: set[int] = field(default_factory=set)
    new_holds: dict[int, HoldState] = field(default_factory=dict)
    extended_holds: dict[int, HoldState] = field(default_factory=dict)
    ended_holds: dict[int, HoldState] = field(default_factory=dict)
    deleted_holds: list[int] = field(default_factory=list)
    new_transfers: list[TransferValues] = field(default_factory=list)
    new_details: list[tuple[int, int, str]] = field(default_factory=list)
    new_lots: dict[int, LotState] = field(default_factory=dict)
    changed_lots: dict[int, LotState] = field(default_factory=dict)
    watched: set[int] = field(default_factory=set)
    run_budget: int = 0
    budgets: dict[BudgetKey, list[BudgetState]] = field(default_factory=dict)
    budgets_by_id: dict[int, BudgetState] = field(default_factory=dict)
    new_budgets: dict[int, BudgetState] = field(default_factory=dict)
    changed_budgets: set[int] = field(default_factory=set)
    removed_budgets: list[int] = field(default_factory=list)
    moved_budgets: set[int] = field(default_factory=set)
    new_events: list[EventRow] = field(default_factory=list)

    def note_detail(self, account_id: int, transfer_id: int, usage: Usage) -> Usage:
        """Return a usage as a transfer's columns have it, and note what they do not tell, if there is anything."""
        plain, detail = split_usage(usage)
        if detail is not None:
            self.new_details.append((transfer_id, account_id, detail))
        return plain

    def forget_what_may_move(self) -> None:
        """Keep accounts, holds and budgets for the next batch: all that its commands touch day in, day out."""
        self.settled.clear()
        self.archived.clear()
        self.lots.clear()

    @property
    def is_small(self) -> bool:
        """Whether it may be kept in memory: some 20 MB at the most."""
        return max(len(self.accounts), len(self.holds), len(self.budgets), len(self.budgets_by_id)) <= _MOST_KEPT

    def clear_writes(self) -> None:
        """Forget what had to be written, because it has been."""
        self.new_accounts.clear()
        self.changed_accounts.clear()
        self.changed_holders.clear()
        self.moved_expiries.clear()
        self.new_holds.clear()
        self.extended_holds.clear()
        self.ended_holds.clear()
        self.deleted_holds.clear()
        self.new_transfers.clear()
        self.new_details.clear()
        self.new_lots.clear()
        self.changed_lots.clear()
        self.new_budgets.clear()
        self.changed_budgets.clear()
        self.removed_budgets.clear()
        self.moved_budgets.clear()
        self.new_events.clear()
