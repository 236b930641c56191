"""Budgets of accounts, members, keys and agent runs, as a host and the command line set and read them.

The ledger checks them with each hold; see docs/budgets.md. Names come from the host: they are those that its requests
carry as ``member_id``, ``key_id`` and ``run_id``. What a person changes by hand leaves a row in ``admin_action``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from .database import Reads
from .errors import InvalidValue, NotFound
from .ledger.budget_actions import BudgetAction, BudgetChange, Operator, change_by_hand
from .ledger.budget_entries import (
    BudgetCommand,
    BudgetKind,
    BudgetPeriod,
    PauseRun,
    RemoveBudget,
    SetBudget,
    StartRun,
)
from .ledger.budget_queries import BudgetView, budgets_of, find_run, runs_of
from .ledger.ids import IdMaker, account_key, now_ms, require_name
from .ledger.writer import LedgerWriter
from .money import MAX_AMOUNT, MICROCREDITS_PER_CREDIT, credits_to_microcredits


@dataclass(frozen=True, slots=True)
class Budgets:
    """Sets, removes and reads budgets. Amounts named ``credits`` are whole credits, others microcredits.

    ``by`` names the person for whom a change is made: then it is written down in the same transaction, and repeating
    it with the same :class:`Operator` changes nothing more. A host's own program names nobody.
    """

    writer: LedgerWriter
    reads: Reads
    new_id: IdMaker

    async def set_limit(
        self,
        account_id: str,
        limit_microcredits: int,
        *,
        kind: BudgetKind,
        period: BudgetPeriod,
        name: str = "",
        by: Operator | None = None,
    ) -> None:
        """Bound what the account (``name`` is empty), a member or a key may spend; a new budget has spent nothing.

        Raises:
            InvalidValue: the limit is negative or too large, or the name is missing, too long or unprintable.
        """
        if kind is BudgetKind.RUN:
            msg = "a run has a budget of its own making: start it or resume it with more"
            raise InvalidValue(msg)
        if kind is not BudgetKind.ACCOUNT:
            require_name(name, f"a {kind}'s name")
        key, now = account_key(account_id), now_ms()
        command = SetBudget(key, account_id, self.new_id(), kind, name, period, limit_microcredits, now)
        await self._execute(command, BudgetChange(BudgetAction.SET, key, (kind, name, period)), by)

    async def remove(
        self,
        account_id: str,
        *,
        kind: BudgetKind,
        period: BudgetPeriod,
        name: str = "",
        by: Operator | None = None,
    ) -> None:
        """Bound this spending no longer, and forget what was spent.

        Raises:
            NotFound: there is no such budget.
        """
        key = account_key(account_id)
        command = RemoveBudget(key, kind, name, period)
        if not await self._execute(command, BudgetChange(BudgetAction.REMOVE, key, (kind, name, period)), by):
            msg = f"account {account_id!r:.80} has no such budget: {kind} {name!r:.80} per {period}"
            raise NotFound(msg)

    async def of_account(self, account_id: str) -> list[BudgetView]:
        """Return the account's budgets but for those of its runs."""
        key, now = account_key(account_id), now_ms()
        return await self.reads.run(lambda database: budgets_of(database, key, at_ms=now))

    async def runs(self, account_id: str, *, limit: int = 50, before: int | None = None) -> list[BudgetView]:
        """Return the account's runs, the last used first; ``before`` is a ``used_at_ms`` to go on after."""
        key, now = account_key(account_id), now_ms()
        return await self.reads.run(lambda database: runs_of(database, key, at_ms=now, limit=limit, before=before))

    async def start_run(self, account_id: str, run_id: str, budget_credits: int | None = None) -> BudgetView:
        """Give a run its budget before its first request; without one it is counted but not bounded.

        A run that has one keeps it: hosts that start the same run at once share one row.

        Raises:
            InvalidValue: the budget is negative or too large, or the run's name cannot be one.
        """
        require_name(run_id, "a run's id")
        limit = None if budget_credits is None else _microcredits(budget_credits)
        key, now = account_key(account_id), now_ms()
        await self.writer.execute(StartRun(key, account_id, self.new_id(), run_id, limit, now))
        return await self.run_report(account_id, run_id)

    async def run_report(self, account_id: str, run_id: str) -> BudgetView:
        """Return what the run has spent, holds and may still spend, and whether it is paused.

        Raises:
            NotFound: the account has no run of that name with a budget.
        """
        require_name(run_id, "a run's id")
        key, now = account_key(account_id), now_ms()
        return _require_run(
            await self.reads.run(lambda database: find_run(database, key, run_id, at_ms=now)), account_id, run_id
        )

    async def pause_run(self, account_id: str, run_id: str, *, by: Operator | None = None) -> BudgetView:
        """Refuse the run's further requests until it is resumed; those that were admitted go on to their end.

        Raises:
            NotFound: the account has no run of that name with a budget.
        """
        require_name(run_id, "a run's id")
        key = account_key(account_id)
        change = BudgetChange(BudgetAction.PAUSE, key, (BudgetKind.RUN, run_id, BudgetPeriod.NONE))
        await self._execute(PauseRun(key, run_id, self.new_id(), now_ms()), change, by)
        return await self.run_report(account_id, run_id)

    async def resume_run(
        self, account_id: str, run_id: str, add_credits: int = 0, *, by: Operator | None = None
    ) -> BudgetView:
        """Open a paused run again, with ``add_credits`` more to spend in all.

        The ledger is told the sum, not the difference, so that a repeated command adds nothing twice; of two hosts that
        resume a run at the same moment, one adds. What is added by hand is added to the limit of that moment.

        Raises:
            NotFound: the account has no run of that name with a budget.
            InvalidValue: the addition is negative, or the sum too large.
        """
        require_name(run_id, "a run's id")
        added = _microcredits(add_credits)
        key, budget_id, now = account_key(account_id), self.new_id(), now_ms()

        def command_for(found: BudgetView | None) -> SetBudget:
            run = _require_run(found, account_id, run_id)
            limit = None if run.limit is None else run.limit + added
            return SetBudget(key, account_id, budget_id, BudgetKind.RUN, run_id, BudgetPeriod.NONE, limit, now)

        if by is None:
            await self.writer.execute(command_for(await self.run_report(account_id, run_id)))
        else:
            change = BudgetChange(BudgetAction.RESUME, key, (BudgetKind.RUN, run_id, BudgetPeriod.NONE))
            await self.writer.work([key], partial(change_by_hand, change=change, by=by, command_for=command_for))
        return await self.run_report(account_id, run_id)

    async def _execute(self, command: BudgetCommand, change: BudgetChange, by: Operator | None) -> bool:
        """Run the command, and say whether it changed anything."""
        if by is None:
            return (await self.writer.execute(command)).changed
        noted = partial(change_by_hand, change=change, by=by, command_for=lambda _: command)
        return await self.writer.work([command.account_id], noted)


def _require_run(found: BudgetView | None, account_id: str, run_id: str) -> BudgetView:
    if found is None:
        msg = f"account {account_id!r:.80} has no run {run_id!r:.80}: none with a budget, or it was purged"
        raise NotFound(msg)
    return found


def _microcredits(credits: int) -> int:
    if type(credits) is not int or not 0 <= credits <= MAX_AMOUNT // MICROCREDITS_PER_CREDIT:
        msg = f"a budget must be a whole number of credits, 0 or more; got {credits!r:.40}"
        raise InvalidValue(msg)
    return credits_to_microcredits(credits)
