"""``credits budgets`` and ``credits runs``: what accounts, members, keys and agent runs may spend."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from ..bootstrap import Credits
from ..ledger.budget_actions import Operator
from ..ledger.budget_entries import BudgetKind, BudgetPeriod
from ..ledger.budget_queries import BudgetView, budgets_of, find_run, runs_of
from ..ledger.ids import account_key, now_ms
from ..money import format_credits, parse_credits
from .access import read, with_service
from .options import add_database, login_name


def add_parser(commands: Any) -> None:
    """Add both commands and their parts."""
    budgets = commands.add_parser("budgets", help="what an account, its members and keys may spend: list, set, remove")
    parts = budgets.add_subparsers(required=True, metavar="PART")
    _add_part(parts, "list", _list_budgets, "the account's budgets, one a line")
    setting = _add_part(parts, "set", _set, "set a limit; what was spent already stays")
    setting.add_argument("--limit", required=True, help="credits per period, like 1,000 or 0.5")
    removal = _add_part(parts, "remove", _remove, "bound it no longer, and forget what was spent")
    for part in (setting, removal):
        part.add_argument("--per", type=BudgetPeriod, choices=list(BudgetPeriod), default=BudgetPeriod.MONTH)
        whose = part.add_mutually_exclusive_group()
        whose.add_argument("--member", help="this person's, by the host's name; default the whole account's")
        whose.add_argument("--key", help="this API key's, by the host's name")
        _add_reason(part)

    runs = commands.add_parser("runs", help="agent runs and their budgets: list, show, pause, resume")
    parts = runs.add_subparsers(required=True, metavar="PART")
    listing = _add_part(parts, "list", _list_runs, "the account's runs, the last used first")
    listing.add_argument("--limit", type=int, default=50, help="how many (default 50)")
    show = _add_part(parts, "show", _show, "what the run has spent, holds and may still spend")
    pause = _add_part(parts, "pause", _pause, "refuse its further requests; those that run go on")
    resume = _add_part(parts, "resume", _resume, "let it go on, with more to spend")
    resume.add_argument("--add", type=int, default=0, help="whole credits to add to its budget (default 0)")
    for part in (show, pause, resume):
        part.add_argument("run_id", help="the host's run id")
    for part in (pause, resume):
        _add_reason(part)


def _add_part(parts: Any, name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
    part: argparse.ArgumentParser = parts.add_parser(name, help=text)
    part.add_argument("account", help="the host's own name for the payer")
    add_database(part)
    part.set_defaults(run=run)
    return part


def _add_reason(part: argparse.ArgumentParser) -> None:
    part.add_argument("--reason", default="", help="why, for the record")


def _list_budgets(options: argparse.Namespace) -> int:
    key, now = account_key(options.account), now_ms()
    return _print(read(options, lambda database: budgets_of(database, key, at_ms=now)))


def _list_runs(options: argparse.Namespace) -> int:
    key, now = account_key(options.account), now_ms()
    return _print(read(options, lambda database: runs_of(database, key, at_ms=now, limit=options.limit)))


def _print(budgets: Sequence[BudgetView]) -> int:
    for budget in budgets:
        print("  ".join(_line(budget)))
    return 0


def _line(budget: BudgetView) -> Iterator[str]:
    if budget.kind is BudgetKind.RUN:
        yield f"{_time(budget.used_at_ms)}  {budget.name}  {budget.status}"
    else:
        yield f"{budget.kind} {budget.name}".strip()
        yield f"per {budget.period}" if budget.ends_at_ms else "in all"
    yield f"spent {format_credits(budget.spent)} of {_limit(budget)}"
    if budget.held:
        yield f"holds {format_credits(budget.held)}"
    if budget.ends_at_ms:
        yield f"until {_time(budget.ends_at_ms)}"


def _limit(budget: BudgetView) -> str:
    return "no limit" if budget.limit is None else format_credits(budget.limit)


def _set(options: argparse.Namespace) -> int:
    kind, name = _whose(options)
    limit = parse_credits(options.limit)

    async def change(service: Credits) -> list[BudgetView]:
        await service.budgets.set_limit(
            options.account, limit, kind=kind, period=options.per, name=name, by=_operator(service, options)
        )
        return await service.budgets.of_account(options.account)

    budgets = with_service(options, change)
    return _print([one for one in budgets if (one.kind, one.name, one.period) == (kind, name, options.per)])


def _remove(options: argparse.Namespace) -> int:
    kind, name = _whose(options)

    async def change(service: Credits) -> None:
        by = _operator(service, options)
        await service.budgets.remove(options.account, kind=kind, period=options.per, name=name, by=by)

    with_service(options, change)
    print("removed")
    return 0


def _whose(options: argparse.Namespace) -> tuple[BudgetKind, str]:
    for kind, name in ((BudgetKind.MEMBER, options.member), (BudgetKind.KEY, options.key)):
        if name is not None:
            return kind, name
    return BudgetKind.ACCOUNT, ""


def _show(options: argparse.Namespace) -> int:
    key, now = account_key(options.account), now_ms()
    run = read(options, lambda database: find_run(database, key, options.run_id, at_ms=now))
    if run is None:
        print(f"account {options.account} has no run {options.run_id} with a budget")
        return 1
    left = "no limit" if run.left is None else format_credits(run.left)
    print(f"status: {run.status}\nbudget: {_limit(run)}\nspent: {format_credits(run.spent)}")
    print(f"held: {format_credits(run.held)}\nleft: {left}")
    print(f"started: {_time(run.starts_at_ms)}\nlast used: {_time(run.used_at_ms)}")
    return 0


def _pause(options: argparse.Namespace) -> int:
    return _change_run(
        options,
        lambda service: service.budgets.pause_run(options.account, options.run_id, by=_operator(service, options)),
    )


def _resume(options: argparse.Namespace) -> int:
    return _change_run(
        options,
        lambda service: service.budgets.resume_run(
            options.account, options.run_id, options.add, by=_operator(service, options)
        ),
    )


def _change_run(options: argparse.Namespace, change: Callable[[Credits], Awaitable[BudgetView]]) -> int:
    return _print([with_service(options, change)])


def _operator(service: Credits, options: argparse.Namespace) -> Operator:
    return Operator(f"cli:{login_name()}", service.new_id(), options.reason)


def _time(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms // 1_000, UTC).strftime("%Y-%m-%d %H:%M")
