"""``credits reconcile``: our books against Stripe's own lists."""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from typing import Any

from ..ledger.ids import now_ms
from ..payments.reconcile import reconcile
from ..payments.reconciliation import REPAIR_TEXTS
from ..payments.reports import Report, Result, as_json
from .access import with_shop
from .options import add_database


def add_parser(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser("reconcile", help="compare payments with Stripe's lists; --apply mends what is safe")
    command.add_argument("--full", action="store_true", help="everything, not only what is new since the last run")
    command.add_argument("--apply", action="store_true", help="do the repairs; without it nothing is written")
    command.add_argument("--json", action="store_true", help="print the report as JSON")
    command.set_defaults(run=_run)
    add_database(command)


def _run(options: argparse.Namespace) -> int:
    """Return 0 where nothing is left to mend, 1 where something is; errors end as 2."""
    report = with_shop(options, lambda shop: reconcile(shop, at_ms=now_ms(), full=options.full, apply=options.apply))
    if options.json:
        print(json.dumps(as_json(report), indent=2, ensure_ascii=False))
    else:
        _print(report)
    return 1 if report.left else 0


def _print(report: Report) -> None:
    since = "everything" if report.from_ms is None else f"since {_time(report.from_ms)}"
    counts = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in report.compared.items())
    print(f"{since}: {counts}")
    for result in report.results:
        print(_line(result))
    if report.left and not report.applied:
        safe = sum(result.finding.is_safe for result in report.left)
        print(f"{len(report.left)} differences; nothing was changed; --apply mends {safe} of them")
    else:
        print(f"{report.repaired} mended, {len(report.left)} left")


def _line(result: Result) -> str:
    finding = result.finding
    payment = f", payment {finding.payment_id}" if finding.payment_id is not None else ""
    end = "mended" if result.repaired else REPAIR_TEXTS[finding.repair]
    note = f" ({result.note})" if result.note else ""
    return f"{finding.kind}  {finding.subject}{payment}: {finding.cause} -> {end}{note}"


def _time(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
